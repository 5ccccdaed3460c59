"""When `JobWatch` reads which job next."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Collection, Iterator, Set
from itertools import chain, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ams.api.model import Job
    from airflow_ams.triggers.waiters import Waiter

NEVER = -math.inf
EARLY = 0.25
"""Share of its interval by which a job's first reading may come too early, so that many are read together."""

SLACK = 0.05
"""The same of its other readings."""


STEP = 5.0
"""Points of percent by which a job moves on a list before it is looked at again so soon."""

STEP_SECONDS = 30.0
"""Seconds after which any point will do; the service's own events (JobOutputProgress) keep to both."""


class Watched:
    """One job that somebody waits for.

    :param id: as the service writes it
    :param interval: seconds between two readings, the smallest that a waiter asked for
    """

    __slots__ = (
        "_waiters",
        "failing_since",
        "id",
        "interval",
        "is_asked_for",
        "is_being_read",
        "is_off_list",
        "job",
        "moved_at",
        "percent_at",
        "read_at",
        "retry_at",
        "tries",
        "wants_progress",
    )

    def __init__(self, job_id: str, interval: float) -> None:
        self.id = job_id
        self.interval = interval
        # Mostly there is one, for whom a dict would be large.
        self._waiters: dict[Waiter, None] | Waiter | None = None
        self.job: Job | None = None
        """The last reading, without the service's own document."""
        self.read_at = NEVER
        self.percent_at = NEVER
        """When its percent was read, or found to be about the same."""
        self.moved_at = NEVER
        """When its percent was read."""
        self.tries = 0
        """How often it, or its errors or outputs, could not be read since the last time."""
        self.retry_at = NEVER
        """When to try again."""
        self.failing_since = math.inf
        """When the first of those tries was made."""
        self.is_being_read = False
        self.is_asked_for = False
        """Somebody is to hear of its next reading, even if nothing has changed."""
        self.wants_progress = False
        """Somebody wants to know its percent."""
        self.is_off_list = False
        """It is active, as a fetch of it has shown, but not in the list of the active jobs."""

    def forget_failures(self) -> None:
        """Note that it has been read."""
        self.tries = 0
        self.retry_at, self.failing_since = NEVER, math.inf

    @property
    def waiters(self) -> Collection[Waiter]:
        """Those who wait for it."""
        if isinstance(self._waiters, dict):
            return self._waiters
        return () if self._waiters is None else (self._waiters,)

    def has_moved(self, progress: float, now: float) -> bool:
        """Whether a percent on a list is worth a look: it has moved, and by much or after a while."""
        before = self.job.progress if self.job is not None else None
        if before is None or round(before) == round(progress):
            return before is None
        return abs(progress - before) >= STEP or now - self.moved_at >= STEP_SECONDS

    def enter(self, waiter: Waiter) -> None:
        """Let somebody wait for it."""
        if isinstance(self._waiters, dict):
            self._waiters[waiter] = None
        else:
            self._waiters = waiter if self._waiters is None else {self._waiters: None, waiter: None}

    def quit(self, waiter: Waiter) -> None:
        """Let somebody go."""
        if isinstance(self._waiters, dict):
            self._waiters.pop(waiter, None)
        elif waiter is self._waiters:
            self._waiters = None


class Schedule:
    """Knows which jobs to read next, and when; adding and removing one costs the same among however many.

    A job is due as soon as it is added, and one interval after each reading. A sweep reads them all. Times
    are seconds on any clock that only goes forward.
    """

    def __init__(self) -> None:
        self._unread: dict[str, Watched] = {}
        # Each in the order of `read_at`, since a job that has been read goes to the end.
        self._queues: dict[float, dict[str, Watched]] = {}
        self._swept_at = -math.inf

    def add(self, job: Watched) -> None:
        """Have a job read in the next round, and once an interval from then on."""
        self._unqueue(job)
        self._unread[job.id] = job

    def set_interval(self, job: Watched, interval: float) -> None:
        """Read a job more often, or less often, from now on."""
        if interval == job.interval:
            return
        is_queued = self._unqueue(job)
        job.interval = interval
        if is_queued:
            self._queues.setdefault(interval, {})[job.id] = job

    def remove(self, job: Watched) -> None:
        """Forget a job."""
        self._unread.pop(job.id, None)
        self._unqueue(job)

    def read(self, job: Watched, now: float) -> None:
        """Note that a job has been read."""
        job.read_at = now
        if self._unread.pop(job.id, None) or self._unqueue(job):
            self._queues.setdefault(job.interval, {})[job.id] = job

    def swept(self, began: float, wanted: Set[str]) -> None:
        """Note that a sweep which began at that time has read these, and all those that were read before."""
        self._swept_at = began
        for job_id in wanted & self._unread.keys():
            self.read(self._unread[job_id], began)

    def __iter__(self) -> Iterator[Watched]:
        """All jobs."""
        yield from self._unread.values()
        for queue in self._queues.values():
            yield from queue.values()

    def next_due(self) -> float:
        """Return when there is a job to read; infinity if there is none."""
        if self._unread:
            return -math.inf
        return min(
            (self._due(next(iter(queue.values()))) for queue in self._queues.values()), default=math.inf
        )

    def due(self, now: float) -> list[Watched]:
        """Return the jobs to read now: first the unread ones, then those that have been due for longest."""
        queues = [self._due_of(queue, now + SLACK * interval) for interval, queue in self._queues.items()]
        return [
            *self._unread.values(),
            *(heapq.merge(*queues, key=self._due) if queues[1:] else chain(*queues)),
        ]

    def _due_of(self, queue: dict[str, Watched], until: float) -> Iterator[Watched]:
        return takewhile(lambda job: self._due(job) <= until, queue.values())

    def _unqueue(self, job: Watched) -> bool:
        queue = self._queues.get(job.interval, {})
        is_queued = queue.pop(job.id, None) is not None
        if is_queued and not queue:
            del self._queues[job.interval]
        return is_queued

    def _due(self, job: Watched) -> float:
        return max(job.read_at, self._swept_at) + job.interval


def jittered(interval: float) -> float:
    """Return a little less than an interval, at random, so that tasks that began together spread out."""
    return interval * random.uniform(1 - EARLY, 1)
