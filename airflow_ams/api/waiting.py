"""One wait: what a waiting task knows of its jobs, when the wait is over, and how it ended.

The sensor on a worker and `JobWatch` in a triggerer both feed it what they read; it does no I/O of its own.
"""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.model import Job, JobState, Outcome, describe, document, verdict

MAX_WITH_OUTPUTS = 100
"""Jobs of one wait up to which their documents have outputs; more would make a large XCom."""

SILENCE = 300.0
"""Seconds after which a line that has not changed is logged again."""

_MAX_REASONS = 20
_QUEUED = frozenset({JobState.QUEUED, JobState.SCHEDULED})


class End(str, enum.Enum):
    """How a wait ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    QUEUE_TIMEOUT = "queue_timeout"
    TIMEOUT = "timeout"


_ENDS = {
    Outcome.SUCCEEDED: End.SUCCEEDED,
    Outcome.FAILED: End.FAILED,
    Outcome.CANCELED: End.CANCELED,
}


@dataclass(frozen=True)
class Ending:
    """How a wait ended, and what of it is for others to read.

    :param text: one line for a person
    :param jobs: the job's document, however it ended; of a list, the documents on success only
    """

    how: End
    text: str = ""
    jobs: dict[str, Any] | list[dict[str, Any]] | None = None

    def event(self) -> dict[str, Any]:
        """Return it as the payload of a trigger's event."""
        return {"outcome": self.how.value, "text": self.text, "jobs": self.jobs}

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> Ending:
        """Read it back; raise ValueError if the payload is none of `event`'s."""
        try:
            return cls(End(event["outcome"]), event.get("text") or "", event.get("jobs"))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not the event of a wait: {str(event)[:200]!r}") from exc


def wait_on(
    job_ids: str | Sequence[str],
    *,
    fail_fast: bool = True,
    queue_timeout: float | None = None,
    not_found_grace: float = 60.0,
    started_at: float | None = None,
) -> JobWait:
    """Begin a wait.

    :param job_ids: one id, or a list of them
    :param fail_fast: whether the first job that does not finish ends the wait
    :param queue_timeout: seconds that a job may be Queued or Scheduled; None: as long as it likes
    :param not_found_grace: seconds from `started_at` for which an unknown id is asked for again
    :param started_at: when the wait began, in epoch seconds; None: now
    """
    began = time.time() if started_at is None else started_at
    if isinstance(job_ids, str):
        return OneJobWait(job_ids, queue_timeout, not_found_grace, began)
    return JobListWait(job_ids, queue_timeout, not_found_grace, began, fail_fast=fail_fast)


