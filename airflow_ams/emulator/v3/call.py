"""A v3 request once HTTP is out of the way, and the answer to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from airflow_ams.emulator.v3.submission import read_properties


@dataclass(frozen=True)
class Call:
    """What the caller wants.

    :param account: whose things are meant; nothing of another account is shown or changed.
    :param names: what the path names, for instance a transform and a job.
    :param options: the decoded query string.
    :param body: as it came.
    :param root: the URL of the emulator as the caller knows it, without a slash at the end.
    :param path: the decoded path, from the root on.
    """

    account: str
    names: tuple[str, ...]
    options: Mapping[str, str]
    body: bytes
    root: str
    path: str

    def properties(self) -> dict[str, Any]:
        """Return the object under ``properties`` in the body."""
        return read_properties(self.body)

    def page_path(self, token: str, *, safe: str = "$/") -> str:
        """Return path and query of another page of the same list; *safe* stays as it is in the query."""
        options = {name: value for name, value in self.options.items() if name != "$skiptoken"}
        query = urlencode({**options, "$skiptoken": token}, quote_via=quote, safe=safe)
        return f"{quote(self.path)}?{query}"


@dataclass(frozen=True)
class Answer:
    """Status and content; a body of None is no content."""

    status: int
    body: Any = None


Handlers = Mapping[tuple[str, str], Callable[[Call], Answer]]
"""What answers a verb and a path, in which names are stars: ``("GET", "transforms/*/jobs/*")``."""


def shape_of(segments: list[str]) -> tuple[str, tuple[str, ...]]:
    """Return the shape of a path's segments, and the names in it: every second segment is a name."""
    parts = ["*" if number % 2 else part.lower() for number, part in enumerate(segments)]
    return "/".join(parts), tuple(segments[1::2])
