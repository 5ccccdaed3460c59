"""The dialects of v3, as far as the triggers ask for them: jobs of one transform, with two outputs each."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from tests.benchmarks.answers import UnknownRequest, answer
from tests.benchmarks.jobs import ERROR, FINISHED, PAGE, PROCESSING, Account

TRANSFORM = "AdaptiveStreaming"
ARM_ROOT = "/subscriptions/S/resourceGroups/R/providers/Microsoft.Media/mediaServices/A/"
MKIO_ROOT = "/api/v1/projects/P/media/"
_NAMES = ("Queued", "Scheduled", "Processing", "Finished", "Error", "Canceled", "Canceling")
_NAME = re.compile(r"clip-(\d+)-")
_JOB = re.compile(rf"transforms/{TRANSFORM}/jobs/([^/]+)(?:/(\w+))?")


def job_id(index: int) -> str:
    """Return the id of the job with this number."""
    return f"{TRANSFORM}/{_job_name(index)}"


def _job_name(index: int) -> str:
    return f"clip-{index:05d}-{index * 2654435761 % 2**32:08x}"


class V3(ABC):
    """What ARM and MK.IO have in common.

    :param account: whose jobs
    """

    root: str
    jobs_path: str
    """Of the list, below the root."""

    literal: re.Pattern[str]
    """One term of a filter."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._jobs = account.jobs

    @abstractmethod
    def _said(self, status: int, body: bytes) -> bytes: ...

    @abstractmethod
    def _written(self, document: dict[str, Any]) -> str: ...

    @abstractmethod
    def _dressed(self, index: int, properties: dict[str, Any]) -> dict[str, Any]: ...

    @abstractmethod
    def _time(self, moment: datetime) -> str: ...

    @abstractmethod
    def _not_found(self) -> dict[str, Any]: ...

    def respond(self, method: str, path: str, options: dict[str, str], now: float) -> bytes:
        """Answer a request."""
        path = path.removeprefix(self.root)
        if (method, path) == ("GET", self.jobs_path):
            return self._list(options, now)
        if match := _JOB.fullmatch(path):
            index = self._number(match[1])
            if index is None:
                return self._said(404, json.dumps(self._not_found()).encode())
            return self._job(method, index, match[2] or "", now)
        raise UnknownRequest(f"{method} {path}")

    def rows(self, indexes: Sequence[int], now: float) -> Iterable[bytes]:
        """Yield the rows of jobs, with the percent of this moment."""
        jobs = self._jobs
        for index, row in zip(indexes, jobs.rows(indexes, self.root, self._render), strict=True):
            percent = self._percent(index, now)
            yield row % (percent, min(99, percent * 2) if percent < 100 else 100)

    def _percent(self, index: int, now: float) -> int:
        if self._jobs.states[index] not in (PROCESSING, FINISHED):
            return 0
        # Not all of them move at the same moment.
        return int(self._jobs.percent(index, now + index * 37 % 360))

    def _job(self, method: str, index: int, part: str, now: float) -> bytes:
        if (method, part) == ("POST", "cancelJob"):
            self._account.canceled.append(index)
            return self._said(200, b"")
        if method != "GET" or part:
            raise UnknownRequest(f"{method} {part}")
        self._account.counts["single"] += 1
        self._account.readings.note((index,), now)
        (row,) = self.rows([index], now)
        return self._said(200, row)

    def _list(self, options: dict[str, str], now: float) -> bytes:
        found = self._jobs.in_states(self._wanted(options.get("$filter", "")))
        self._account.counts["list"] += 1
        skip, top = int(options.pop("$skiptoken", 0)), min(PAGE, int(options.get("$top", PAGE)))
        page = found[skip : skip + top]
        self._account.readings.note(page, now)
        rows = b",".join(self.rows(page, now))
        query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
        link = f"http://127.0.0.1{self.root}{self.jobs_path}?{query}&$skiptoken={skip + top}"
        more = b',"@odata.nextLink":' + json.dumps(link).encode() if len(found) > skip + top else b""
        return self._said(200, b'{"value":[' + rows + b"]" + more + b"}")

    def _wanted(self, condition: str) -> frozenset[int]:
        """Return the states for which a ``$filter`` holds."""
        terms = condition.strip("() ").split(" or ")
        matches = [match for term in terms if (match := self.literal.fullmatch(term))]
        if len(matches) < len(terms):
            raise UnknownRequest(f"$filter {condition!r}")
        return frozenset(_NAMES.index(match[1]) for match in matches)

    def _number(self, name: str) -> int | None:
        match = _NAME.match(name)
        index = int(match[1]) if match else len(self._jobs.states)
        return index if index < len(self._jobs.states) and _job_name(index) == name else None

    def _render(self, index: int) -> bytes:
        """Write a job, with a place for the percent of each output."""
        created = self._time(self._jobs.created(index))
        outputs = [self._output(index, label) for label in ("H264 720p", "Thumbnails")]
        properties: dict[str, Any] = {
            "created": created,
            "state": _NAMES[self._jobs.states[index]],
            "input": {
                "@odata.type": "#Microsoft.Media.JobInputAsset",
                "assetName": f"clip-{index:05d}",
                "files": [],
                "inputDefinitions": [],
            },
            "lastModified": created,
            "outputs": outputs,
            "priority": "Normal",
            "correlationData": {"clip": f"{index:05d}"},
            **self._times(index),
        }
        document = self._dressed(index, properties)
        return self._written(document).replace('"%d"', "%d").encode()

    def _output(self, index: int, label: str) -> dict[str, Any]:
        state = self._jobs.states[index]
        error = {
            "code": "ContentMalformed",
            "message": "The input has no video track",
            "category": "Content",
            "retry": "DoNotRetry",
        }
        return {
            "@odata.type": "#Microsoft.Media.JobOutputAsset",
            "assetName": f"{_job_name(index)}-{label.split()[0].lower()}",
            "label": label,
            "state": _NAMES[state],
            "progress": "%d",
            **({"error": error} if state == ERROR else {}),
            **self._times(index),
        }

    def _times(self, index: int) -> dict[str, str]:
        times = {"startTime": self._jobs.started(index), "endTime": self._jobs.ended(index)}
        return {name: self._time(moment) for name, moment in times.items() if moment}


