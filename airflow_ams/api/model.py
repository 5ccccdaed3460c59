"""What every media service's answer becomes: a `Job`, and what that job means for whoever waits on it.

Nothing in here does I/O, and nothing in here imports the rest of the project.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

MAX_ERROR_TEXT = 500
"""Characters of one error's text that the job document keeps."""

# Not ``\b``: an ampersand may come escaped, as ``\u0026`` or ``%26``, and those end in a word character.
_SIGNATURE = re.compile(
    r"(?i)(?:(?<![a-z])|(?<=%3F)|(?<=%253F))"
    r"(sig|signature|sharedaccesssignature|accountkey)(=|%3D|%253D)[^&;\s\"'<>]+"
)


class JobState(str, enum.Enum):
    """Where a job, or one task of it, stands."""

    QUEUED = "Queued"
    SCHEDULED = "Scheduled"
    PROCESSING = "Processing"
    FINISHED = "Finished"
    ERROR = "Error"
    CANCELED = "Canceled"
    CANCELING = "Canceling"
    UNKNOWN = "Unknown"
    """A state that this version of the provider has no name for; `Job.raw` keeps what the service said."""

    @property
    def is_final(self) -> bool:
        """Whether the job will not move on from here."""
        return self in _FINAL

    def __str__(self) -> str:
        return self.value


_FINAL = frozenset({JobState.FINISHED, JobState.ERROR, JobState.CANCELED})


class Outcome(enum.Enum):
    """What a job means for the task that waits on it."""

    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(frozen=True)
class JobError:
    """One reason why a job failed.

    :param code: the service's code, e.g. ``ErrorParsingConfiguration``
    :param message: the service's text
    :param task: name, or id, of the task that it belongs to; where jobs have no tasks, the output's label
    :param category: what kind of error it is, e.g. ``Content``, on services that tell
    :param retry: ``MayRetry`` (the same job may be submitted again) or ``DoNotRetry``, on services that tell
    :param details: further reasons, each a code and a text
    """

    code: str
    message: str
    task: str | None = None
    category: str | None = None
    retry: str | None = None
    details: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        where = f"{self.task}: " if self.task else ""
        text = f"{where}{self.code}: {self.message}" if self.message else f"{where}{self.code}"
        if self.details:
            text += f" ({'; '.join(': '.join(filter(None, detail)) for detail in self.details)})"
        facts = ", ".join(filter(None, (self.category, self.retry)))
        return f"{text} [{facts}]" if facts else text


