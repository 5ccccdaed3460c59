"""Alarm clocks for thousands."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

SLICE = 0.005
"""Seconds for which the event loop may be held up at a time."""

TICK = 0.1
"""Seconds by which an alarm may ring too late."""

_T = TypeVar("_T", bound=Hashable)


@dataclass(eq=False, slots=True)
class Alarm(Generic[_T]):
    """Rings once, for all who want to be woken in its tick.

    :param sleepers: a dict as an ordered set, which is a third as large as a set
    """

    tick: int
    timer: asyncio.TimerHandle
    sleepers: dict[_T, None] = field(default_factory=dict)


class Alarms(Generic[_T]):
    """Rings for each sleeper once; all who want to be woken in one tick share a timer of the event loop.

    A timer for each would be a good part of what a waiting task costs.

    :param ring: called with the sleeper, in the event loop
    """

    def __init__(self, ring: Callable[[_T], None]) -> None:
        self._ring = ring
        self._alarms: dict[int, Alarm[_T]] = {}

    def set(self, sleeper: _T, before: Alarm[_T] | None, at: float) -> Alarm[_T] | None:
        """Set a sleeper's alarm instead of the one that it has.

        :param before: what this returned for that one
        :param at: when to ring, in epoch seconds; infinity: never
        :returns: the alarm
        """
        tick = None if math.isinf(at) else math.ceil(at / TICK)
        if tick == (before.tick if before else None):
            return before
        self.drop(sleeper, before)
        if tick is None:
            return None
        alarm = self._alarms.get(tick)
        if alarm is None:
            delay = max(0.0, tick * TICK - time.time())
            timer = asyncio.get_running_loop().call_later(delay, self._wake, tick)
            alarm = self._alarms[tick] = Alarm(tick, timer)
        alarm.sleepers[sleeper] = None
        return alarm

    def drop(self, sleeper: _T, alarm: Alarm[_T] | None) -> None:
        """Let a sleeper sleep on."""
        if alarm is None or sleeper not in alarm.sleepers:
            return
        del alarm.sleepers[sleeper]
        if not alarm.sleepers:
            alarm.timer.cancel()
            self._alarms.pop(alarm.tick, None)

    def _wake(self, tick: int) -> None:
        sleepers = self._alarms.pop(tick).sleepers
        woken = list(sleepers)
        sleepers.clear()
        self._ring_some(woken)

    def _ring_some(self, sleepers: list[_T]) -> None:
        end = time.monotonic() + SLICE
        while sleepers and time.monotonic() < end:
            self._ring(sleepers.pop())
        if sleepers:
            asyncio.get_running_loop().call_soon(self._ring_some, sleepers)
