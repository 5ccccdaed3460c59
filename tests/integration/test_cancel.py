"""Canceling the jobs: only where it was asked for, as well as it can be done, and never for a poll's sake."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_ams.hooks.ams import AmsHook
from tests.integration.account import FINISHED, QUEUED, Account
from tests.integration.waits import (
    JOBS,
    MODES,
    all_dialects,
    audible,
    fired,
    in_line,
    in_step,
    lines,
    sensor,
    trigger,
    until,
)

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

WORKING = {"state": "Processing", "seconds": 3600}


def running_job(ams: Emulator, **script: Any) -> str:
    """Make a job that runs for an hour."""
    return ams.submit_scripted(name="Encode", **{"states": [WORKING, "Finished"], **script})


def canceled(ams: Emulator) -> list[str]:
    """Return the ids of the jobs that the service was asked to cancel."""
    return [request["query"].partition("'")[2].rstrip("'") for request in ams.requests("CancelJob")]


def state(job_id: str) -> str:
    """Return where a job stands."""
    with AmsHook() as hook:
        return str(hook.get_job_state(job_id))


class Killed(AirflowException):
    """Raised by the tests' signal handler, as Airflow's own does once it has called `on_kill`."""


@pytest.fixture
def kill_when() -> Iterator[Callable[..., None]]:
    """Interrupt the main thread, where the task runs, as the signal of a kill does."""
    before = signal.getsignal(signal.SIGUSR1)
    workers: list[threading.Thread] = []
    over = threading.Event()

    def arrange(condition: Callable[[], Any], handle: Callable[[], Any]) -> None:
        def handler(*_: Any) -> None:
            handle()

        def work() -> None:
            while not condition():
                if over.wait(0.02):
                    return
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        signal.signal(signal.SIGUSR1, handler)
        workers.append(threading.Thread(target=work, daemon=True))
        workers[-1].start()

    yield arrange
    over.set()
    for worker in workers:
        worker.join(10)
    signal.signal(signal.SIGUSR1, before)


# -- on a worker


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("when", ["asleep", "in the midst of a request"])
def test_a_killed_task_cancels_if_that_was_asked_for(
    ams_emulator: Emulator,
    kill_when: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    wanted: bool,
    when: str,
) -> None:
    """The complaint: the job runs on after mark-failed or clear. By default it does: a wait owns no job."""
    job_id = running_job(ams_emulator)
    made = audible(sensor(job_id, cancel_on_kill=wanted, poke_interval=60))
    if when != "asleep":
        made.poke_interval = 0.05
        ams_emulator.inject({"when": {"path": JOBS}, "then": {"slow": 4}, "after": 2})

    def on_kill() -> None:
        made.on_kill()
        raise Killed

    reads = 1 if when == "asleep" else 2
    kill_when(lambda: len(ams_emulator.requests(JOBS)) >= reads, on_kill)
    with caplog.at_level(logging.INFO), pytest.raises(Killed):
        made.execute({})
    ams_emulator.clear_faults()
    assert canceled(ams_emulator) == ([job_id] if wanted else [])
    assert state(job_id) == ("Canceled" if wanted else "Processing")
    said = [line for line in lines(caplog) if "cancel" in line]
    assert said == ([f"Job {job_id} is being canceled, as was asked for"] if wanted else [])


def test_a_task_that_is_killed_before_its_first_poll(ams_emulator: Emulator) -> None:
    """Nothing is known, nothing is canceled, and nothing breaks."""
    sensor(running_job(ams_emulator), cancel_on_kill=True).on_kill()
    assert canceled(ams_emulator) == []


@pytest.mark.parametrize("on_timeout", [False, True])
def test_an_execution_timeout_is_no_kill(
    ams_emulator: Emulator, kill_when: Callable[..., None], on_timeout: bool
) -> None:
    """Airflow calls `on_kill` after it, too; but nobody has killed the task."""
    job_id = running_job(ams_emulator)
    made = audible(sensor(job_id, cancel_on_kill=True, cancel_on_timeout=on_timeout, poke_interval=60))

    def time_out() -> None:
        raise AirflowTaskTimeout

    kill_when(lambda: len(ams_emulator.requests(JOBS)) >= 1, time_out)
    with pytest.raises(AirflowTaskTimeout):
        made.execute({})
    made.on_kill()
    assert canceled(ams_emulator) == ([job_id] if on_timeout else [])


def test_the_next_try_can_be_killed(ams_emulator: Emulator, kill_when: Callable[..., None]) -> None:
    """What ended one try is forgotten at the next."""
    job_id = running_job(ams_emulator)
    made = audible(sensor(job_id, cancel_on_kill=True))
    made._is_over_time = True
    with made.hook:
        made.poke({})
    made.on_kill()
    assert canceled(ams_emulator) == [job_id]


@all_dialects
def test_canceling_is_bounded_in_time(
    account: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that does not answer holds up the task's end for ten seconds, shortened here."""
    monkeypatch.setattr("airflow_ams.sensors.waiting.CANCEL_SECONDS", 0.5)
    over, asked = threading.Event(), threading.Event()

    def hang(seen: Any) -> None:
        if account.is_cancel(seen):
            asked.set()
            over.wait(60)

    account.trouble = hang
    made = audible(sensor(account.add(1)[0], ams_conn_id=account.conn_id, cancel_on_kill=True))
    try:
        with made.hook, caplog.at_level(logging.INFO):
            made.poke({})
            made.on_kill()
            assert asked.is_set()
        assert any("may run on" in line for line in lines(caplog, logging.WARNING) + lines(caplog))
    finally:
        over.set()


