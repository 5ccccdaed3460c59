"""Identifiers of the form ``nb:jid:UUID:…``, as the media service hands them out."""

from __future__ import annotations

import re
import uuid

from airflow_ams.emulator.errors import InvalidRequest

_SHAPE = re.compile(
    r"nb:(?P<kind>[a-z]+):UUID:(?P<guid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE
)


def new_id(kind: str) -> str:
    """Return a fresh identifier; *kind* is for instance ``jid`` for a job."""
    return make_id(kind, uuid.uuid4())


def make_id(kind: str, guid: uuid.UUID) -> str:
    """Return the identifier of *kind* for *guid*."""
    return f"nb:{kind}:UUID:{guid}"


def canonical_id(text: str, kind: str) -> str:
    """Return *text* as the service writes it.

    :raises InvalidRequest: *text* is no identifier of *kind*.
    """
    match = _SHAPE.fullmatch(text)
    if match is None or match["kind"].lower() != kind:
        raise InvalidRequest(f"Invalid id '{text}': expected the form nb:{kind}:UUID:{uuid.UUID(int=0)}.")
    return f"nb:{kind}:UUID:{match['guid'].lower()}"


def guid_of(identifier: str) -> str:
    """Return the last part of an identifier."""
    return identifier.rpartition(":")[2]
