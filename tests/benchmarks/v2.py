"""AMS v2, as far as the triggers ask for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import unquote

from tests.benchmarks.answers import UnknownRequest, answer, in_json
from tests.benchmarks.jobs import ERROR, FINISHED, PAGE, Account

_ID = re.compile(r"nb:jid:UUID:([0-9a-f]{8})-")
_ENTITY = re.compile(r"/api/Jobs\('([^']+)'\)/(Tasks|OutputMediaAssets)")
_TERM = re.compile(r"State (eq|le|lt|ge|gt) (\d+)|Id eq '([^']+)'")
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": int.__eq__,
    "le": int.__le__,
    "lt": int.__lt__,
    "ge": int.__ge__,
    "gt": int.__gt__,
}


def job_id(index: int) -> str:
    """Return the id of the job with this number."""
    return f"nb:jid:UUID:{index:08x}-5e1d-4c1a-9b0d-{index * 2654435761 % 2**48:012x}"


class V2:
    """Answers in the dialect of v2."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._jobs = account.jobs

    def respond(self, method: str, path: str, options: dict[str, str], now: float) -> bytes:
        """Answer a request."""
        path = unquote(path)
        if method == "GET" and path in ("/api/Jobs", "/api/Jobs()"):
            return self._list(options, now)
        if method == "GET" and (match := _ENTITY.fullmatch(path)):
            return self._parts(match[1], match[2], now)
        if path == "/api/CancelJob":
            self._account.canceled.append(self._number(options["jobid"].strip("'")) or 0)
            return answer(204, b"")
        raise UnknownRequest(f"{method} {path}")

    def rows(self, indexes: Iterable[int], select: str) -> bytes:
        """Return the rows of jobs as the inside of a JSON list."""
        return b",".join(self._jobs.rows(indexes, select, partial(self._render, select)))

    def _list(self, options: dict[str, str], now: float) -> bytes:
        condition = options.pop("$filter", "State ge 0")
        select = options.pop("$select", "").replace(" ", "")
        skip, top = int(options.pop("$skip", 0)), min(PAGE, int(options.pop("$top", PAGE)))
        if options.pop("$orderby", "Created") not in ("Created", "Created asc") or any(options):
            raise UnknownRequest(f"query {options}")
        self._account.counts["single" if condition.lstrip("( ").startswith("Id") else "list"] += 1
        page = self._matching(condition)[skip : skip + top]
        self._account.readings.note(page, now)
        rows = self.rows(page, select)
        return answer(
            200, b'{"odata.metadata":"http://127.0.0.1/api/$metadata#Jobs","value":[' + rows + b"]}"
        )

    def _matching(self, condition: str) -> list[int]:
        """Return the jobs for which a ``$filter`` holds."""
        terms = condition.strip("() ").split(" or ")
        matches = [match for term in terms if (match := _TERM.fullmatch(term.strip("() ")))]
        if len(matches) == len(terms) and all(match[1] for match in matches):
            tests = [(_COMPARE[match[1]], int(match[2])) for match in matches]
            wanted = (state for state in range(7) if any(test(state, limit) for test, limit in tests))
            return self._jobs.in_states(frozenset(wanted))
        if len(matches) == len(terms) and all(match[3] for match in matches):
            found = (self._number(match[3]) for match in matches)
            return sorted(n for n in found if n is not None)
        raise UnknownRequest(f"$filter {condition!r}")

    def _number(self, text: str) -> int | None:
        """Return the number of the job with this id, if there is one."""
        match = _ID.match(text)
        index = int(match[1], 16) if match else len(self._jobs.states)
        return index if index < len(self._jobs.states) and job_id(index) == text else None

    def _render(self, select: str, index: int) -> bytes:
        jobs = self._jobs
        state = jobs.states[index]
        created = _iso(jobs.created(index))
        row: dict[str, Any] = {
            "Id": job_id(index),
            "Name": f"Encoding clip {index:05d} into H264 Adaptive Bitrate MP4 Set 720p",
            "Created": created,
            "LastModified": created,
            "EndTime": _iso(jobs.ended(index)),
            "Priority": 0,
            "RunningDuration": 39605.0 if state in (FINISHED, ERROR) else 0.0,
            "StartTime": _iso(jobs.started(index)),
            "State": state,
            "TemplateId": None,
            "JobNotificationSubscriptions": [],
        }
        names = select.split(",") if select else list(row)
        if unknown := set(names) - set(row):
            raise UnknownRequest(f"$select {unknown}")
        return json.dumps({name: row[name] for name in names}, separators=(",", ":")).encode()

    def _parts(self, text: str, kind: str, now: float) -> bytes:
        self._account.counts["tasks" if kind == "Tasks" else "outputs"] += 1
        index = self._number(text)
        if index is None:
            return in_json(404, {"odata.error": {"code": "", "message": {"value": "No such job"}}})
        row = self._task(index, now) if kind == "Tasks" else _output(index)
        document = {"odata.metadata": f"http://127.0.0.1/api/$metadata#{kind}", "value": [row]}
        return answer(200, json.dumps(document).encode())

    def _task(self, index: int, now: float) -> dict[str, Any]:
        state = self._jobs.states[index]
        errors = [{"Code": "ErrorDownloadingInput", "Message": "The input has no video track"}]
        return {
            "Id": job_id(index).replace("jid", "tid"),
            "Configuration": "H264 Multiple Bitrate 720p",
            "EndTime": None,
            "ErrorDetails": errors if state == ERROR else [],
            "HistoricalEvents": [],
            "MediaProcessorId": "nb:mpid:UUID:ff4df607-d419-42f0-bc17-a481b1331e56",
            "Name": "Encode",
            "PerfMessage": None,
            "Priority": 0,
            "Progress": self._jobs.percent(index, now),
            "RunningDuration": 0.0,
            "StartTime": None,
            "State": state,
            "TaskBody": "<taskBody/>",
            "Options": 0,
        }


def _output(index: int) -> dict[str, Any]:
    guid = job_id(index).rpartition(":")[2]
    return {
        "Id": f"nb:cid:UUID:{guid}",
        "State": 0,
        "Created": "2026-01-01T00:00:00",
        "LastModified": "2026-01-01T00:00:00",
        "AlternateId": None,
        "Name": f"clip {index:05d} 720p",
        "Options": 0,
        "FormatOption": 0,
        "Uri": f"https://example.blob.core.windows.net/asset-{guid}",
        "StorageAccountName": "example",
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") if moment else None