@pytest.mark.parametrize("flag", ["soft_fail", "silent_fail", "never_fail", None])
def test_a_killed_task_that_goes_on_may_be_retried(
    ams_emulator: Emulator, wait: Callable[..., Any], flag: str | None
) -> None:
    """Airflow 3 does not interrupt it: it sees that the job was canceled, and knows by whom."""
    flags = {flag: True} if flag else {}
    made = sensor(running_job(ams_emulator), cancel_on_kill=True, poke_interval=0.05, timeout=5, **flags)
    with in_line(made.on_kill), pytest.raises(AirflowException, match="the task was killed") as caught:
        wait(made)
    assert not isinstance(caught.value, AirflowFailException | AirflowSkipException)


def test_a_worker_that_is_shut_down_after_its_task(ams_emulator: Emulator) -> None:
    """It waits for nothing any more; nor between two pokes of a rescheduled task, which is the same."""
    made = audible(sensor(running_job(ams_emulator), timeout=0.3, cancel_on_kill=True))
    with pytest.raises(AirflowSensorTimeout):
        made.execute({})
    made.on_kill()
    assert canceled(ams_emulator) == []


def test_a_task_that_is_shut_down_before_it_is_deferred(ams_emulator: Emulator) -> None:
    """Without `cancel_on_kill` nothing is canceled, so the wait goes on in the triggerer."""
    made = sensor(running_job(ams_emulator), deferrable=True)
    with in_line(made.on_kill), pytest.raises(TaskDeferred):
        audible(made).execute({})
    assert canceled(ams_emulator) == []


def test_only_the_jobs_that_run_are_canceled(ams_emulator: Emulator) -> None:
    """Of a list, those that have finished are left alone."""
    done = ams_emulator.submit_scripted(states=["Finished"])
    ids = [running_job(ams_emulator), done, running_job(ams_emulator)]
    made = audible(sensor(ids, cancel_on_kill=True))
    with made.hook:
        made.poke({})
    made.on_kill()
    assert sorted(canceled(ams_emulator)) == sorted([ids[0], ids[2]])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 503}, "could not be canceled"),
        ({"status": 403}, "403"),
        ({"drop": True}, "could not be canceled"),
    ],
)
def test_a_failed_cancel_is_told(
    ams_emulator: Emulator, caplog: pytest.LogCaptureFixture, fault: dict[str, Any], words: str
) -> None:
    """Best effort: the log says how it went, and nothing is raised."""
    job_id = running_job(ams_emulator)
    made = audible(sensor(job_id, cancel_on_kill=True))
    with made.hook:
        made.poke({})
    ams_emulator.inject({"when": {"path": "CancelJob"}, "then": fault})
    with caplog.at_level(logging.INFO):
        made.on_kill()
    (line,) = [line for line in lines(caplog) + lines(caplog, logging.WARNING) if "cancel" in line]
    assert job_id in line
    assert words in line


