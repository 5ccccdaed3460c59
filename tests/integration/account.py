"""A media account in the tests' own process, for what would take the emulator too long, or what it is too
well-behaved to do: thousands of jobs, and jobs that move while pages are being read. This is v2; the other
dialects are in `tests.integration.account_v3`.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

QUEUED, SCHEDULED, PROCESSING, FINISHED, ERROR, CANCELED, CANCELING = range(7)
ACTIVE = {QUEUED, SCHEDULED, PROCESSING, CANCELING}
CREATED = "2026-01-01T00:00:00Z"
_PART = re.compile(r"Jobs\('(.*)'\)/(\w+)$")


class Account(ABC):
    """Jobs that are where a test puts them, in one dialect.

    :param reply: what a service of `tests.conftest` answers with
    """

    folder = ""
    """Where the API is, below the root."""

    unknown = ""
    """The id of a job that is not there."""

    def __init__(self, reply: Callable[..., Any]) -> None:
        self.reply = reply
        self.states: dict[str, int] = {}
        self.progress: dict[str, float] = {}
        self.page_size = 1000
        """Rows that a list has at most."""

        self.seen: list[Any] = []
        """The requests so far, as `tests.conftest.Service` notes them."""

        self.conn_id = ""
        self.base_url = ""
        self.trouble: Callable[[Any], Any] = lambda _: None
        """Called with each request; what it returns is answered instead."""

        self.canceled: list[str] = []
        self._guard = threading.Lock()

    @property
    @abstractmethod
    def connection(self) -> dict[str, Any]:
        """The fields of an Airflow connection to it."""

    @abstractmethod
    def is_list(self, seen: Any) -> bool:
        """Whether a request is for a list of jobs."""

    @abstractmethod
    def about(self, seen: Any) -> tuple[str, str]:
        """Return the job that a request is about, and what of it: empty for the job itself, or for no job."""

    @abstractmethod
    def _new_id(self, transform: str) -> str: ...

    @abstractmethod
    def _answer(self, seen: Any) -> Any: ...

    @abstractmethod
    def _row(self, job_id: str) -> dict[str, Any]: ...

    def add(self, count: int, state: int = PROCESSING, transform: str = "Encode") -> list[str]:
        """Make jobs, on a transform where there is such a thing; return their ids."""
        ids = [self._new_id(transform) for _ in range(count)]
        self.put(ids, state)
        return ids

    def put(self, ids: list[str], state: int) -> None:
        """Move jobs to a state."""
        with self._guard:
            self.states.update(dict.fromkeys(ids, state))

    def lists(self) -> list[str]:
        """Return the queries of the lists so far."""
        return [seen.query for seen in list(self.seen) if self.is_list(seen)]

    def is_single(self, seen: Any, job_id: str = "") -> bool:
        """Whether a request reads a single job, or its state; this one, if it is named."""
        found, part = self.about(seen)
        is_read = bool(found) and seen.method == "GET" and part in ("", "state")
        return is_read and job_id.lower() in ("", found.lower())

    def singles(self, job_id: str = "") -> list[str]:
        """Return paths and queries of the requests for single jobs so far."""
        return [f"{seen.path}?{seen.query}" for seen in list(self.seen) if self.is_single(seen, job_id)]

    def paths(self, end: str) -> list[str]:
        """Return the ids of the jobs of which something else was read."""
        return [job_id for job_id, part in map(self.about, list(self.seen)) if part == end]

    def is_cancel(self, seen: Any) -> bool:
        """Whether a request asks for a job to be canceled."""
        return self.about(seen)[1].lower() == "canceljob"

    def answer(self, seen: Any) -> Any:
        """Answer a request."""
        if (instead := self.trouble(seen)) is not None:
            return instead
        with self._guard:
            return self._answer(seen)

    def _in(self, wanted: set[int], transform: str = "") -> list[str]:
        found = (job_id for job_id, state in self.states.items() if state in wanted)
        return [job_id for job_id in found if job_id.lower().startswith(transform.lower())]


class V2Account(Account):
    """AMS v2: integers for states; tasks and outputs are read by themselves."""

    folder = "api/"
    unknown = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"

    @property
    def connection(self) -> dict[str, Any]:
        """The fields of an Airflow connection to it."""
        return {"host": self.base_url, "password": "a-token"}

    def is_list(self, seen: Any) -> bool:
        """Whether a request is for a list of jobs."""
        return "State" in seen.query

    def about(self, seen: Any) -> tuple[str, str]:
        """Return the job that a request is about, and what of it."""
        if match := _PART.search(seen.path):
            return match[1], match[2]
        if "CancelJob" in seen.path:
            return str(options(seen)["jobid"]).strip("'"), "CancelJob"
        match = re.search(r"Id eq '(.*?)'", seen.query)
        return (match[1], "") if match else ("", "")

    def _new_id(self, transform: str) -> str:
        return f"nb:jid:UUID:{uuid.uuid4()}"

    def _answer(self, seen: Any) -> Any:
        given = options(seen)
        job_id, part = self.about(seen)
        if part == "CancelJob":
            self.canceled.append(job_id)
            return self.reply(204, body=b"")
        if part:
            return self._rows([self._task(job_id)] if part == "Tasks" else [])
        if job_id:
            return self._rows([self._row(job_id)] if job_id in self.states else [])
        condition = given.get("$filter", "")
        wanted = {int(number) for number in re.findall(r"State eq (\d)", condition)}
        wanted |= {0, 1, 2} if "State le 2" in condition else set()
        skip, top = int(given.get("$skip", 0)), int(given["$top"])
        found = self._in(wanted)[skip : skip + top]
        rows = [self._row(job_id) for job_id in found[: self.page_size]]
        return self._rows(rows, **({"odata.nextLink": "x"} if len(found) > len(rows) else {}))

    def _rows(self, rows: list[dict[str, Any]], **more: str) -> Any:
        return self.reply(body=json.dumps({"odata.metadata": "x", "value": rows, **more}).encode())

    def _row(self, job_id: str) -> dict[str, Any]:
        return {"Id": job_id, "Name": "Encode", "State": self.states[job_id], "Created": CREATED}

    def _task(self, job_id: str) -> dict[str, Any]:
        errors = [{"Code": "E1", "Message": "bad"}] if self.states[job_id] == ERROR else []
        return {
            "Id": "nb:tid:UUID:1",
            "Name": "Encode",
            "State": self.states[job_id],
            "Progress": self.progress.get(job_id, 40.0),
            "ErrorDetails": errors,
        }


def options(seen: Any) -> dict[str, str]:
    """Return the options of a request's query."""
    return dict(part.partition("=")[::2] for part in seen.query.split("&"))
