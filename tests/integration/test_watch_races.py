"""Jobs move while lists are being read, and while others are fetched: none is lost, or ended wrongly."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests.integration.account import (
    CANCELED,
    CANCELING,
    ERROR,
    FINISHED,
    PROCESSING,
    QUEUED,
    SCHEDULED,
    Account,
)
from tests.integration.account_v3 import ArmAccount
from tests.integration.waits import running, trigger, until

SIZES = {"Large": 40, "Middle": 15, "Enough": 9, "Small": 7, "Single": 1}
"""Jobs by transform, of which some are worth a list, for some time; v2 and MK.IO have one list for all."""

INTERVALS = (0.15, 0.4, 1.0, 2.5)
OUTCOMES = {FINISHED: "succeeded", ERROR: "failed", CANCELED: "canceled"}
UNNAMED = 9
"""A state that nobody has heard of, in which a job is in no list of active ones."""

NEXT = {
    QUEUED: (QUEUED, SCHEDULED, CANCELED),
    SCHEDULED: (PROCESSING, PROCESSING, UNNAMED),
    UNNAMED: (PROCESSING, FINISHED),
    PROCESSING: (PROCESSING, PROCESSING, PROCESSING, FINISHED, FINISHED, ERROR, CANCELING),
    CANCELING: (CANCELED, FINISHED),
}
"""Where a job may go from where it is."""


class Mover:
    """Moves the jobs of an account, one after the other, until all have ended.

    :param seed: the same moves for the same seed; when they come is up to the machine
    """

    def __init__(self, account: Account, seed: int) -> None:
        self.ended_at: dict[str, float] = {}
        self._account = account
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Mover:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        account = self._account
        active = list(account.states)
        while active and not self._over.wait(0.008):
            job_id = self._random.choice(active)
            account.progress[job_id] = self._random.uniform(0, 100)
            state = self._random.choice(NEXT[account.states[job_id]])
            if state in OUTCOMES:
                # Before it can be seen.
                self.ended_at[job_id] = time.monotonic()
                active.remove(job_id)
            account.put([job_id], state)


def trouble_of(account: Account, seed: int, failing: float) -> Any:
    """Let answers take their time, and some fail."""
    chance = random.Random(seed)

    def trouble(seen: Any) -> Any:
        time.sleep(chance.uniform(0, 0.06 if account.is_list(seen) else 0.03))
        if seen.method == "GET" and chance.random() < failing:
            return account.reply(503, {})
        return None

    return trouble


async def ended(one: Any) -> tuple[float, str]:
    """Run a trigger; return when it fired, and with which outcome."""
    (event,) = [event async for event in one.run()]
    return time.monotonic(), event.payload["outcome"]


@pytest.mark.parametrize(
    ("account", "seed", "failing"),
    [("v2", 1, 0.0), ("arm", 1, 0.0), ("mkio", 1, 0.0), ("arm", 2, 0.05)],
    indirect=["account"],
)
def test_no_wait_is_lost_while_jobs_move(
    account: Account, monkeypatch: pytest.MonkeyPatch, seed: int, failing: float, quick_back_off: None
) -> None:
    """Several transforms, intervals, pages, and waits that join late: each ends as its job has, and after it.

    Rounds wait for nothing for long, so that much is under way at a time.
    """
    monkeypatch.setattr("airflow_ams.triggers.watch._LIST_PATIENCE", 0.03)
    monkeypatch.setattr("airflow_ams.triggers.fetches.PATIENCE", 0.02)
    account.page_size = 7
    account.trouble = trouble_of(account, seed, failing)
    ids = [job_id for name, count in SIZES.items() for job_id in account.add(count, QUEUED, name)]
    chance = random.Random(seed)
    chance.shuffle(ids)
    intervals = {job_id: chance.choice(INTERVALS) for job_id in ids}
    waits = {
        job_id: trigger(
            job_id,
            account.conn_id,
            poke_interval=interval,
            started_at=chance.choice([None, time.time()]),
        )
        for job_id, interval in intervals.items()
    }

    async def main() -> list[tuple[float, str]]:
        late = asyncio.gather(*[after(chance.uniform(0, 1.5), ended(waits[job_id])) for job_id in ids[::3]])
        others = [job_id for n, job_id in enumerate(ids) if n % 3]
        on_time = asyncio.gather(*[ended(waits[job_id]) for job_id in others])
        found = await asyncio.wait_for(asyncio.gather(late, on_time), 55)
        by_id = dict(zip([*ids[::3], *others], [*found[0], *found[1]], strict=True))
        return [by_id[job_id] for job_id in ids]

    began = time.monotonic()
    with Mover(account, seed) as mover:
        events = asyncio.run(main())
    seconds = time.monotonic() - began
    assert [outcome for _, outcome in events] == [OUTCOMES[account.states[job_id]] for job_id in ids]
    early = [job_id for job_id, (at, _) in zip(ids, events, strict=True) if at < mover.ended_at[job_id]]
    assert early == []
    if not failing:
        read = Counter(account.about(seen)[0] for seen in list(account.seen) if account.is_single(seen))
        for job_id, interval in intervals.items():
            # MK.IO's states are read, and then the job.
            assert read[job_id] <= 2 * (4 + seconds / (interval * 0.7))


async def after(seconds: float, work: Any) -> Any:
    """Do something later."""
    await asyncio.sleep(seconds)
    return await work


@pytest.mark.parametrize("account", ["arm"], indirect=True)
@pytest.mark.parametrize("moves", [FINISHED, ERROR])
def test_a_job_that_is_fetched_while_its_list_hangs(account: ArmAccount, moves: int) -> None:
    """A last look, a small transform's turn and the list end in any order; the end is told truly."""
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(seen: Any) -> None:
        if account.is_list(seen) and "skiptoken" in seen.query and not hangs.is_set():
            hangs.set()
            goes_on.wait(30)

    account.page_size = 10
    many, few = account.add(20, transform="Large"), account.add(3, transform="Small")
    account.trouble = hang

    async def main() -> list[Any]:
        # The last look comes after 1.1 s.
        soon = trigger(many[0], account.conn_id, poke_interval=1, started_at=None, deadline=time.time() + 3.1)
        rest = [
            trigger(job_id, account.conn_id, poke_interval=1, started_at=None) for job_id in [*many[1:], *few]
        ]
        async with running([soon, *rest]) as tasks:
            await until(hangs.is_set)
            # It is on the first page, which has been read.
            account.put(many[:1], moves)
            await until(lambda: tasks[0].done() or account.singles(many[0]))
            goes_on.set()
            first = await asyncio.wait_for(tasks[0], 10)
            assert first["outcome"] == OUTCOMES[moves]
            assert not any(task.done() for task in tasks[1:])
            account.put([*many, *few], FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks[1:]), 15)

    try:
        assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}
    finally:
        goes_on.set()