# -- time-outs, in every mode


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("limit", ["timeout", "queue_timeout"])
def test_a_time_out_cancels_if_that_was_asked_for(
    ams_emulator: Emulator, wait: Callable[..., Any], mode: str, wanted: bool, limit: str
) -> None:
    """Queue time included; by default the job runs on."""
    job_id = running_job(ams_emulator, states=[{"state": "Queued", "seconds": 3600}, "Finished"])
    made = sensor(job_id, cancel_on_timeout=wanted, **{limit: 0.5}, **MODES[mode])
    with pytest.raises(AirflowSensorTimeout):
        wait(made)
    assert canceled(ams_emulator) == ([job_id] if wanted else [])


@pytest.mark.parametrize("mode", list(MODES))
def test_a_failure_is_no_time_out(ams_emulator: Emulator, wait: Callable[..., Any], mode: str) -> None:
    """The first failure of a list cancels none of the others."""
    ids = [running_job(ams_emulator), running_job(ams_emulator, states=[WORKING, "Error"])]
    made = sensor(ids, cancel_on_timeout=True, cancel_on_kill=True, **MODES[mode])
    with in_step(ams_emulator, lambda: ams_emulator.advance(3600)), pytest.raises(AirflowException):
        wait(made)
    assert canceled(ams_emulator) == []


# -- in the triggerer


async def killed(one: Any, condition: Callable[[], object], *, by_user: bool = True) -> None:
    """Kill a trigger as Airflow 3.3 does: cancel what it runs, then, if a user did it, call `on_kill`."""
    task = asyncio.ensure_future(fired(one))
    await asyncio.sleep(0)
    await until(condition)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if by_user:
        await one.on_kill()


