"""The jobs that all the services to measure against speak of, and how punctually they are read."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

PAGE = 1000
QUEUED, SCHEDULED, PROCESSING, FINISHED, ERROR, CANCELED, CANCELING = range(7)
LATE = 1.0
"""Seconds by which a poll may be late to be on time."""


class Jobs:
    """The account's jobs, by number; the ends that are due happen when somebody looks.

    :param count: how many jobs are active at first
    :param ended: how many more, with the next numbers, have long finished
    """

    def __init__(self, count: int, ended: int = 0) -> None:
        self.began = datetime.now(timezone.utc)
        self.states = [min(n % 10, PROCESSING) for n in range(count)] + [FINISHED] * ended
        self.ends: dict[int, float] = {}
        self._due: list[tuple[float, int, int]] = []
        self._lists: dict[frozenset[int], list[int]] = {}
        self._rows: dict[str, list[bytes | None]] = {}

    def schedule(self, index: int, moment: float, state: int) -> None:
        """Let a job end at this time of the system's clock."""
        heapq.heappush(self._due, (moment, index, state))

    def settle(self, now: float) -> None:
        """Let the ends that are due happen."""
        while self._due and self._due[0][0] <= now:
            moment, index, state = heapq.heappop(self._due)
            if self.states[index] in (FINISHED, ERROR, CANCELED):
                continue
            self.states[index] = state
            self.ends[index] = moment
            self._lists.clear()
            for rows in self._rows.values():
                rows[index] = None

    def in_states(self, wanted: frozenset[int]) -> list[int]:
        """Return the jobs in these states; they are remembered until a job ends."""
        if wanted not in self._lists:
            self._lists[wanted] = [n for n, state in enumerate(self.states) if state in wanted]
        return self._lists[wanted]

    def rows(self, indexes: Iterable[int], form: str, render: Callable[[int], bytes]) -> list[bytes]:
        """Return the rows of jobs in a form; each is rendered once, and again when its job has ended."""
        rows = self._rows.setdefault(form, [None] * len(self.states))
        found = []
        for index in indexes:
            row = rows[index]
            if row is None:
                row = rows[index] = render(index)
            found.append(row)
        return found

    def created(self, index: int) -> datetime:
        """Return when a job was created."""
        return self.began - timedelta(hours=1) + timedelta(milliseconds=37 * index)

    def started(self, index: int) -> datetime | None:
        """Return when a job began to be worked on."""
        is_started = self.states[index] >= PROCESSING
        return self.created(index) + timedelta(seconds=8.5) if is_started else None

    def ended(self, index: int) -> datetime | None:
        """Return when a job ended, if it was a scheduled end."""
        return datetime.fromtimestamp(self.ends[index], timezone.utc) if index in self.ends else None

    def percent(self, index: int, now: float) -> float:
        """Return how far a job is; an encode takes ten minutes."""
        return 100.0 if self.states[index] == FINISHED else min(99.0, (now - self.began.timestamp()) / 6)


class Readings:
    """How punctually each active job is read, from now on.

    A gap is the time between two readings of one job; at the window's end, one that goes on counts if it is
    late already. A gap that is not on time counts for all the polls that were due in it.

    :param interval: seconds between two polls that are due
    :param before: the window before, for when each job was last read
    """

    def __init__(self, jobs: Jobs, interval: float, before: Readings | None = None) -> None:
        self._jobs = jobs
        self._interval = interval
        self._limit = interval + LATE
        self._last: list[float] = before._last if before else [time.time()] * len(jobs.states)
        self.on_time = 0
        self.late = 0
        self.made = 0
        self.longest = 0.0

    def note(self, indexes: Iterable[int], now: float) -> None:
        """Note that these jobs are being read."""
        last, limit = self._last, self._limit
        for index in indexes:
            gap = now - last[index]
            last[index] = now
            self.made += 1
            if gap <= limit:
                self.on_time += 1
            else:
                self.late += self._due_in(gap)
            if gap > self.longest:
                self.longest = gap

    def result(self) -> dict[str, Any]:
        """Return the polls counted so far, and the longest gap."""
        now = time.time()
        waiting = [now - self._last[n] for n, state in enumerate(self._jobs.states) if state <= PROCESSING]
        late = self.late + sum(self._due_in(gap) for gap in waiting if gap > self._limit)
        longest = max([self.longest, *waiting])
        return {"on_time": self.on_time, "late": late, "made": self.made, "longest": longest}

    def _due_in(self, gap: float) -> int:
        return int(gap // self._interval)


class Account:
    """The jobs, and what was asked about them so far.

    :param jobs: how many are active at first
    :param ended: how many more have long finished
    :param interval: seconds between two polls of a job that are due
    """

    def __init__(self, jobs: int = 0, ended: int = 0, interval: float = 5.0) -> None:
        self.jobs = Jobs(jobs, ended)
        self.readings = Readings(self.jobs, interval)
        self.counts: Counter[str] = Counter()
        self.canceled: list[int] = []
        self._interval = interval

    def open_window(self) -> None:
        """Begin to count how punctually jobs are read."""
        self.readings = Readings(self.jobs, self._interval, self.readings)
