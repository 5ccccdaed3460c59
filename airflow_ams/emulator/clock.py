"""The emulator's time, which tests can freeze and move on."""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_ams.emulator.errors import InvalidRequest


class Clock:
    """Seconds since the epoch, as the emulated service sees them.

    Scripted jobs, token expiry and all time stamps follow it. Real encodes take the time they take.

    :param offset: seconds by which it is ahead of the real time.
    :param frozen_at: where it stands still, or None while it runs.
    :param real: the real time.
    """

    def __init__(
        self, offset: float = 0.0, frozen_at: float | None = None, real: Callable[[], float] = time.time
    ) -> None:
        self.offset = offset
        self.frozen_at = frozen_at
        self._real = real

    def now(self) -> float:
        """Return the current time."""
        return self._real() + self.offset if self.frozen_at is None else self.frozen_at

    def advance(self, seconds: float) -> None:
        """Move on by *seconds*, frozen or not.

        :raises InvalidRequest: *seconds* is negative; time does not run backwards.
        """
        if seconds < 0:
            raise InvalidRequest(f"The clock cannot go back: advance is {seconds}.")
        if self.frozen_at is None:
            self.offset += seconds
        else:
            self.frozen_at += seconds

    def freeze(self) -> None:
        """Stand still from now on."""
        if self.frozen_at is None:
            self.frozen_at = self.now()

    def unfreeze(self) -> None:
        """Run again from where it stood."""
        if self.frozen_at is not None:
            self.offset = self.frozen_at - self._real()
            self.frozen_at = None

    def reset(self) -> None:
        """Go back to the real time."""
        self.offset, self.frozen_at = 0.0, None
