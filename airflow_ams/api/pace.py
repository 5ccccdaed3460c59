"""How fast a process may ask one account, so that it stays below what the service allows."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ams.api.wire import Answer

_CLOSE = 100
"""Reads that are left when `ReadsLeft` begins to slow down."""

_SLOWEST = 0.5
"""Seconds between two reads when none is left: slower than they come back by either of its models."""

_READS_LEFT = (
    "x-ms-ratelimit-remaining-subscription-reads",
    "x-ms-ratelimit-remaining-tenant-reads",
    "x-ms-ratelimit-remaining-subscription-resource-requests",
    "x-ms-ratelimit-remaining-subscription-resource-entities-read",
)


class Pace(ABC):
    """Spreads the reads of all threads that share it; writes go at once.

    :param burst: seconds' worth of reads that may come together
    """

    def __init__(self, burst: float) -> None:
        self._burst = burst
        self._lock = threading.Lock()
        # When the next read would come if all had been spread evenly.
        self._due = 0.0

    @property
    @abstractmethod
    def spacing(self) -> float:
        """Seconds from one read to the next."""

    @abstractmethod
    def learn(self, answer: Answer) -> None:
        """Draw the consequences of an answer."""

    def wait(self, time_left: float | None = None) -> None:
        """Sleep until a read may be sent, `time_left` seconds at most."""
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now)
            pause = self._due - now - self._burst
            self._due += self.spacing
        pause = pause if time_left is None else min(pause, time_left)
        if pause > 0:
            time.sleep(pause)

    def hold(self, seconds: float) -> None:
        """Let nobody read for so long."""
        with self._lock:
            self._due = max(self._due, time.monotonic() + self._burst + seconds)


class Budget(Pace):
    """Keeps to a fixed number of reads a minute, for a service that does not say how many are left.

    A refusal means that others use the same budget: then nothing is read for `after_refusal` seconds.

    :param a_minute: reads a minute
    :param burst: reads that may come together
    :param after_refusal: seconds
    """

    def __init__(self, a_minute: float, *, burst: int, after_refusal: float) -> None:
        super().__init__(burst * 60 / a_minute)
        self._spacing = 60 / a_minute
        self._after_refusal = after_refusal

    @property
    def spacing(self) -> float:
        """Seconds from one read to the next."""
        return self._spacing

    def learn(self, answer: Answer) -> None:
        """Stay away for a while after a refusal that does not say for how long."""
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS and answer.retry_after is None:
            self.hold(self._after_refusal)


class ReadsLeft(Pace):
    """Slows down as the reads run out that Resource Manager says are left ("Request limits")."""

    def __init__(self) -> None:
        super().__init__(burst=0.0)
        self._left = _CLOSE

    @property
    def spacing(self) -> float:
        """Seconds from one read to the next."""
        return _SLOWEST * (1 - min(self._left, _CLOSE) / _CLOSE)

    def learn(self, answer: Answer) -> None:
        """Take note of how many reads are left."""
        left = [count for name in _READS_LEFT if (count := _count(answer.headers, name)) is not None]
        if left:
            self._left = min(left)


@lru_cache(maxsize=64)
def shared_budget(_: object, a_minute: float, burst: int, after_refusal: float) -> Budget:
    """Return the process's one budget for an account; the first argument says which."""
    return Budget(a_minute, burst=burst, after_refusal=after_refusal)


@lru_cache(maxsize=64)
def shared_reads_left(_: object) -> ReadsLeft:
    """Return the process's one pace for a subscription and who asks it; the argument says which."""
    return ReadsLeft()


def _count(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "").strip()
    return int(text) if text.isdecimal() else None