class JobWait(ABC):
    """What one waiting task knows of its jobs.

    A triggerer holds thousands, so it is kept small. `ending` is how the wait ended, None while it goes on;
    `overdue` are the jobs whose time was over, and which may run on.
    """

    __slots__ = ("_grace", "_queue_timeout", "_said", "_said_at", "_started_at", "ending", "overdue")

    wants_progress: ClassVar[bool]
    """Whether percent is logged."""

    def __init__(self, queue_timeout: float | None, not_found_grace: float, started_at: float) -> None:
        self._queue_timeout = queue_timeout
        self._grace = not_found_grace
        self._started_at = started_at
        # Of the last line that was logged, its hash, which is smaller than the line.
        self._said = 0
        self._said_at = 0.0
        self.ending: Ending | None = None
        self.overdue: Collection[str] = ()

    @property
    @abstractmethod
    def ids(self) -> str | list[str]:
        """The id, or the list of ids."""

    @property
    @abstractmethod
    def pending(self) -> Collection[str]:
        """The jobs whose end is not known."""

    @property
    @abstractmethod
    def wants_outputs(self) -> bool:
        """Whether the documents are to have outputs."""

    @property
    @abstractmethod
    def queue_limits(self) -> Mapping[str, float]:
        """When, in epoch seconds, each queued job will have been queued for too long."""

    @abstractmethod
    def normalize(self, job_id: Callable[[str], str]) -> None:
        """Write the ids as the service does, before any of the jobs is read.

        :param job_id: the service's `airflow_ams.api.MediaService.job_id`
        :raises RefusedError: an id could not be one of the service's, or comes twice
        """

    @abstractmethod
    def _text(self, job: Job | None) -> str:
        """Say where the job, or all of them, stand."""

    @abstractmethod
    def _settle(self, job_id: str, how: End, text: str, job: Job | None) -> str | None:
        """Note how the wait on one job ended; return a line to log if the whole wait goes on."""

    @abstractmethod
    def _note_queue(self, job_id: str, until: float | None) -> None:
        """Note until when a job may be queued; None: it is not, or it may be so for ever."""

    def see(self, job: Job, at: float | None = None) -> str | None:
        """Take notice of a reading of one of the jobs.

        :param job: with its errors, if it is in Error, and its outputs, if it has Finished
        :param at: when it was read, in epoch seconds; None: now
        :returns: a line to log about a failure that does not end the wait
        """
        if job.id not in self.pending:
            return None
        found = verdict(job)
        if found.outcome is not Outcome.WAITING:
            return self._settle(job.id, _ENDS[found.outcome], found.text, job)
        until = self._queue_end(job)
        self._note_queue(job.id, until)
        if until is None or (time.time() if at is None else at) < until:
            return None
        text = f"{describe(job)}, and has been for longer than queue_timeout ({self._queue_timeout:g} s)"
        return self._settle(job.id, End.QUEUE_TIMEOUT, text, job)

    def line(self, job: Job | None, progress_age: float = 0.0) -> str | None:
        """Return the line to log about where the jobs stand, if it is new, or was said long ago.

        :param job: the last reading of the one job; of a list, all are meant
        :param progress_age: seconds since its percent was read
        """
        line = self._text(job)
        is_told_by_exception = self.ending is not None and self.ending.how is not End.SUCCEEDED
        said, now = hash(line), time.monotonic()
        if is_told_by_exception or (said == self._said and now - self._said_at < SILENCE):
            return None
        self._said, self._said_at = said, now
        is_old = progress_age >= 1 and job is not None and job.progress is not None
        return f"{line}, as of {progress_age:.0f} s ago" if is_old and self.ending is None else line

    def miss(self, job_id: str, said: str = "") -> str | None:
        """Take notice that the service knows no job of that id (yet).

        :param said: what the error says of it; empty: no more than that
        :returns: the line to log, if there is anything to say
        """
        age = time.time() - self._started_at
        text = said or f"The service has no job {job_id}"
        if age < self._grace:
            return f"{text} yet; asking again"
        text += (
            f" (asked for {age:.0f} s). Is the id of another account? The service deletes the records of "
            "jobs after 90 days"
        )
        return self._settle(job_id, End.NOT_FOUND, text, None)

    def refuse(self, text: str) -> None:
        """End the wait, since asking again would bring the same."""
        self.ending = Ending(End.REFUSED, text)

    def time_out(self, job: Job | None) -> None:
        """End the wait, since its time is over.

        :param job: the last reading of the one job, if there was any; of a list, all are meant
        """
        self.overdue = tuple(self.pending)
        self.ending = Ending(End.TIMEOUT, self._text(job))

    def _queue_end(self, job: Job) -> float | None:
        if self._queue_timeout is None or job.state not in _QUEUED:
            return None
        since = job.created.timestamp() if job.created else self._started_at
        return since + self._queue_timeout


class OneJobWait(JobWait):
    """A wait on one job; its document is a job's."""

    __slots__ = ("_id", "_is_settled", "_queued_until")

    wants_progress = True

    def __init__(
        self, job_id: str, queue_timeout: float | None, not_found_grace: float, started_at: float
    ) -> None:
        super().__init__(queue_timeout, not_found_grace, started_at)
        self._id = job_id
        self._is_settled = False
        self._queued_until: float | None = None

    @property
    def ids(self) -> str:
        """The id."""
        return self._id

    @property
    def pending(self) -> tuple[str, ...]:
        """The job, if its end is not known."""
        return () if self._is_settled else (self._id,)

    @property
    def wants_outputs(self) -> bool:
        """Whether the document is to have outputs: yes."""
        return True

    @property
    def queue_limits(self) -> Mapping[str, float]:
        """When, in epoch seconds, the job will have been queued for too long."""
        return {} if self._queued_until is None else {self._id: self._queued_until}

    def normalize(self, job_id: Callable[[str], str]) -> None:
        """Write the id as the service does.

        :raises RefusedError: it could not be one of the service's
        """
        known = job_id(self._id)
        if known != self._id:  # or there would be two copies of most ids
            self._id = known

    def _text(self, job: Job | None) -> str:
        return describe(job) if job is not None else f"Where job {self._id} stands is not known"

    def _settle(self, job_id: str, how: End, text: str, job: Job | None) -> None:
        self._is_settled = True
        self.overdue = (job_id,) if how is End.QUEUE_TIMEOUT else ()
        found = document(job) if job is not None else None
        self.ending = Ending(how, "" if how is End.SUCCEEDED else text, found)

    def _note_queue(self, job_id: str, until: float | None) -> None:
        self._queued_until = until


