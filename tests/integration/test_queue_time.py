"""`queue_timeout`: queue time is not run time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout

from airflow_ams.sensors.ams import AmsJobSensor
from tests.integration.account import FINISHED, PROCESSING, QUEUED, Account, V2Account
from tests.integration.waits import MODES, UNKNOWN, all_dialects, in_step, running, sensor, trigger, until

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

modes = pytest.mark.parametrize("mode", list(MODES))


@modes
@pytest.mark.parametrize("state", ["Queued", "Scheduled"])
def test_a_job_that_was_queued_for_long_ends_the_wait_at_once(
    mode: str, state: str, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """It is counted from the job's creation, and not from the wait's beginning."""
    job_id = ams_emulator.submit_scripted(
        name="Encode", states=[{"state": state, "seconds": 7200}, "Finished"]
    )
    time.sleep(1.1)
    with pytest.raises(AirflowSensorTimeout, match=rf"'Encode' .* is {state}, .* queue_timeout \(1 s\)"):
        wait(sensor(job_id, queue_timeout=1, poke_interval=30, **MODES[mode]))


@modes
def test_a_job_that_runs_is_not_queued(mode: str, ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """However old it is, and however long it has been queued before."""
    states = [{"state": "Queued", "seconds": 3600}, {"state": "Processing", "seconds": 3600}, "Finished"]
    job_id = ams_emulator.submit_scripted(states=states)
    ams_emulator.advance(3600)
    time.sleep(0.6)
    with in_step(ams_emulator, lambda: ams_emulator.advance(3600), reads=4):
        assert wait(sensor(job_id, queue_timeout=0.5, **MODES[mode]))["state"] == "Finished"


@modes
def test_a_job_that_leaves_the_queue_in_time(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """Where it stands is asked again before the wait ends: the alarm alone says nothing."""
    states = [{"state": "Queued", "seconds": 3600}, {"state": "Processing", "seconds": 3600}, "Finished"]
    job_id = ams_emulator.submit_scripted(states=states)
    advance = [lambda: ams_emulator.advance(3600)] * 2
    with in_step(ams_emulator, *advance):
        # Only the alarm can have the job read in time when the interval is so long.
        interval = 5 if mode == "deferrable" else 0.3
        made = sensor(job_id, queue_timeout=2, poke_interval=interval, **MODES[mode])
        assert wait(made)["state"] == "Finished"


def test_the_worker_hands_on_until_when_a_job_may_be_queued(
    ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """The first poll in the triggerer may be hours away; the end of the queue time is no later for that."""
    job_id = ams_emulator.submit_scripted(states=[{"state": "Queued", "seconds": 7200}, "Finished"])
    began = time.time()
    with pytest.raises(AirflowSensorTimeout, match=r"queue_timeout \(2 s\)"):
        wait(sensor(job_id, queue_timeout=2, timeout=30, poke_interval=25, deferrable=True))
    assert time.time() - began < 15


@all_dialects
def test_the_alarm_has_the_job_read(account: Account) -> None:
    """In a triggerer the end of the queue time is a reason to look, whatever the interval."""

    async def main() -> list[Any]:
        ids = account.add(2, QUEUED)
        began = time.time()
        waits = [
            # Their creation lies in the past, so the time is set to end a second from now.
            trigger(job_id, account.conn_id, poke_interval=3600, started_at=None, queue_timeout=limit)
            for job_id, limit in zip(ids, [began - 1767225600 + 1] * 2, strict=True)
        ]
        async with running(waits) as tasks:
            await until(lambda: len(account.singles()) >= 2)
            account.put(ids[:1], PROCESSING)
            event = await tasks[1]
            assert time.time() >= began + 1
            assert not tasks[0].done()
            account.put(ids, FINISHED)
            return [event]

    (event,) = asyncio.run(main())
    assert event["outcome"] == "queue_timeout"
    assert len(account.singles()) <= 5


@all_dialects
def test_the_end_of_many_queue_times_is_seen(account: Account) -> None:
    """Twenty at once, in a watch that lists: that a job is still in its list, unchanged, is news then."""

    async def main() -> list[Any]:
        limit = time.time() - 1767225600 + 1
        ids = account.add(20, QUEUED)
        waits = [trigger(job_id, account.conn_id, poke_interval=0.3, queue_timeout=limit) for job_id in ids]
        async with running(waits) as tasks:
            await until(lambda: len(account.lists()) >= 2)
            return await asyncio.wait_for(asyncio.gather(*tasks), 10)

    assert {event["outcome"] for event in asyncio.run(main())} == {"queue_timeout"}


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
@pytest.mark.parametrize("created", [None, "0001-01-01T00:00:00", "nonsense"])
def test_a_job_without_a_creation_is_counted_from_first_sight(
    account: Account, monkeypatch: pytest.MonkeyPatch, created: str | None
) -> None:
    """An unset time is not the year one, in which nothing was queued."""
    row = account._row

    def unset(job_id: str) -> dict[str, Any]:
        made = row(job_id)
        if isinstance(account, V2Account):
            made["Created"] = created
        else:
            made["properties"]["created"] = created
        return made

    monkeypatch.setattr(account, "_row", unset)

    async def main() -> Any:
        (job_id,) = account.add(1, QUEUED)
        one = trigger(job_id, account.conn_id, queue_timeout=0.8)
        async with running([one]) as tasks:
            event = await tasks[0]
        assert time.time() >= one.started_at + 0.8
        return event

    assert asyncio.run(main())["outcome"] == "queue_timeout"
    assert len(account.singles()) > 2


@modes
def test_each_job_of_a_list_has_its_own_queue_time(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """The one that was queued for too long is named; the one that runs is not."""
    stuck = ams_emulator.submit_scripted(name="Stuck", states=["Queued"])
    runs = ams_emulator.submit_scripted(name="Runs", states=["Processing"])
    with pytest.raises(AirflowSensorTimeout) as caught:
        wait(sensor([runs, stuck], queue_timeout=0.5, **MODES[mode]))
    assert f"Job 'Stuck' ({stuck}) is Queued" in str(caught.value)


@modes
def test_a_late_start_is_one_failure_among_others(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """With `fail_fast=False` the others are waited for; only the overdue one is canceled."""
    stuck = ams_emulator.submit_scripted(name="Stuck", states=["Queued"])
    runs = ams_emulator.submit_scripted(
        name="Runs", states=[{"state": "Processing", "seconds": 1.5}, "Finished"]
    )
    made = sensor([stuck, runs], queue_timeout=0.5, fail_fast=False, cancel_on_timeout=True, **MODES[mode])
    with pytest.raises(AirflowSensorTimeout, match="1 of 2 jobs have not finished: Job 'Stuck'"):
        wait(made)
    assert all(stuck in request["query"] for request in ams_emulator.requests("CancelJob"))
    assert len(ams_emulator.requests("CancelJob")) >= 1


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
def test_what_others_have_read_is_no_proof_of_queue_time(account: Account) -> None:
    """A newcomer's job may have left the queue since another wait has read it: it is read first."""

    async def main() -> None:
        (job_id,) = account.add(1, QUEUED)
        old = trigger(job_id, account.conn_id, poke_interval=30, started_at=None)
        new = trigger(job_id, account.conn_id, poke_interval=2, queue_timeout=60.0)
        async with running([old]):
            await until(account.singles)
            account.put([job_id], PROCESSING)
            async with running([new]) as tasks:
                await until(lambda: tasks[0].done() or len(account.singles()) >= 2)
                assert not tasks[0].done()

    asyncio.run(main())


@pytest.mark.parametrize("value", [0, -1, 61, timedelta(seconds=61)])
def test_a_bad_queue_timeout_is_refused_when_the_dag_is_read(value: Any) -> None:
    """None, or negative, or longer than the whole wait; the message names the task."""
    with pytest.raises(ValueError, match="queue_timeout of task 'wait'"):
        AmsJobSensor(task_id="wait", job_id=UNKNOWN, timeout=60, queue_timeout=value)
    assert AmsJobSensor(task_id="wait", job_id=UNKNOWN, timeout=60, queue_timeout=60).queue_timeout == 60
