"""What a trigger asks of its triggerer: to end the task on success, and whether a killed task waits on."""

from __future__ import annotations

import asyncio
import importlib
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import task, task_group
from airflow.triggers.base import TaskSuccessEvent

from airflow_ams.sensors.ams import AmsJobSensor
from tests.integration.test_trigger import can_start, dag, started
from tests.integration.waits import JOBS, Deferred, audible, in_step, lines, running, sensor, trigger, until

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

WORKING = {"state": "Processing", "seconds": 3600}


@task
def show(job: Any) -> None:
    """Stand behind the sensor."""


@task_group
def show_all(job: Any) -> None:
    """Do the same as a group."""
    show(job)


def run_to_its_end(ams: Emulator, one: Any) -> Any:
    """Run a trigger while its jobs finish; return its event."""

    async def main() -> Any:
        (event,) = [event async for event in one.run()]
        return event

    with in_step(ams, lambda: ams.advance(3600)):
        return asyncio.run(main())


# -- a task that is mapped over the sensor's output


@pytest.mark.parametrize("behind", [show, show_all])
@pytest.mark.parametrize("wants_xcom", [True, False])
def test_a_task_mapped_over_the_output_needs_a_worker(
    ams_emulator: Emulator, caplog: pytest.LogCaptureFixture, behind: Any, wants_xcom: bool
) -> None:
    """Only a worker stores the output's length, which the mapped task needs; the log says why, once."""
    ids = [ams_emulator.submit_scripted(states=[WORKING, "Finished"]) for _ in range(2)]
    with dag():
        made = sensor(ids, deferrable=True, end_from_trigger=True, do_xcom_push=wants_xcom)
        behind.expand(job=made.output)
    run = Deferred(made)
    run.start()
    assert not run.trigger.end_from_trigger
    with in_step(ams_emulator, lambda: ams_emulator.advance(3600)), caplog.at_level(logging.INFO):
        assert [job["id"] for job in run.resume(asyncio.run(run.fire()))] == ids
    (said,) = [line for line in lines(caplog) if "end_from_trigger" in line]
    assert "mapped" in said


@pytest.mark.parametrize("is_mapped", [True, False])
def test_other_tasks_behind_the_sensor_need_none(ams_emulator: Emulator, is_mapped: bool) -> None:
    """One that takes the output whole; one mapped over the outputs of a mapped sensor, which are counted."""
    job_id = ams_emulator.submit_scripted(states=[WORKING])
    arguments: dict[str, Any] = {"task_id": "wait", "deferrable": True, "end_from_trigger": True}
    with dag():
        if is_mapped:
            mapped = AmsJobSensor.partial(**arguments).expand(job_id=[job_id])
            show.expand(job=mapped.output)
        else:
            made = AmsJobSensor(job_id=job_id, **arguments)
            show.partial(job=made.output).expand_kwargs([{}])
    run = Deferred(mapped.unmap({"job_id": job_id}) if is_mapped else made)
    run.start()
    assert run.trigger.end_from_trigger


@can_start
@pytest.mark.parametrize("behind", ["one task", "mapped tasks", "mapped groups"])
def test_a_wait_that_began_in_the_triggerer_looks_there(ams_emulator: Emulator, behind: str) -> None:
    """What stands behind a sensor is not known when it is made, but the triggerer has the whole DAG."""
    ids = [ams_emulator.submit_scripted(states=[WORKING, "Finished"]) for _ in range(2)]
    with dag():
        made = sensor(ids, deferrable=True, start_from_trigger=True, end_from_trigger=True)
        if behind == "one task":
            show(made.output)
        else:
            (show if behind == "mapped tasks" else show_all).expand(job=made.output)
    one = started(made)
    one.poke_interval = 0.05
    event = run_to_its_end(ams_emulator, one)
    assert isinstance(event, TaskSuccessEvent) == (behind == "one task")
    if behind != "one task":
        result = made.resume_execution("execute_complete", {"event": event.payload}, {})
        assert [job["id"] for job in result] == ids


