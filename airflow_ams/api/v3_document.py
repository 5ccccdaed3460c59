"""The v3 job document: how its fields become a `Job`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_ams.api.model import Job, JobError, JobOutput, JobState, mean_progress
from airflow_ams.api.times import time_or_none

_STATES = {state.value.casefold(): state for state in JobState if state is not JobState.UNKNOWN}
_RUNNING = (JobState.PROCESSING, JobState.CANCELING)


def state_of(document: Mapping[str, Any]) -> JobState:
    """Read where a job stands."""
    return _state(document["properties"].get("state"))


def progress_of(document: Mapping[str, Any], state: JobState) -> float | None:
    """Read a job's percent, the mean of its outputs'; None while there is none to speak of."""
    if state not in _RUNNING:
        return None
    return mean_progress([_number(output.get("progress")) for output in _outputs(document)])


def job_of(document: Mapping[str, Any], job_id: str) -> Job:
    """Make a job of its document.

    :param document: with ``properties``, an object
    :param job_id: the id that it is known by
    """
    properties, state = document["properties"], state_of(document)
    outputs = tuple(_output(output, number) for number, output in enumerate(_outputs(document)))
    started, ended = time_or_none(properties.get("startTime")), time_or_none(properties.get("endTime"))
    progress = progress_of(document, state)
    if state.is_final:
        progress = 100.0 if state is JobState.FINISHED else mean_progress([o.progress for o in outputs])
    return Job(
        id=job_id,
        name=str(document.get("name") or job_id.rpartition("/")[2]),
        state=state,
        progress=progress,
        created=time_or_none(properties.get("created")),
        modified=time_or_none(properties.get("lastModified")),
        started=started,
        ended=ended,
        duration=(ended - started).total_seconds() if started and ended else None,
        priority=str(properties["priority"]) if properties.get("priority") else None,
        errors=tuple(replace(o.error, task=o.label or o.name or None) for o in outputs if o.error),
        outputs=outputs,
        raw=document,
    )


def _outputs(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    outputs = document["properties"].get("outputs")
    return [output for output in outputs if isinstance(output, dict)] if isinstance(outputs, list) else []


def _output(output: Mapping[str, Any], number: int) -> JobOutput:
    asset = str(output.get("assetName") or "")
    return JobOutput(
        asset_id=asset,
        name=asset or f"output {number}",
        label=str(output["label"]) if output.get("label") else None,
        state=_state(output["state"]) if output.get("state") else None,
        progress=_number(output.get("progress")),
        error=_error(output.get("error")),
    )


def _error(error: Any) -> JobError | None:
    """Read why an output failed; the older MK.IO says it in a bare text."""
    if not error:
        return None
    if not isinstance(error, dict):
        return JobError("Unknown", str(error))
    details = error.get("details")
    return JobError(
        code=str(error.get("code") or "Unknown"),
        message=str(error.get("message") or ""),
        category=str(error["category"]) if error.get("category") else None,
        retry=str(error["retry"]) if error.get("retry") else None,
        details=tuple(
            (str(detail.get("code") or ""), str(detail.get("message") or ""))
            for detail in (details if isinstance(details, list) else ())
            if isinstance(detail, dict)
        ),
    )


def _state(text: Any) -> JobState:
    return _STATES.get(str(text).casefold(), JobState.UNKNOWN)


def _number(value: Any) -> float | None:
    return float(min(value, 100)) if isinstance(value, int | float) and value >= 0 else None
