"""A media account in the tests' own process, for what would take the emulator too long, or what it is too
well-behaved to do: thousands of jobs, and jobs that move while pages are being read.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable
from typing import Any

QUEUED, SCHEDULED, PROCESSING, FINISHED, ERROR, CANCELED, CANCELING = range(7)
ACTIVE = {QUEUED, SCHEDULED, PROCESSING, CANCELING}


class Account:
    """Jobs that are where a test puts them.

    :param reply: what a service of `tests.conftest` answers with
    """

    def __init__(self, reply: Callable[..., Any]) -> None:
        self.reply = reply
        self.states: dict[str, int] = {}
        self.progress: dict[str, float] = {}
        self.seen: list[Any] = []
        """The requests so far, as `tests.conftest.Service` notes them."""

        self.conn_id = ""
        self.base_url = ""
        self.trouble: Callable[[Any], Any] = lambda _: None
        """Called with each request; what it returns is answered instead."""

        self.canceled: list[str] = []
        self._guard = threading.Lock()

    def add(self, count: int, state: int = PROCESSING) -> list[str]:
        """Make jobs; return their ids."""
        ids = [f"nb:jid:UUID:{uuid.uuid4()}" for _ in range(count)]
        with self._guard:
            self.states.update(dict.fromkeys(ids, state))
        return ids

    def put(self, ids: list[str], state: int) -> None:
        """Move jobs to a state."""
        with self._guard:
            self.states.update(dict.fromkeys(ids, state))

    def lists(self) -> list[str]:
        """Return the queries of the sweeps so far."""
        return [seen.query for seen in list(self.seen) if "State" in seen.query]

    def singles(self, job_id: str = "") -> list[str]:
        """Return the queries for single jobs so far."""
        return [seen.query for seen in list(self.seen) if f"Id eq 'nb:jid:UUID:{job_id[12:]}" in seen.query]

    def paths(self, end: str) -> list[str]:
        """Return the ids of the jobs of which something else was read."""
        found = (re.search(rf"Jobs\('(.*)'\)/{end}$", seen.path) for seen in list(self.seen))
        return [match[1] for match in found if match]

    def answer(self, seen: Any) -> Any:
        """Answer a request."""
        if (instead := self.trouble(seen)) is not None:
            return instead
        with self._guard:
            return self._answer(seen)

    def _answer(self, seen: Any) -> Any:
        options = dict(part.partition("=")[::2] for part in seen.query.split("&"))
        if "CancelJob" in seen.path:
            self.canceled.append(options["jobid"].strip("'"))
            return self.reply(204, body=b"")
        if part := re.search(r"Jobs\('(.*)'\)/(\w+)$", seen.path):
            return self._rows([self._task(part[1])] if part[2] == "Tasks" else [])
        condition = options.get("$filter", "")
        if job_id := re.search(r"Id eq '(.*)'", condition):
            return self._rows([self._row(job_id[1])] if job_id[1] in self.states else [])
        wanted = {int(number) for number in re.findall(r"State eq (\d)", condition)}
        wanted |= {0, 1, 2} if "State le 2" in condition else set()
        skip = int(options.get("$skip", 0))
        rows = [self._row(job_id) for job_id, state in self.states.items() if state in wanted]
        return self._rows(rows[skip : skip + int(options["$top"])])

    def _rows(self, rows: list[dict[str, Any]]) -> Any:
        return self.reply(body=json.dumps({"odata.metadata": "x", "value": rows}).encode())

    def _row(self, job_id: str) -> dict[str, Any]:
        created = "2026-01-01T00:00:00Z"
        return {"Id": job_id, "Name": "Encode", "State": self.states[job_id], "Created": created}

    def _task(self, job_id: str) -> dict[str, Any]:
        errors = [{"Code": "E1", "Message": "bad"}] if self.states[job_id] == ERROR else []
        return {
            "Id": "nb:tid:UUID:1",
            "Name": "Encode",
            "State": self.states[job_id],
            "Progress": self.progress.get(job_id, 40.0),
            "ErrorDetails": errors,
        }