# -- Airflow's supervisor


class Supervisor:
    """Stands for the supervisor of a triggerer, since a real one needs a whole Airflow around it.

    :param answer: what it answers to everything, or the error by which it tells that it could not
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def asend(self, message: Any) -> Any:
        """Answer a message."""
        self.asked.append(message)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def supervised(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Supervisor:
    """Give the triggers a supervisor, if this Airflow has them."""
    task_runner = pytest.importorskip("airflow.sdk.execution_time.task_runner")
    made = Supervisor(answer)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", made, raising=False)
    return made


def unavailable() -> Exception:
    """Make the error of a supervisor whose API server has answered 503."""
    comms = importlib.import_module("airflow.sdk.execution_time.comms")
    exceptions = importlib.import_module("airflow.sdk.exceptions")
    answer = comms.ErrorResponse(error=exceptions.ErrorType.API_SERVER_ERROR, detail={"status_code": 503})
    error: Exception = exceptions.AirflowRuntimeError(answer)
    return error


def waiting(job_id: str, **arguments: Any) -> Any:
    """Make a trigger of a task of Airflow's."""
    one = audible(trigger(job_id, **arguments))
    one.task_instance = SimpleNamespace(dag_id="starts", task_id="wait", run_id="today", map_index=-1)
    return one


def test_the_xcom_is_stored_by_the_supervisor(
    ams_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a value of its own, since Airflow 3 encodes what the event carries twice."""
    supervisor = supervised(monkeypatch, None)
    job_id = ams_emulator.submit_scripted(states=[WORKING, "Finished"])
    event = run_to_its_end(ams_emulator, waiting(job_id, end_from_trigger=True))
    assert isinstance(event, TaskSuccessEvent)
    assert not event.xcoms
    message = supervisor.asked[-1]
    assert (message.key, message.task_id, message.run_id) == ("return_value", "wait", "today")
    assert message.value["id"] == job_id


def test_an_xcom_that_cannot_be_stored_goes_to_a_worker(
    ams_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait has succeeded, whatever ails Airflow's API server; the task's log says why it is resumed."""
    supervisor = supervised(monkeypatch, None)
    supervisor.answer = unavailable()
    job_id = ams_emulator.submit_scripted(states=[WORKING, "Finished"])
    event = run_to_its_end(ams_emulator, waiting(job_id, end_from_trigger=True))
    assert not isinstance(event, TaskSuccessEvent)
    resumed = sensor(job_id, deferrable=True, end_from_trigger=True)
    assert resumed.resume_execution("execute_complete", {"event": event.payload}, {})["id"] == job_id
    (said,) = lines(caplog, logging.WARNING)
    assert "ends on a worker" in said
    assert "503" in said


@pytest.mark.parametrize("state", ["deferred", "failed", None])
def test_a_killed_trigger_asks_whether_the_task_waits_on(
    ams_emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    state: str | None,
) -> None:
    """If it does, or if nobody knows, its job is not canceled; if the task has ended, it is."""
    supervisor = supervised(monkeypatch, SimpleNamespace(task_states={"today": {"wait": state}}))
    if state is None:
        supervisor.answer = unavailable()
    job_id = ams_emulator.submit_scripted(states=[WORKING])
    one = waiting(job_id, cancel_on_kill=True)

    async def kill() -> None:
        async with running([one]):
            await until(lambda: ams_emulator.requests(JOBS))
        await one.on_kill()

    with caplog.at_level(logging.INFO):
        asyncio.run(kill())
    assert len(ams_emulator.requests("CancelJob")) == (1 if state == "failed" else 0)
    said = "; ".join([*lines(caplog), *lines(caplog, logging.WARNING)])
    assert {"deferred": "waits on", "failed": "is being canceled", None: "not known"}[state] in said
