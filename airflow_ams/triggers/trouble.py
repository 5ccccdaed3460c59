"""What `JobWatch` remembers of a service's trouble: how long it has lasted, and when to ask again."""

from __future__ import annotations

import math
import random

from airflow_ams.api.retries import MAX_RETRY_AFTER

MAX_BACK_OFF = 15.0
"""Seconds to stay away at most, besides what the service asks for."""

_FIRST_BACK_OFF = 0.5


def back_off(failures: int) -> float:
    """Return how many seconds to stay away after so many failures: exponential, with full jitter."""
    return random.uniform(0, min(MAX_BACK_OFF, _FIRST_BACK_OFF * 2.0 ** min(failures, 10)))


class Trouble:
    """The one back-off of all who wait: exponential, full jitter, on top of the service's ``Retry-After``.

    Times are seconds on any clock that only goes forward. `since` is when the first of the failures came
    after which nothing was answered, `quiet_until` when to ask again.
    """

    def __init__(self) -> None:
        self._failures = 0
        self.since: float | None = None
        self.quiet_until = -math.inf

    def came(self, now: float, retry_after: float | None = None) -> None:
        """Note that a request failed, and stay away for a while.

        :param retry_after: seconds that the service asked for
        """
        self.since = now if self.since is None else self.since
        pause = back_off(self._failures)
        self._failures += 1
        retry_after = min(retry_after or 0.0, MAX_RETRY_AFTER)
        self.quiet_until = now + retry_after + (min(pause, retry_after) if retry_after else pause)

    def passed(self) -> None:
        """Note that a request was answered."""
        self._failures = 0
        self.since = None

    @property
    def is_outage(self) -> bool:
        """Whether more than one failure has come, and no answer in between."""
        return self._failures > 1

    def lasted(self, now: float) -> float:
        """Return for how many seconds nothing was answered."""
        return 0.0 if self.since is None else now - self.since
