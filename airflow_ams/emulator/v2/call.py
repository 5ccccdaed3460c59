"""A v2 request once HTTP is out of the way, and the answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ams.emulator.v2.bodies import read_object
from airflow_ams.emulator.v2.paths import ResourcePath
from airflow_ams.emulator.v2.wire import Writer


@dataclass(frozen=True)
class Call:
    """What the caller wants.

    :param account: who asks; nothing of another account is shown or changed.
    :param method: the HTTP verb, tunnelling (``X-HTTP-Method``) undone.
    :param path: the resource.
    :param options: the decoded query string.
    :param body: as it came.
    :param content_verbose: whether the body's Content-Type is ``odata=verbose``.
    :param writer: writes in the form that the caller accepts.
    :param storage: URL under which the assets' containers are.
    """

    account: str
    method: str
    path: ResourcePath
    options: Mapping[str, str]
    body: bytes
    content_verbose: bool
    writer: Writer
    storage: str

    def document(self) -> dict[str, Any]:
        """Return the JSON object in the body."""
        return read_object(self.body)


@dataclass(frozen=True)
class Answer:
    """Status and content; a body of None is no content, one of text is plain text."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    version: str = "3.0;"
