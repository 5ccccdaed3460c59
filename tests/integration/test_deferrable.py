"""A wait that is deferred: what the framework does to it, what ends it, and where it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
)
from airflow.triggers.base import TaskSuccessEvent

from airflow_ams.exceptions import AmsJobFailed
from airflow_ams.sensors.ams import AmsJobSensor
from airflow_ams.sensors.waiting import BACKSTOP
from tests.integration.waits import (
    UNKNOWN,
    WIRES,
    Deferred,
    all_apis,
    audible,
    in_step,
    lines,
    on,
    sensor,
)

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

WORKING = {"state": "Processing", "seconds": 3600, "progress": 40}
FLAGS: list[dict[str, bool]] = [{}, {"soft_fail": True}, {"never_fail": True}, {"silent_fail": True}]
TIME_OUT_TEXTS = ["Trigger timeout", "Trigger/execution timeout"]
"""What Airflow 3 and 2.11 say when their own time-out of a trigger is over."""


def deferred(ams: Emulator, **arguments: Any) -> Deferred:
    """Start a wait on a job that runs, and defer it."""
    run = Deferred(sensor(ams.submit_scripted(name="Encode", states=[WORKING, "Finished"]), **arguments))
    run.start()
    assert run.trigger is not None
    return run


@all_apis
@pytest.mark.parametrize("state", ["Finished", "Error", "Canceled"])
def test_a_job_that_has_ended_is_never_deferred(ams: Emulator, state: str) -> None:
    """The first look is the worker's: a finished job costs no trigger, and a dead one fails at once."""
    run = Deferred(sensor(ams.submit_scripted(states=[state]), deferrable=True))
    if state == "Finished":
        assert run.start()["state"] == "Finished"
    else:
        with pytest.raises(AmsJobFailed):
            run.start()
    assert run.trigger is None


@all_apis
@pytest.mark.parametrize("job_id", ["no id", "", "None", "[1]", "{}"])
def test_what_is_no_id_is_never_deferred(ams: Emulator, job_id: str) -> None:
    """A template that rendered to nothing useful fails on the worker, as in the other modes."""
    made = sensor("placeholder", deferrable=True)
    made.job_id = job_id
    run = Deferred(made)
    with pytest.raises(AirflowFailException):
        run.start()
    assert run.trigger is None


def test_a_deferrable_sensor_lets_go_of_its_session(ams_emulator: Emulator) -> None:
    """The worker's part leaves no open connection behind."""
    made = sensor(ams_emulator.submit_scripted(states=[WORKING]), deferrable=True)
    Deferred(made).start()
    assert made.hook._service is None


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"timeout": 100}, 100),
        ({"timeout": 100, "execution_timeout": timedelta(seconds=30)}, 30),
        ({"timeout": 30, "execution_timeout": timedelta(seconds=100)}, 30),
    ],
)
def test_the_deadline_counts_from_the_start_of_the_try(
    ams_emulator: Emulator, limits: dict[str, Any], seconds: int
) -> None:
    """`timeout` or `execution_timeout`, whichever is shorter; the framework's own lies a minute behind."""
    before = time.time()
    run = deferred(ams_emulator, deferrable=True, **limits)
    assert run.trigger.deadline - run.trigger.started_at == pytest.approx(seconds)
    assert before <= run.trigger.started_at <= time.time()
    assert run.deferral.timeout.total_seconds() == pytest.approx(seconds + BACKSTOP, abs=20)


@pytest.mark.parametrize("flag", FLAGS, ids=str)
def test_execution_timeout_ends_a_deferred_wait(
    ams_emulator: Emulator, wait: Callable[..., Any], flag: dict[str, bool]
) -> None:
    """The complaint: `execution_timeout` is not enforced while deferred. Here it ends the wait, is retried
    by `retries` (it is no AirflowFailException), and is no reason to skip.
    """
    job_id = ams_emulator.submit_scripted(name="Encode", states=[WORKING])
    made = sensor(job_id, deferrable=True, timeout=60, execution_timeout=timedelta(seconds=0.5), **flag)
    with pytest.raises(AirflowTaskTimeout) as caught:
        wait(made)
    standing = f"Job 'Encode' ({job_id}) is Processing, 40 % (Encode: Processing 40 %)"
    assert str(caught.value) == f"Timed out after 0.5 s (execution_timeout). {standing}"
    assert not isinstance(caught.value, AirflowFailException | AirflowSensorTimeout)


@on("v2", "mkio")
def test_a_wait_without_a_poll_in_the_triggerer_says_where_the_job_stood(
    ams: Emulator, wait: Callable[..., Any]
) -> None:
    """A time-out before the trigger's first poll says what poke mode says: the worker has looked."""
    job_id = ams.submit_scripted(name="Encode", states=[WORKING])
    said = []
    for arguments in ({}, {"deferrable": True}):
        with pytest.raises(AirflowSensorTimeout) as caught:
            wait(sensor(job_id, timeout=0.5, poke_interval=30, **arguments))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "Processing, 40 %" in said[0]


