"""The cancel operator: a job is canceled, and the task ends when it is."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout

from airflow_ams.api.model import JobState
from airflow_ams.exceptions import AmsJobNotFound, AmsRefused
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.operators.ams import AmsCancelJobOperator
from tests.integration.submits import MODES, RUNNING, Try, deadline_after_an_outage
from tests.integration.waits import WIRES, all_apis, audible, on

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator


def canceling(job_id: str, **arguments: Any) -> AmsCancelJobOperator:
    """Make an operator that polls more often than DAGs may."""
    made = AmsCancelJobOperator(**{"task_id": "cancel", "job_id": job_id, "deferrable": False, **arguments})
    made.poke_interval = 0.05
    return made


@all_apis
@MODES
def test_a_job_is_canceled_and_waited_for(ams: Emulator, deferrable: bool) -> None:
    """The task ends when the job is Canceled, with its document."""
    job_id = ams.submit_scripted(states=RUNNING, canceling=0.3)
    job = Try(task_id="cancel").run(canceling(job_id, deferrable=deferrable))
    assert (job["id"], job["state"]) == (job_id, "Canceled")


@all_apis
def test_the_wait_can_be_left_out(ams: Emulator) -> None:
    """The job is on its way then."""
    job_id = ams.submit_scripted(states=RUNNING, canceling=3600)
    assert Try(task_id="cancel").run(canceling(job_id, wait_for_completion=False))["state"] == "Canceling"


@all_apis
@MODES
@pytest.mark.parametrize("state", ["Finished", "Error", "Canceled"])
def test_a_job_that_has_ended_is_left_as_it_is(
    ams: Emulator, deferrable: bool, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """That is success, with a line in the log; nobody has anything left to stop."""
    job_id = ams.submit_scripted(states=[state])
    with caplog.at_level("INFO"):
        assert Try(task_id="cancel").run(canceling(job_id, deferrable=deferrable))["state"] == state
    assert f"is {state} already" in caplog.text


@all_apis
def test_the_hook_does_so_too(ams: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """For tasks of one's own."""
    with audible(AmsHook()) as hook, caplog.at_level("INFO"):
        job_id = ams.submit_scripted(states=RUNNING, canceling=0.3)
        assert hook.cancel_and_wait(job_id, poke_interval=0.05).state is JobState.CANCELED
        assert "already" not in caplog.text
        assert hook.cancel_and_wait(job_id).state is JobState.CANCELED
        assert "is Canceled already" in caplog.text
        slow = ams.submit_scripted(states=RUNNING, canceling=3600)
        with pytest.raises(TimeoutError, match=f"{slow} is Canceling, 0.2 s after"):
            hook.cancel_and_wait(slow, poke_interval=0.05, timeout=0.2)


@on("v2")
def test_the_tries_time_counts_from_its_beginning(ams: Emulator) -> None:
    """What the request took is part of ``execution_timeout``, in the triggerer, too."""
    job_id = ams.submit_scripted(states=RUNNING, canceling=3600)
    made = canceling(job_id, deferrable=True, execution_timeout=timedelta(seconds=50))
    assert deadline_after_an_outage(ams, made) < 50.5


@all_apis
def test_a_job_that_is_not_there(ams: Emulator) -> None:
    """It is asked for a while, since it may be new; then there is nothing to cancel: somebody's mistake."""
    unknown = WIRES[ams.api].unknown
    one = canceling(unknown)
    one.not_found_grace = 0.5
    with pytest.raises(AmsJobNotFound):
        Try(task_id="cancel").run(one)
    name = unknown.rpartition("/")[2]
    assert len([r for r in ams.requests() if name in unquote(f"{r['path']}?{r['query']}")]) > 1
    with pytest.raises(AmsRefused, match="job_id 'x'"):
        Try(task_id="cancel").run(canceling("x"))


@all_apis
@MODES
def test_a_job_that_takes_too_long(ams: Emulator, deferrable: bool) -> None:
    """The wait has its time-out."""
    job_id = ams.submit_scripted(states=RUNNING, canceling=3600)
    with pytest.raises(AirflowSensorTimeout, match="Canceling"):
        Try(task_id="cancel").run(canceling(job_id, deferrable=deferrable, timeout=1))


@all_apis
def test_a_list_of_one_job(ams: Emulator) -> None:
    """Another task's output may come as such; of more the task says that it is for one."""
    ids = [ams.submit_scripted(states=RUNNING) for _ in range(2)]
    one = canceling("{{ rendered }}")
    one.job_id = ids[:1]  # type: ignore[assignment]
    assert Try(task_id="cancel").run(one)["id"] == ids[0]
    one.job_id = str(ids)
    with pytest.raises(AmsRefused, match="holds 2 ids"):
        Try(task_id="cancel").run(one)
    with pytest.raises(TypeError, match="give one job id"):
        canceling(ids)  # type: ignore[arg-type]