@dataclass(frozen=True)
class JobTask:
    """One processing step of a job.

    :param progress: percent, 0 to 100
    :param history: the service's own events (``HistoricalEvents``), oldest first
    """

    id: str
    name: str
    state: JobState
    progress: float | None = None
    started: datetime | None = None
    ended: datetime | None = None
    errors: tuple[JobError, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class JobOutput:
    """One asset that a job writes.

    :param asset_id: where assets have no ids, their name
    :param uri: where the service keeps it, without any signature
    :param label: which of the transform's outputs it is, on services that tell
    :param state: where this output alone stands, on services that tell
    :param progress: percent, 0 to 100
    """

    asset_id: str
    name: str
    uri: str | None = None
    label: str | None = None
    state: JobState | None = None
    progress: float | None = None
    error: JobError | None = None


@dataclass(frozen=True)
class OutputFile:
    """One file of an output asset.

    :param size: bytes
    """

    name: str
    size: int | None = None
    mime_type: str | None = None
    is_primary: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A media job as every dialect reports it.

    :param id: as the dialect's ``job_id`` writes it: ``nb:jid:UUID:…``, or ``transform/job``
    :param progress: percent, 0 to 100; None while it is not known
    :param created: aware, UTC; like `started` and `ended` None while unset
    :param duration: seconds spent running
    :param priority: a number (larger runs first), or ``Low``, ``Normal``, ``High``
    :param tasks: empty until the service was asked for them, and where jobs have outputs only
    :param errors: one entry for each reason that the service gave
    :param outputs: None until the service was asked for them
    :param raw: the service's own document
    """

    id: str
    name: str
    state: JobState
    progress: float | None = None
    created: datetime | None = None
    modified: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    duration: float | None = None
    priority: int | str | None = None
    tasks: tuple[JobTask, ...] = ()
    errors: tuple[JobError, ...] = ()
    outputs: tuple[JobOutput, ...] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Verdict:
    """What `verdict` found: the outcome, and the one line that a person needs."""

    outcome: Outcome
    text: str


def verdict(job: Job) -> Verdict:
    """Say what a job means for a task that waits on it.

    Every sensor, trigger, operator and command decides by this function. States that the provider does not
    know are waited through: the waiting task's own time-out bounds that. A finished job of which an output
    is not there has failed.

    :param job: the job as it was last read
    :returns: the outcome, with a line that names the job and, on failure, every reason
    """
    failed_outputs = [o for o in job.outputs or () if _is_missing(o)]
    if job.state is JobState.CANCELED:
        reasons = _reasons(job.errors) if job.errors else ""
        return Verdict(Outcome.CANCELED, f"{_title(job)} was canceled{reasons}")
    if job.state is JobState.ERROR:
        return Verdict(Outcome.FAILED, f"{_title(job)} failed{_reasons(job.errors)}")
    if job.state is JobState.FINISHED and failed_outputs:
        errors = job.errors or tuple(o.error for o in failed_outputs if o.error)
        names = ", ".join(o.name for o in failed_outputs)
        text = _line(f"{_title(job)} finished, but failed to write {names}")
        return Verdict(Outcome.FAILED, f"{text}{_reasons(errors)}")
    if job.state is JobState.FINISHED:
        return Verdict(Outcome.SUCCEEDED, f"{_title(job)} has finished")
    return Verdict(Outcome.WAITING, describe(job))


def describe(job: Job) -> str:
    """Say in one line where a job stands: name, id, state and percent, and where each part of it stands."""
    line = f"{_title(job)} is {job.state}"
    if job.state is JobState.UNKNOWN and (state := _said_state(job.raw)) is not None:
        line += f" (the service says {state!r})"
    if job.progress is not None and not job.state.is_final:
        line += f", {job.progress:.0f} %"
    shares = [f"{name}: {state} {progress or 0:.0f} %" for name, state, progress in _parts(job)]
    return _line(f"{line} ({'; '.join(shares)})" if shares else line)


def document(job: Job) -> dict[str, Any]:
    """Make the small JSON document of a job that goes into XCom.

    :param job: the job, with its outputs if they could be read
    :returns: strings, numbers, lists and None only; times in ISO 8601, durations in seconds; no signature
        of a storage URL is in it, and each error's text is cut at `MAX_ERROR_TEXT` characters
    """
    return {
        "id": job.id,
        "name": without_signatures(job.name),
        "state": job.state.value,
        "progress": job.progress,
        "created": _iso(job.created),
        "started": _iso(job.started),
        "ended": _iso(job.ended),
        "duration_seconds": job.duration,
        "errors": [
            {
                "task": error.task and without_signatures(error.task),
                "code": without_signatures(error.code),
                "message": without_signatures(error.message)[:MAX_ERROR_TEXT],
                "category": error.category and without_signatures(error.category),
                "retry": error.retry and without_signatures(error.retry),
                "details": [
                    {"code": without_signatures(code), "message": without_signatures(text)[:MAX_ERROR_TEXT]}
                    for code, text in error.details
                ],
            }
            for error in job.errors
        ],
        "outputs": None
        if job.outputs is None
        else [
            {
                "asset_id": without_signatures(o.asset_id),
                "name": without_signatures(o.name),
                "label": o.label and without_signatures(o.label),
                "uri": without_query(o.uri),
            }
            for o in job.outputs
        ],
    }


def without_signatures(text: str) -> str:
    """Blank the signatures of storage URLs in a text; whoever reads one may read or write the asset."""
    return _SIGNATURE.sub(r"\1\2***", text)


def signatures_in(text: str) -> set[str]:
    """Return the signatures of storage URLs that a text holds."""
    return {found[0].removeprefix(f"{found[1]}{found[2]}") for found in _SIGNATURE.finditer(text)}


def without_query(uri: str | None) -> str | None:
    """Cut a URL down to where it points, leaving out user info, query and fragment."""
    if not uri:
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    return without_signatures(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def mean_progress(parts: Sequence[float | None]) -> float | None:
    """Work out a job's percent from its tasks', or outputs', as the services' own SDKs did: their mean."""
    if not parts:
        return None
    return sum(min(max(progress or 0.0, 0.0), 100.0) for progress in parts) / len(parts)


def _is_missing(output: JobOutput) -> bool:
    """Whether an output of a job that has ended was not written; without a state, its error tells."""
    if output.state is None:
        return output.error is not None
    return output.state in (JobState.ERROR, JobState.CANCELED)


def _title(job: Job) -> str:
    has_name = job.name and not job.id.endswith(f"/{job.name}")
    return f"Job '{_line(job.name)}' ({job.id})" if has_name else f"Job {job.id}"


def _parts(job: Job) -> Iterator[tuple[str, JobState, float | None]]:
    """Yield name, state and percent of each task, or of several outputs."""
    for task in job.tasks:
        yield task.name, task.state, task.progress
    outputs = job.outputs or ()
    for output in outputs[: 0 if len(outputs) == 1 else None]:
        if output.state is not None:
            yield output.label or output.name, output.state, output.progress


def _said_state(raw: Mapping[str, Any]) -> Any:
    properties = raw.get("properties")
    return raw.get("State", properties.get("state") if isinstance(properties, Mapping) else None)


def _line(text: str) -> str:
    """Make one line of a service's text; encoders answer with paragraphs, and names may hold anything."""
    return without_signatures(" ".join(text.split()))


def _reasons(errors: tuple[JobError, ...]) -> str:
    if not errors:
        return "; the service gave no reason"
    return f": {_line('; '.join(str(error) for error in errors))}"


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