@pytest.mark.parametrize("error", TIME_OUT_TEXTS)
@pytest.mark.parametrize("flag", FLAGS, ids=str)
def test_airflows_own_time_out_is_ours(ams_emulator: Emulator, flag: dict[str, bool], error: str) -> None:
    """The complaint: a deferral time-out retries, or ignores soft_fail. With no triggerer it ends as ours."""
    run = deferred(ams_emulator, deferrable=True, timeout=50, **flag)
    is_skipped = flag.get("soft_fail") or flag.get("never_fail")
    with pytest.raises(AirflowSkipException if is_skipped else AirflowSensorTimeout) as caught:
        run.fail(error)
    reason = caught.value.__cause__ if is_skipped else caught.value
    assert isinstance(reason, AirflowSensorTimeout)
    assert "Timed out after 50 s (timeout). Airflow's own time-out" in str(reason)


@pytest.mark.parametrize("error", TIME_OUT_TEXTS)
def test_airflows_own_time_out_for_a_shorter_execution_timeout(ams_emulator: Emulator, error: str) -> None:
    """It is `execution_timeout` that is over then."""
    run = deferred(
        ams_emulator, deferrable=True, timeout=50, execution_timeout=timedelta(seconds=20), soft_fail=True
    )
    with pytest.raises(AirflowTaskTimeout, match=r"20 s \(execution_timeout\)"):
        run.fail(error)


