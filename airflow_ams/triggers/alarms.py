"""Alarm clocks for thousands."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

SLICE = 0.005
"""Seconds for which the event loop may be held up at a time."""

TICK = 0.1
"""Seconds by which an alarm may ring too late."""

_T = TypeVar("_T", bound=Hashable)


class Alarms(Generic[_T]):
    """Rings for each sleeper once; all who want to be woken in one tick share a timer of the event loop.

    A timer for each would be a good part of what a waiting task costs.

    :param ring: called with the sleeper, in the event loop
    """

    def __init__(self, ring: Callable[[_T], None]) -> None:
        self._ring = ring
        # Dicts as ordered sets, which are a third as large as sets.
        self._sleepers: dict[int, dict[_T, None]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def set(self, sleeper: _T, before: int | None, at: float) -> int | None:
        """Set a sleeper's alarm instead of the one that it has.

        :param before: what this returned for that one
        :param at: when to ring, in epoch seconds; infinity: never
        :returns: the alarm
        """
        tick = None if math.isinf(at) else math.ceil(at / TICK)
        if tick == before:
            return tick
        self.drop(sleeper, before)
        if tick is not None:
            if tick not in self._sleepers:
                loop = asyncio.get_running_loop()
                delay = max(0.0, tick * TICK - time.time())
                self._timers[tick] = loop.call_later(delay, self._wake, tick)
            self._sleepers.setdefault(tick, {})[sleeper] = None
        return tick

    def drop(self, sleeper: _T, alarm: int | None) -> None:
        """Let a sleeper sleep on."""
        sleepers = self._sleepers.get(alarm, {}) if alarm is not None else {}
        sleepers.pop(sleeper, None)
        if alarm in self._sleepers and not sleepers:
            del self._sleepers[alarm]
            self._timers.pop(alarm).cancel()

    def _wake(self, tick: int) -> None:
        self._timers.pop(tick, None)
        self._ring_some(list(self._sleepers.pop(tick, {})))

    def _ring_some(self, sleepers: list[_T]) -> None:
        end = time.monotonic() + SLICE
        while sleepers and time.monotonic() < end:
            self._ring(sleepers.pop())
        if sleepers:
            asyncio.get_running_loop().call_soon(self._ring_some, sleepers)
