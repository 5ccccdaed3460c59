"""The ids of the v2 API: ``nb:``, what it is, and a UUID."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from airflow_ams.api.errors import MalformedIdError
from airflow_ams.api.model import without_signatures

EXAMPLE_ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"

_GUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID = re.compile(rf"nb:(jid|cid|mpid):uuid:({_GUID})", re.IGNORECASE)


def known_id(text: Any, kind: str, field: str) -> str:
    """Return an id as the service writes it; one pasted from a URL or in other case is understood.

    :param kind: ``jid`` (a job), ``cid`` (an asset) or ``mpid`` (a media processor)
    :param field: where it was given, for messages
    :raises MalformedIdError: it is none of that kind
    """
    found = _ID.fullmatch(unquote(text).strip()) if isinstance(text, str) else None
    if found is None or found[1].lower() != kind:
        example = f"nb:{kind}:UUID:{EXAMPLE_ID.rpartition(':')[2]}"
        shown = without_signatures(str(text))[:200]
        raise MalformedIdError(
            f"{field} {shown!r} is no v2 id; one looks like {example}{_other_api(text, kind)}"
        )
    return f"nb:{kind}:UUID:{found[2].lower()}"


def is_id(text: str) -> bool:
    """Whether a text is an id of any kind."""
    return _ID.fullmatch(text) is not None


def known_case(job_id: Any) -> str:
    """Write an id of the service's as `known_id` does; of thousands in a sweep, none is checked."""
    return f"nb:jid:UUID:{str(job_id)[12:].lower()}"


def _other_api(text: Any, kind: str) -> str:
    is_path = kind == "jid" and re.fullmatch(r"(.*/)?[\w.-]+/[\w.-]+", str(text)) is not None
    return ". If the job is on another API, say so in the connection's extra.api" if is_path else ""