@pytest.mark.parametrize("flag", FLAGS, ids=str)
def test_a_broken_trigger_is_retried(
    ams_emulator: Emulator, flag: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    """The complaint: soft_fail is over-broad. A crash says nothing about the job, so it is retried.

    Only `never_fail` skips it, as it does for any error in poke mode.
    """
    run = deferred(ams_emulator, deferrable=True, **flag)
    with caplog.at_level(logging.ERROR), pytest.raises(AirflowException) as caught:
        run.fail("Trigger failure", "Traceback", "ZeroDivisionError: x")
    if "never_fail" in flag:
        assert isinstance(caught.value, AirflowSkipException)
        return
    assert not isinstance(caught.value, AirflowFailException | AirflowSkipException | AirflowSensorTimeout)
    assert "ZeroDivisionError: x" in caplog.text


@pytest.mark.parametrize("event", [None, "success", {}, {"outcome": "well"}, {"status": "success"}, 7])
def test_an_event_of_another_kind_is_an_error(ams_emulator: Emulator, event: Any) -> None:
    """Fail closed: what no trigger of ours fires must not reach the success path; and it is no skip."""
    run = deferred(ams_emulator, deferrable=True, soft_fail=True)
    with pytest.raises(AirflowException, match="'wait'") as caught:
        run.resume(event)
    assert not isinstance(caught.value, AirflowSkipException)


@on("v2", "mkio")
def test_time_outs_need_no_poll(ams: Emulator) -> None:
    """The deadline ends the wait, however long the interval, and while the service is silent."""
    run = deferred(ams, deferrable=True, timeout=0.6, poke_interval=3600)
    ams.inject({"when": {"path": WIRES[ams.api].api}, "then": {"drop": True}})
    event = asyncio.run(run.fire())
    assert time.time() >= run.trigger.deadline
    assert event["outcome"] == "timeout"
    with pytest.raises(AirflowSensorTimeout):
        run.resume(event)


# -- ending in the triggerer


class _Ti:
    """The triggerer gives each trigger something like it."""

    task_id = "wait"


def ending(ams: Emulator, wants_ti: bool = True, **arguments: Any) -> Deferred:
    """Run a wait that is to end in the triggerer."""
    run = deferred(ams, deferrable=True, end_from_trigger=True, **arguments)
    if wants_ti:
        run.trigger._task_instance = _Ti()
        if run.trigger.task_instance is None:
            run.trigger.task_instance = _Ti()
    with in_step(ams, lambda: ams.advance(3600)):
        asyncio.run(run.fire())
    return run


@all_apis
def test_success_can_end_in_the_triggerer(ams: Emulator, wait: Callable[..., Any]) -> None:
    """The XCom is what a resumed task returns."""
    run = ending(ams)
    (event,) = run.events
    assert isinstance(event, TaskSuccessEvent)
    document = wait(sensor(run.trigger.job_ids))
    assert event.xcoms == {"return_value": document}


def test_no_xcom_is_pushed_where_none_is_wanted(ams_emulator: Emulator) -> None:
    """`do_xcom_push=False` is kept in the triggerer, too."""
    (event,) = ending(ams_emulator, do_xcom_push=False).events
    assert isinstance(event, TaskSuccessEvent)
    assert not event.xcoms


@all_apis
def test_failures_go_back_to_the_worker(ams: Emulator) -> None:
    """The error is raised where `retries`, callbacks and soft_fail are."""
    run = deferred(ams, deferrable=True, end_from_trigger=True)
    run.trigger._task_instance = _Ti()
    ams.inject({"when": {"path": WIRES[ams.api].api}, "then": {"status": 403}})
    event = asyncio.run(run.fire())
    assert not isinstance(run.events[0], TaskSuccessEvent)
    with pytest.raises(AirflowFailException, match="403"):
        run.resume(event)


def test_dag_test_resumes_the_task(ams_emulator: Emulator) -> None:
    """Without a task instance, as under `dag.test()`, nobody could end the task, so it is resumed."""
    run = ending(ams_emulator, wants_ti=False)
    assert not isinstance(run.events[0], TaskSuccessEvent)
    assert run.resume(run.events[0].payload)["state"] == "Finished"


class _WithPostExecute(AmsJobSensor):
    """A sensor of somebody who relies on `post_execute`."""

    def post_execute(self, context: Any, result: Any = None) -> None:
        """Do something with the result."""


@pytest.mark.parametrize("reason", ["outlets", "post_execute", "post_execute of a class", "multiple_outputs"])
def test_what_needs_a_worker_is_resumed(
    ams_emulator: Emulator, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """Asset events and the like come from a worker only, so the task is resumed, and says why, once."""
    from airflow.providers.common.compat.sdk import Asset

    job_id = ams_emulator.submit_scripted(states=[WORKING, "Finished"])
    arguments: dict[str, Any] = {"task_id": "wait", "job_id": job_id, "deferrable": True}
    if reason == "outlets":
        arguments["outlets"] = [Asset("clip")]
    if reason == "post_execute":
        arguments["post_execute"] = lambda context, result: None
    kind = _WithPostExecute if reason.endswith("class") else AmsJobSensor
    made = kind(end_from_trigger=True, timeout=60, **arguments)
    made.poke_interval = 0.05
    if reason == "multiple_outputs":
        made.multiple_outputs = True
    run = Deferred(made)
    run.start()
    run.trigger._task_instance = _Ti()
    with in_step(ams_emulator, lambda: ams_emulator.advance(3600)), caplog.at_level(logging.INFO):
        event = asyncio.run(run.fire())
        assert run.resume(event)["state"] == "Finished"
    assert not isinstance(run.events[0], TaskSuccessEvent)
    said = [line for line in lines(caplog) if "end_from_trigger" in line]
    assert len(said) == 1
    assert reason.split()[0] in said[0]


# -- the framework's default, and complaints


def test_default_deferrable_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`[operators] default_deferrable` decides unless the DAG does."""
    import subprocess
    import sys

    code = (
        "from airflow_ams.sensors.ams import AmsJobSensor as S;"
        f"print(S(task_id='a', job_id='{UNKNOWN}').deferrable,"
        f"S(task_id='a', job_id='{UNKNOWN}', deferrable=False).deferrable)"
    )
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split()[-2:] == ["True", "False"]


def test_poke_interval_reaches_the_trigger(ams_emulator: Emulator) -> None:
    """The complaint: the interval is ignored, or hard-coded, in the triggerer."""
    assert deferred(ams_emulator, deferrable=True, poke_interval=7.5).trigger.poke_interval == 7.5


def test_the_first_poll_of_a_trigger_is_not_at_once(ams: Emulator) -> None:
    """The complaint: a trigger that fires right after the deferral gets a good task marked failed."""

    run = deferred(ams, deferrable=True, poke_interval=1.0)
    began = time.time()
    with in_step(ams, lambda: ams.advance(3600)):
        asyncio.run(run.fire())
    _, polled, *_ = ams.requests(WIRES[ams.api].job)
    assert polled["time"] - began >= 0.5


@all_apis
def test_a_failed_poll_never_cancels(ams: Emulator, wait: Callable[..., Any]) -> None:
    """The complaint: a provider cancels the job because its own poll failed."""
    job_id = ams.submit_scripted(states=[WORKING])
    refuse = {"when": {"path": WIRES[ams.api].api}, "then": {"status": 403}}
    made = sensor(job_id, deferrable=True, cancel_on_kill=True, cancel_on_timeout=True)
    with in_step(ams, lambda: ams.inject(refuse)), pytest.raises(AirflowFailException):
        wait(made)
    assert ams.requests("[Cc]ancelJob") == []


def test_a_sensor_of_airflow_is_what_it_is() -> None:
    """The mode of a deferrable sensor may be any; it is the triggerer that waits."""
    made = sensor(UNKNOWN, deferrable=True, mode="reschedule")
    assert isinstance(made, BaseSensorOperator)
    assert audible(made).deferrable