class JobListWait(JobWait):
    """A wait on several jobs, each of which must finish; its document is the list of theirs."""

    __slots__ = (
        "_counts",
        "_documents",
        "_fail_fast",
        "_failures",
        "_ids",
        "_pending",
        "_queued",
        "_states",
    )

    wants_progress = False

    def __init__(
        self,
        job_ids: Sequence[str],
        queue_timeout: float | None,
        not_found_grace: float,
        started_at: float,
        *,
        fail_fast: bool,
    ) -> None:
        super().__init__(queue_timeout, not_found_grace, started_at)
        self._ids = list(job_ids)
        self._fail_fast = fail_fast
        self._documents: dict[str, dict[str, Any]] = {}
        self._failures: list[tuple[End, str]] = []
        self._queued: dict[str, float] = {}
        # Of the pending jobs: where each stands, and how many in each state.
        self._states: dict[str, JobState] = {}
        self._counts: Counter[JobState] = Counter()
        self._pending = set(self._ids)
        if not self._ids:
            self.ending = Ending(End.SUCCEEDED, "", [])

    @property
    def ids(self) -> list[str]:
        """The ids."""
        return list(self._ids)

    @property
    def pending(self) -> set[str]:
        """The jobs whose end is not known."""
        return self._pending

    @property
    def wants_outputs(self) -> bool:
        """Whether the documents are to have outputs: not if there are many."""
        return len(self._ids) <= MAX_WITH_OUTPUTS

    @property
    def queue_limits(self) -> Mapping[str, float]:
        """When, in epoch seconds, each queued job will have been queued for too long."""
        return self._queued

    def normalize(self, job_id: Callable[[str], str]) -> None:
        """Write the ids as the service does.

        :raises RefusedError: one could not be the service's, or two are the same
        """
        self._ids = list(map(job_id, self._ids))
        self._pending = set(self._ids)
        # No service tells names by their case.
        counts = Counter(known.casefold() for known in self._ids)
        if twice := [known for known in self._ids if counts[known.casefold()] > 1]:
            raise RefusedError(f"job_id holds {twice[0]} more than once; give each job once")

    def see(self, job: Job, at: float | None = None) -> str | None:
        """Take notice of a reading of one of the jobs; see `JobWait.see`."""
        if job.id in self._pending:
            self._forget_state(job.id)
            self._states[job.id] = job.state
            self._counts[job.state] += 1
        return super().see(job, at)

    def _forget_state(self, job_id: str) -> None:
        if (state := self._states.pop(job_id, None)) is not None:
            self._counts[state] -= 1

    def _text(self, job: Job | None) -> str:
        parts = [f"{len(self._documents)} of {len(self._ids)} jobs have finished"]
        if self._failures:
            parts.append(f"{len(self._failures)} have not")
        parts += [f"{count} {state}" for state, count in sorted(self._counts.items()) if count]
        unread = len(self._pending) - len(self._states)
        return ", ".join([*parts, f"{unread} not read yet"] if unread else parts)

    def _settle(self, job_id: str, how: End, text: str, job: Job | None) -> str | None:
        self._pending.discard(job_id)
        self._queued.pop(job_id, None)
        self._forget_state(job_id)
        if how is End.QUEUE_TIMEOUT:
            self.overdue = (*self.overdue, job_id)
        if how is End.SUCCEEDED and job is not None:
            self._documents[job_id] = document(job if self.wants_outputs else replace(job, outputs=None))
        else:
            self._failures.append((how, text))
        if self._failures and (self._fail_fast or not self._pending):
            self.ending = Ending(min(self._failures, key=_gravity)[0], self._reasons())
        elif not self._pending:
            self.ending = Ending(End.SUCCEEDED, "", [self._documents[known] for known in self._ids])
        return text if how is not End.SUCCEEDED and self.ending is None else None

    def _note_queue(self, job_id: str, until: float | None) -> None:
        if until is None:
            self._queued.pop(job_id, None)
        else:
            self._queued[job_id] = until

    def _reasons(self) -> str:
        texts = [text for _, text in self._failures]
        if self._fail_fast:
            return texts[0]
        more = f"; and {len(texts) - _MAX_REASONS} more" if len(texts) > _MAX_REASONS else ""
        reasons = "; ".join(texts[:_MAX_REASONS])
        return f"{len(texts)} of {len(self._ids)} jobs have not finished: {reasons}{more}"


def _gravity(failure: tuple[End, str]) -> int:
    return [End.FAILED, End.CANCELED, End.NOT_FOUND, End.QUEUE_TIMEOUT].index(failure[0])
