"""One timer for all who want to be woken in the same tick."""

from __future__ import annotations

import asyncio
import time

from airflow_ams.triggers.alarms import TICK, Alarms


def test_an_alarm_that_has_rung_leaves_a_new_one_of_its_tick_alone() -> None:
    """Somebody sets one again while others of the same tick are still being woken."""

    async def run() -> list[str]:
        woken: list[str] = []
        alarms = Alarms(woken.append)
        rung = alarms.set("first", None, time.time())
        at = time.time() + 3 * TICK
        old = alarms.set("second", None, at)
        await asyncio.sleep(2 * TICK)
        assert woken == ["first"]
        alarms.drop("first", rung)
        # The timer is early by the clock that is on the wall: its tick comes twice.
        assert old is not None
        old.timer.cancel()
        alarms._wake(old.tick)
        again = alarms.set("third", None, at)
        assert again is not None
        assert again.tick == old.tick
        alarms.drop("second", old)
        await asyncio.sleep(4 * TICK)
        return woken

    assert asyncio.run(run()) == ["first", "second", "third"]


def test_a_dropped_alarm_leaves_no_timer() -> None:
    """Waits that end early, with deadlines a week ahead, leave nothing behind for that week."""

    async def run() -> None:
        alarms = Alarms[str](lambda sleeper: None)
        alarm = alarms.set("one", None, time.time() + 604_800)
        assert alarms.set("two", None, time.time() + 604_800) is not None
        assert alarm is not None
        timer = alarm.timer
        for sleeper in list(alarm.sleepers):
            alarms.drop(sleeper, alarm)
        assert timer.cancelled()
        assert alarms.set("one", None, float("inf")) is None

    asyncio.run(run())
