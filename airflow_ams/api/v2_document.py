"""What the entities of the v2 API, in light or verbose JSON, become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from airflow_ams.api.errors import TransientError
from airflow_ams.api.model import Job, JobError, JobOutput, JobState, JobTask, without_query
from airflow_ams.api.times import time_or_none
from airflow_ams.api.v2_ids import known_case
from airflow_ams.api.wire import Answer

STATES = (
    JobState.QUEUED,
    JobState.SCHEDULED,
    JobState.PROCESSING,
    JobState.FINISHED,
    JobState.ERROR,
    JobState.CANCELED,
    JobState.CANCELING,
)
"""In the order of the numbers on the wire ("Job", State); a task's numbers mean the same."""


def read_page(answer: Answer) -> tuple[list[dict[str, Any]], bool]:
    """Take the entities out of an answer, light or verbose, one or many; and whether more were announced."""
    document = answer.document()
    has_next = False
    if isinstance(document, dict):
        inner = document.get("d", document)
        if isinstance(inner, dict):
            has_next = "__next" in inner or "odata.nextLink" in inner
            inner = inner.get("results", inner.get("value", [inner]))
        if isinstance(inner, list) and all(isinstance(row, dict) and "Id" in row for row in inner):
            return inner, has_next
    raise TransientError(
        "The service's answer holds no entities", status=answer.status, request_id=answer.request_id
    )


def read_created(answer: Answer) -> Job:
    """Take the job out of the answer to a create."""
    rows, _ = read_page(answer)
    if not rows:
        raise TransientError("The service's answer holds no job", status=answer.status)
    return job_of(rows[0])


def _collection(value: Any) -> list[dict[str, Any]]:
    """Read a collection of complex values: a bare array in light JSON, ``{"results": […]}`` in verbose."""
    if isinstance(value, dict):
        value = value.get("results")
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def job_of(row: Mapping[str, Any]) -> Job:
    """Make a `Job` of an entity ("Job")."""
    state = state_of(row.get("State"))
    return Job(
        id=known_case(row["Id"]),
        name=str(row.get("Name") or ""),
        state=state,
        progress=100.0 if state is JobState.FINISHED else None,
        created=time_or_none(row.get("Created")),
        modified=time_or_none(row.get("LastModified")),
        started=time_or_none(row.get("StartTime")),
        ended=time_or_none(row.get("EndTime")),
        # Milliseconds, printed as 0, 0.0, 39605 or 39605.0.
        duration=number_of(row.get("RunningDuration")) / 1000,
        priority=int(number_of(row.get("Priority"))),
        raw=row,
    )


def task_of(row: Mapping[str, Any], number: int) -> JobTask:
    """Make a `JobTask` of an entity ("Task").

    :param number: its place among the job's tasks, from 1
    """
    name = str(row.get("Name") or f"task {number}")
    return JobTask(
        id=str(row["Id"]),
        name=name,
        state=state_of(row.get("State")),
        progress=number_of(row.get("Progress")),
        started=time_or_none(row.get("StartTime")),
        ended=time_or_none(row.get("EndTime")),
        errors=tuple(
            JobError(code=str(e.get("Code") or "Unknown"), message=str(e.get("Message") or ""), task=name)
            for e in _collection(row.get("ErrorDetails"))
        ),
        history=tuple(_collection(row.get("HistoricalEvents"))),
        raw=row,
    )


def output_of(row: Mapping[str, Any]) -> JobOutput:
    """Make a `JobOutput` of an asset's entity ("Asset")."""
    uri = without_query(str(row.get("Uri") or ""))
    return JobOutput(asset_id=str(row["Id"]), name=str(row.get("Name") or ""), uri=uri)


def state_of(number: Any) -> JobState:
    """Return the state that a number on the wire stands for."""
    try:
        return STATES[int(number)] if int(number) >= 0 else JobState.UNKNOWN
    except (IndexError, OverflowError, TypeError, ValueError):
        return JobState.UNKNOWN


def number_of(value: Any) -> float:
    """Read a number that may come as a text; null, and what is no number, is 0: no wait hangs on it."""
    try:
        number = float(value or 0)
    except (OverflowError, TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
