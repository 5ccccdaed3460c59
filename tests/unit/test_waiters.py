"""Who waits for which job: that thousands cost each no more than one does.

Work is counted in calls of Python functions, since a clock would measure the machine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from airflow_ams.api.model import Job, JobState
from airflow_ams.api.waiting import wait_on
from airflow_ams.triggers.waiters import Waiter, Waiters


def job_id(number: int) -> str:
    """Return the id of a job."""
    return f"nb:jid:UUID:00000000-0000-0000-0000-{number:012}"


def reading(number: int, state: JobState) -> Job:
    """Make a reading of a job."""
    return Job(id=job_id(number), name="Encode", state=state)


async def joined(waiters: Waiters, count: int, ids: Callable[[int], Any] = job_id) -> list[Waiter]:
    """Let tasks join, and take them in."""
    made = [Waiter(wait_on(ids(n)), 60.0, time.time() + 3600, lambda *_: None) for n in range(count)]
    for waiter in made:
        waiters.join(waiter, at_once=True)
    await admitted(waiters)
    return made


async def admitted(waiters: Waiters) -> None:
    """Take in those whose time has come."""
    await waiters.admit(waiters.take_newcomers(time.monotonic()))


def calls(work: Callable[[], Any]) -> int:
    """Count the Python functions, and turns of generators, that something calls."""
    count = 0

    def note(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def living(count: int, *, shared: bool = False) -> int:
    """Count the calls that joining, a change of state, and the end of so many waits take."""

    async def main() -> None:
        waiters = Waiters(lambda: None)
        made = await joined(waiters, count, (lambda _: job_id(0)) if shared else job_id)
        for state in (JobState.QUEUED, JobState.PROCESSING, JobState.FINISHED):
            for number in range(1 if shared else count):
                await waiters.saw(reading(number, state))
            waiters.schedule.swept(time.monotonic(), waiters.jobs.keys())
            await waiters.report()
        assert all(waiter.done.done() for waiter in made)
        assert not waiters.jobs

    return calls(lambda: asyncio.run(main()))


def leaving(count: int, *, shared: bool = False) -> int:
    """Count the calls that it takes so many waits to join, and to be stopped, the first one first."""

    async def main() -> None:
        waiters = Waiters(lambda: None)
        for waiter in await joined(waiters, count, (lambda _: job_id(0)) if shared else job_id):
            waiters.drop(waiter)
        assert not waiters.jobs

    return calls(lambda: asyncio.run(main()))


@pytest.mark.parametrize("work", [living, leaving])
def test_many_waits_cost_each_the_same(work: Callable[[int], int]) -> None:
    """Ten times the waits are ten times the work, and not a hundred times."""
    work(10)
    few, many = work(500), work(5000)
    assert many <= 11 * few
    assert many / 5000 < 300


@pytest.mark.parametrize("work", [living, leaving])
def test_many_waits_on_one_job_cost_each_the_same(work: Callable[..., int]) -> None:
    """However many tasks wait for the same job."""
    work(10, shared=True)
    few, many = work(200, shared=True), work(2000, shared=True)
    assert many <= 11 * few


def test_a_long_list_costs_each_of_its_jobs_the_same() -> None:
    """One task that waits for ten thousand jobs."""

    def work(count: int) -> int:
        async def main() -> None:
            waiters = Waiters(lambda: None)
            (waiter,) = await joined(waiters, 1, lambda _: [job_id(n) for n in range(count)])
            for state in (JobState.QUEUED, JobState.FINISHED):
                for number in range(count):
                    await waiters.saw(reading(number, state))
                await waiters.report()
            assert waiter.done.done()

        return calls(lambda: asyncio.run(main()))

    work(10)
    few, many = work(300), work(3000)
    assert many <= 11 * few


def test_the_loop_is_let_go_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes through thousands lets others have their turn; here each slice is but one item long."""
    monkeypatch.setattr("airflow_ams.triggers.waiters.SLICE", -1.0)

    async def turns(work: Any) -> int:
        count = 0

        async def others() -> None:
            nonlocal count
            while True:
                count += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(others())
        await work
        task.cancel()
        return count

    async def main() -> None:
        waiters = Waiters(lambda: None)
        made = [Waiter(wait_on(job_id(n)), 60.0, time.time() + 60, lambda *_: None) for n in range(100)]
        for waiter in made:
            waiters.join(waiter, at_once=True)
        assert await turns(admitted(waiters)) >= 90
        assert await turns(waiters.tell_of_outage(1.0, "down")) >= 90
        assert await turns(waiters.refuse(waiters, "no")) >= 90
        assert all(waiter.done.done() for waiter in made)

    asyncio.run(main())


def test_one_who_has_left_is_not_taken_in() -> None:
    """A wait that ended before the watch came to it leaves nothing behind."""

    async def main() -> None:
        waiters = Waiters(lambda: None)
        waiter = Waiter(wait_on(job_id(1)), 60.0, time.time() + 60, lambda *_: None)
        waiters.join(waiter, at_once=True)
        waiters.drop(waiter)
        await admitted(waiters)
        assert not waiters.jobs
        assert len(waiters) == 0
        assert waiters.next_due() == float("inf")

    asyncio.run(main())


def test_newcomers_come_in_the_order_of_their_time() -> None:
    """Those whose first poll is not due yet are left; whoever was put back is the first next time."""

    async def main() -> None:
        waiters = Waiters(lambda: None)
        soon, late = (
            Waiter(wait_on(job_id(n)), interval, time.time() + 6e5, lambda *_: None)
            for n, interval in enumerate([60.0, 6000.0])
        )
        for waiter in (late, soon):
            waiters.join(waiter, at_once=False)
        now = time.monotonic()
        assert now + 45 <= waiters.next_due() <= now + 61
        assert waiters.take_newcomers(now) == []
        assert waiters.take_newcomers(now + 60) == [soon]
        waiters.put_back([soon])
        assert waiters.take_newcomers(now) == [soon]
        assert waiters.next_due() >= now + 4000
        assert waiters.take_newcomers(now + 6000) == [late]
        assert waiters.next_due() == float("inf")

    asyncio.run(main())


def test_deadlines_ring_in_time() -> None:
    """Many alarms share a timer; none rings before its time, and none is missed."""

    async def main() -> None:
        waiters = Waiters(lambda: None)
        now = time.time()
        made = [Waiter(wait_on(job_id(n)), 60.0, now + 0.2 + n / 500, lambda *_: None) for n in range(100)]
        late: list[float] = []

        def note(at: float, _: object) -> None:
            late.append(time.time() - at)

        for waiter in made:
            waiters.join(waiter, at_once=False)
            at = waiter.deadline
            waiter.done.add_done_callback(partial(note, at))
        waiters.drop(made[99])
        await asyncio.gather(*(waiter.done for waiter in made[:99]))
        assert not made[99].done.done()
        assert min(late) >= 0

    asyncio.run(main())
