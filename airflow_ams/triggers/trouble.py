"""What `JobWatch` remembers of a service's trouble: how long it has lasted, and when to ask again."""

from __future__ import annotations

import math
import random

from airflow_ams.api.errors import RefusedError, TransientError
from airflow_ams.api.retries import MAX_RETRY_AFTER

MAX_BACK_OFF = 15.0
"""Seconds to stay away at most, besides what the service asks for."""

_FIRST_BACK_OFF = 0.5
_SPARE = 8


def back_off(failures: int) -> float:
    """Return how many seconds to stay away after so many failures: exponential, with full jitter."""
    return random.uniform(0, min(MAX_BACK_OFF, _FIRST_BACK_OFF * 2.0 ** min(failures, 10)))


class Tally:
    """What came of some requests.

    :param answered_at: when there was an answer last
    """

    def __init__(self, answered_at: float) -> None:
        self.errors: list[Exception] = []
        self.answers = 0
        self.answered_at = answered_at
        self._began = math.inf

    def answered(self, now: float) -> None:
        """Count an answer."""
        self.answers += 1
        self.answered_at = now

    def failed(self, exc: Exception, began: float) -> None:
        """Count a failure of what was begun at that time."""
        self.errors.append(exc)
        self._began = min(self._began, began)

    def is_hopeless(self, spare: int = _SPARE) -> bool:
        """Whether to leave the service alone: it asks for it, refuses us, or gives more errors than answers.

        :param spare: errors that do not count
        """
        if len(self.errors) > self.answers + spare:
            return True
        return any(
            isinstance(error, RefusedError) or getattr(error, "retry_after", None) for error in self.errors
        )

    @property
    def is_general(self) -> bool:
        """Whether nothing was answered since the first of what failed was begun."""
        return self.answered_at < self._began

    @property
    def worst(self) -> Exception:
        """The error to act on."""
        return min(self.errors, key=_urgency)


class Trouble:
    """The one back-off of all who wait: exponential, full jitter, on top of the service's ``Retry-After``.

    Times are seconds on a clock that only goes forward. `since` is when the first of the failures came after
    which nothing was answered, `quiet_until` when to ask again.
    """

    def __init__(self) -> None:
        self._failures = 0
        self.since: float | None = None
        self.quiet_until = -math.inf
        self.tally = Tally(-math.inf)
        """What came of the requests since `take`."""
        self.has_answered = False
        """Whether there was ever an answer; then what looks like a wrong address may pass."""
        self.has_renewed = False
        """Whether the connection was read anew since the last answer."""

    def came(self, now: float, retry_after: float | None = None) -> None:
        """Stay away for a while.

        :param retry_after: seconds that the service asked for
        """
        self.since = now if self.since is None else self.since
        pause = back_off(self._failures)
        self._failures += 1
        retry_after = min(retry_after or 0.0, MAX_RETRY_AFTER)
        self.quiet_until = now + retry_after + (min(pause, retry_after) if retry_after else pause)

    def answered(self, now: float) -> None:
        """Note that a request was answered."""
        self.tally.answered(now)
        self.has_answered = True
        self.has_renewed = False
        self.passed()

    def passed(self) -> None:
        """Begin to count anew."""
        self._failures = 0
        self.since = None

    def take(self) -> Tally:
        """Return what came of the requests since the last time."""
        tally, self.tally = self.tally, Tally(self.tally.answered_at)
        return tally

    @property
    def is_outage(self) -> bool:
        """Whether more than one failure has come, and no answer in between."""
        return self._failures > 1

    def lasted(self, now: float) -> float:
        """Return for how many seconds nothing was answered."""
        return 0.0 if self.since is None else now - self.since


def _urgency(error: Exception) -> tuple[bool, float]:
    """Sort errors: first what no repetition mends, then what asks for the longest pause."""
    is_transient = isinstance(error, TransientError)
    return is_transient, -(error.retry_after or 0.0) if isinstance(error, TransientError) else 0.0