@pytest.mark.parametrize("wanted", [True, False])
def test_a_killed_trigger_cancels_if_that_was_asked_for(
    ams_emulator: Emulator, wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The complaint: the job runs on after mark-failed or clear."""
    job_id = running_job(ams_emulator)
    one = trigger(job_id, cancel_on_kill=wanted)
    with caplog.at_level(logging.INFO):
        asyncio.run(killed(one, lambda: ams_emulator.requests(JOBS)))
    assert canceled(ams_emulator) == ([job_id] if wanted else [])
    said = [line for line in lines(caplog) if "cancel" in line]
    assert said == ([f"Job {job_id} is being canceled, as was asked for"] if wanted else [])


def test_a_restart_of_the_triggerer_cancels_nothing(ams_emulator: Emulator) -> None:
    """The complaint's thread warns of it: a trigger is canceled by a restart, too."""
    one = trigger(running_job(ams_emulator), cancel_on_kill=True, cancel_on_timeout=True)
    asyncio.run(killed(one, lambda: ams_emulator.requests(JOBS), by_user=False))
    assert canceled(ams_emulator) == []


def test_a_trigger_that_is_killed_before_its_first_poll(ams_emulator: Emulator) -> None:
    """The id is taken as the service writes it, whether or not the watch has come to read it."""
    job_id = running_job(ams_emulator)
    one = trigger(job_id.upper(), cancel_on_kill=True, poke_interval=60)
    asyncio.run(killed(one, lambda: True))
    assert canceled(ams_emulator) == [job_id]


def test_a_trigger_that_never_ran_is_killed(ams_emulator: Emulator) -> None:
    """Nothing is known of its jobs, so nothing is canceled."""
    asyncio.run(trigger(running_job(ams_emulator), cancel_on_kill=True).on_kill())
    assert canceled(ams_emulator) == []


def test_a_job_that_has_ended_meanwhile_is_told(
    ams_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be canceled any more, and the log says so."""
    job_id = running_job(ams_emulator)
    one = trigger(job_id, cancel_on_kill=True, poke_interval=30, started_at=None)

    def polled() -> bool:
        if not ams_emulator.requests("/Tasks$"):
            return False
        ams_emulator.advance(3600)
        return True

    with caplog.at_level(logging.INFO):
        asyncio.run(killed(one, polled))
    (line,) = [line for line in lines(caplog) if "cancel" in line]
    assert line.startswith(f"Job {job_id} is not canceled.")
    assert "it is Finished" in line


@all_dialects
def test_canceling_in_the_triggerer_is_bounded_in_time(
    account: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that does not answer: the log says that the job may run on; others wait undisturbed."""
    monkeypatch.setattr("airflow_ams.triggers.ams.CANCEL_SECONDS", 0.5)
    over = threading.Event()
    account.trouble = lambda seen: over.wait(60) and None if account.is_cancel(seen) else None

    async def main() -> str:
        ids = account.add(2, QUEUED)
        other = asyncio.ensure_future(fired(trigger(ids[1], account.conn_id)))
        await killed(trigger(ids[0], account.conn_id, cancel_on_kill=True), account.singles)
        assert not over.is_set()
        account.put(ids, FINISHED)
        return str((await other)["outcome"])

    try:
        with caplog.at_level(logging.INFO):
            assert asyncio.run(main()) == "succeeded"
    finally:
        over.set()
    (line,) = [line for line in lines(caplog, logging.WARNING) if "cancel" in line]
    assert "may run on" in line


def test_a_trigger_that_is_killed_again_goes_on_canceling(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    """Airflow 3.3 cancels what it has killed anew with each of its rounds, until it has ended."""
    (job_id,) = account.add(1, QUEUED)
    account.trouble = lambda seen: time.sleep(1) if account.is_cancel(seen) else None
    one = trigger(job_id, account.conn_id, cancel_on_kill=True)

    async def main() -> None:
        await killed(one, account.singles, by_user=False)
        killing = asyncio.ensure_future(asyncio.wait_for(one.on_kill(), timeout=30))
        while not killing.done():
            await asyncio.sleep(0.2)
            killing.cancel("__airflow_user_action__")
        await until(lambda: account.canceled)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert account.canceled == [job_id]
    # Below Python 3.12 a kill cannot be told from a shutdown, so nobody waits for the cancel any more.
    if sys.version_info >= (3, 12):
        assert f"Job {job_id} is being canceled, as was asked for" in lines(caplog)


def test_a_cancel_that_comes_late_is_still_made(
    ams_emulator: Emulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow may take longer than we wait to tell the connection: its database is busy."""
    monkeypatch.setattr("airflow_ams.triggers.ams.CANCEL_SECONDS", 0.2)

    # Airflow's database cannot be made slow here.
    async def looked_up_slowly(conn_id: str) -> Any:
        await asyncio.sleep(1)
        return await get_async_connection(conn_id)

    async def main() -> str:
        job_id = running_job(ams_emulator)
        one = trigger(job_id, cancel_on_kill=True)

        def polled() -> bool:
            monkeypatch.setattr("airflow_ams.triggers.pool.get_async_connection", looked_up_slowly)
            return bool(ams_emulator.requests(JOBS))

        await killed(one, polled)
        await until(lambda: canceled(ams_emulator))
        return job_id

    with caplog.at_level(logging.INFO):
        assert [asyncio.run(main())] == canceled(ams_emulator)
    (line,) = [line for line in lines(caplog, logging.WARNING) if "cancel" in line]
    assert "may run on" in line


@all_dialects
def test_the_jobs_of_a_list_are_canceled_at_once(account: Account) -> None:
    """All that are pending, by the watch's threads side by side; nothing is left of the watch after that."""

    async def main() -> list[str]:
        ids = account.add(30, QUEUED)
        one = trigger(ids, account.conn_id, cancel_on_kill=True)
        await killed(one, account.lists)
        await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("ams-ams_account")])
        return ids

    assert sorted(asyncio.run(main())) == sorted(account.canceled)


def test_a_connection_that_is_gone_is_told(
    account: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best effort, too, when there is nothing to be done."""

    async def main() -> None:
        (job_id,) = account.add(1, QUEUED)
        one = trigger(job_id, account.conn_id, cancel_on_kill=True)

        def polled() -> bool:
            if account.singles():
                monkeypatch.delenv("AIRFLOW_CONN_AMS_ACCOUNT", raising=False)
            return bool(account.singles())

        await killed(one, polled)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    (line,) = [line for line in lines(caplog, logging.WARNING) if "cancel" in line]
    assert "may run on" in line
    assert "ams_account" in line