class Arm(V3):
    """AMS v3 as it was, and RMS: a list for each transform, printed with line ends and indents."""

    root = ARM_ROOT
    jobs_path = f"transforms/{TRANSFORM}/jobs"
    literal = re.compile(r"properties/state eq Microsoft\.Media\.JobState'(\w+)'")

    def respond(self, method: str, path: str, options: dict[str, str], now: float) -> bytes:
        """Answer a request."""
        if options.get("api-version") != "2022-07-01":
            raise UnknownRequest("api-version")
        return super().respond(method, path, options, now)

    def _said(self, status: int, body: bytes) -> bytes:
        return answer(status, body, "application/json; odata.metadata=minimal", "odata-version: 4.0\r\n")

    def _written(self, document: dict[str, Any]) -> str:
        return json.dumps(document, indent=2).replace("\n", "\r\n    ")

    def _dressed(self, index: int, properties: dict[str, Any]) -> dict[str, Any]:
        root = self.root.replace("mediaServices", "mediaservices")
        return {
            "name": _job_name(index),
            "id": f"{root}transforms/{job_id(index).replace('/', '/jobs/')}",
            "type": "Microsoft.Media/mediaservices/transforms/jobs",
            "properties": properties,
            "systemData": {
                "createdBy": "encoder@example.com",
                "createdByType": "User",
                "createdAt": properties["created"],
                "lastModifiedBy": "encoder@example.com",
                "lastModifiedByType": "User",
                "lastModifiedAt": properties["created"],
            },
        }

    def _time(self, moment: datetime) -> str:
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"

    def _not_found(self) -> dict[str, Any]:
        return {"error": {"code": "NotFound", "message": "The requested resource was not found."}}


class Mkio(V3):
    """MK.IO: one list for the project, and the state of a job by itself."""

    root = MKIO_ROOT
    jobs_path = "jobs"
    literal = re.compile(r"properties/state eq '(\w+)'")

    def _job(self, method: str, index: int, part: str, now: float) -> bytes:
        if (method, part) != ("GET", "state"):
            return super()._job(method, index, part, now)
        self._account.counts["state"] += 1
        self._account.readings.note((index,), now)
        state = _NAMES[self._jobs.states[index]]
        return self._said(200, json.dumps({"status": {"state": state}}).encode())

    def _said(self, status: int, body: bytes) -> bytes:
        return answer(status, body, "application/json", "")

    def _written(self, document: dict[str, Any]) -> str:
        return json.dumps(document, separators=(",", ":"))

    def _dressed(self, index: int, properties: dict[str, Any]) -> dict[str, Any]:
        root = "/subscriptions/S/resourceGroups/default/providers/Microsoft.Media/mediaServices/P"
        return {
            "name": _job_name(index),
            "id": f"{root}/transforms/{job_id(index).replace('/', '/jobs/')}",
            "type": "Microsoft.Media/mediaServices/transforms/jobs",
            "properties": properties,
        }

    def _time(self, moment: datetime) -> str:
        return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"

    def _not_found(self) -> dict[str, Any]:
        error = {"code": "NotFound", "detail": "No such job", "extraDetail": {}}
        return {"error": error, "status": 404, "ref": "5f0c0ffe"}
