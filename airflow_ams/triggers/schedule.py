"""When `JobWatch` reads which job next."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ams.api.model import Job
    from airflow_ams.triggers.waiters import Waiter

NEVER = -math.inf
EARLY = 0.25
"""Share of its interval by which a job may be read too early, so that jobs are read together."""


class Watched:
    """One job that somebody waits for.

    :param id: as the service writes it
    :param interval: seconds between two readings, the smallest that a waiter asked for
    """

    __slots__ = ("due", "id", "interval", "is_off_list", "job", "percent_at", "read_at", "tries", "waiters")

    def __init__(self, job_id: str, interval: float) -> None:
        self.id = job_id
        self.interval = interval
        self.waiters: tuple[Waiter, ...] = ()
        self.job: Job | None = None
        """The last reading, without the service's own document."""
        self.due: float | None = None
        """When it is to be read for the first time; None once that time has come."""
        self.read_at = NEVER
        self.percent_at = NEVER
        self.tries = 0
        """How often its errors, or outputs, could not be read."""
        self.is_off_list = False
        """It is active, as a fetch of it has shown, but not in the list of the active jobs."""


class Schedule:
    """Knows which jobs to read next, and when; adding and removing one costs the same however many there are.

    A job that has been read is due again one interval later. A sweep reads all whose first time has come.
    Times are seconds on any clock that only goes forward.
    """

    def __init__(self) -> None:
        self._later: list[tuple[float, int, Watched]] = []
        self._count = 0
        self._unread: dict[str, Watched] = {}
        # Each in the order of `read_at`, since a job that has been read goes to the end.
        self._queues: dict[float, dict[str, Watched]] = {}
        self._swept_at = -math.inf

    def add(self, job: Watched, first: float) -> None:
        """Take in a job that is to be read for the first time at `first`, or when that was said before."""
        is_in = job.id in self._unread or job.id in self._queues.get(job.interval, {})
        if is_in or (job.due is not None and job.due <= first):
            return
        job.due = first
        self._count += 1
        heapq.heappush(self._later, (first, self._count, job))

    def look(self, job: Watched) -> None:
        """Have a job read in the next round."""
        job.due = None
        self._unqueue(job)
        self._unread[job.id] = job

    def hurry(self, job: Watched, interval: float) -> None:
        """Read a job more often from now on, if that is more often."""
        if interval >= job.interval:
            return
        is_queued = self._unqueue(job)
        job.interval = interval
        if is_queued:
            self._queues.setdefault(interval, {})[job.id] = job

    def remove(self, job: Watched) -> None:
        """Forget a job."""
        # One whose first time has not come stays in the heap until then.
        job.due = None
        self._unread.pop(job.id, None)
        self._unqueue(job)

    def read(self, job: Watched, now: float) -> None:
        """Note that a job has been read."""
        job.read_at = now
        if self._unread.pop(job.id, None) or self._unqueue(job):
            self._queues.setdefault(job.interval, {})[job.id] = job

    def swept(self, now: float) -> None:
        """Note that all jobs whose first time has come have been read."""
        self._swept_at = now
        unread, self._unread = self._unread, {}
        for job in unread.values():
            job.read_at = now
            self._queues.setdefault(job.interval, {})[job.id] = job

    def __iter__(self) -> Iterator[Watched]:
        """All jobs whose first time has come."""
        yield from self._unread.values()
        for queue in self._queues.values():
            yield from queue.values()

    def next_due(self) -> float:
        """Return when there is a job to read; infinity if there is none."""
        if self._unread:
            return -math.inf
        while self._later and self._later[0][2].due != self._later[0][0]:
            heapq.heappop(self._later)
        first = self._later[0][0] if self._later else math.inf
        return min([first, *(self._due(next(iter(queue.values()))) for queue in self._queues.values())])

    def due(self, now: float) -> list[Watched]:
        """Return the jobs to read now: first the unread ones, then those that were read longest ago."""
        self._admit(now)
        jobs = list(self._unread.values())
        for interval, queue in self._queues.items():
            for job in queue.values():
                if self._due(job) > now + EARLY * interval:
                    break
                jobs.append(job)
        return jobs

    def _admit(self, now: float) -> None:
        """Let in the jobs whose first time has come, or is so near that they may as well be read now."""
        while self._later:
            first, _, job = self._later[0]
            is_valid = job.due == first
            if is_valid and first > now + EARLY * job.interval:
                return
            heapq.heappop(self._later)
            if is_valid:
                job.due = None
                self._unread[job.id] = job

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
