"""No encode is paid for twice: workers that die, answers that are lost, and whoever comes after them.

A worker here is a process of its own, killed by SIGKILL at a point of its choice, which no Airflow can say.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowSensorTimeout

from airflow_ams.api.model import JobState
from airflow_ams.api.submission import create
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.sensors.waiting import VERSION
from tests.integration.submits import MODES, RUNNING, Store, Try, creates, encode, operator
from tests.integration.waits import WIRES, Deferred, all_apis, audible, on

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

ROOT = Path(__file__).parents[2]

WORKER = """
import json, os, signal, sys
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow_ams.operators.submission import Submission
from tests.integration import submits

point, given, deferrable = json.loads(sys.argv[1])

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Store(submits.Store):
    def set(self, key, value):
        if point == "between create and store":
            die()
        super().set(key, value)
        print(json.dumps(self.kept), flush=True)
        if point == "between store and XCom":
            die()

class Try(submits.Try):
    def xcom_push(self, key, value):
        super().xcom_push(key, value)
        if point == "between XCom and wait":
            die()

made = submits.operator(given, deferrable=deferrable)
if point == "in mid-wait":
    made._look = die
if point == "before the create":
    Submission._last = die
try:
    made.execute(Try(store=Store()).context)
except TaskDeferred:
    if point == "between defer and the triggerer":
        die()
raise SystemExit(f"nobody has died {point}")
"""

POINTS = {
    "before the create": 0,
    "between create and store": 1,
    "between store and XCom": 1,
    "between XCom and wait": 1,
    "in mid-wait": 1,
    "between defer and the triggerer": 1,
}
"""Where a worker dies, and how many jobs there are then."""


def dies(point: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run a try of a task in a process that is killed at a point; return what the state store has kept."""
    what = json.dumps([point, given, "defer" in point])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, what], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = [line for line in done.stdout.splitlines() if line.startswith('{"ams_job"')]
    return dict(json.loads(kept[-1])) if kept else {}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    ("ams", "has_store"),
    [("v2", False), ("arm", False), *([("v2", True), ("mkio", True)] if VERSION >= (3, 3) else [])],
    indirect=["ams"],
)
def test_a_worker_that_is_killed_costs_no_second_job(ams: Emulator, point: str, has_store: bool) -> None:
    """Wherever it dies, the next try waits for the job that there is."""
    given = encode(ams, states=RUNNING)
    kept = dies(point, given)
    assert creates(ams) == POINTS[point]
    store = Store()
    store.kept = kept
    ams.advance(3600)
    second = Try(2, store=store if has_store else None)
    if point == "before the create":
        operator(given, wait_for_completion=False).execute(second.context)
    else:
        assert second.run(operator(given))["state"] == "Finished"
    assert creates(ams) == 1


# -- answers that are lost


def lost(ams: Emulator, times: int, **then: Any) -> None:
    """Let the answers to so many creates be lost; the jobs are made."""
    method, path = WIRES[ams.api].create
    ams.inject({"when": {"method": method, "path": path}, "then": then or {"truncate": True}, "times": times})


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a lost job without the pauses that a real service is given."""
    monkeypatch.setattr("airflow_ams.api.submission.LOOKS", (0.0, 0.01))


@all_apis
@pytest.mark.usefixtures("quick_looks", "quick_retries")
def test_a_create_whose_answer_was_lost_is_looked_for(ams: Emulator) -> None:
    """It is found by its name; nothing is created again."""
    given = encode(ams, states=["Finished"])
    lost(ams, 1)
    assert Try().run(operator(given))["state"] == "Finished"
    method, path = WIRES[ams.api].create
    assert len([r for r in ams.requests(path) if r["method"] == method]) == 1


@all_apis
@pytest.mark.usefixtures("quick_looks", "quick_retries")
def test_a_create_that_did_not_happen_is_repeated(ams: Emulator) -> None:
    """The connection was cut before the service did anything; after a look the job is created."""
    given = encode(ams, states=["Finished"])
    lost(ams, 1, drop=True)
    assert Try().run(operator(given))["state"] == "Finished"
    assert creates(ams) == 1


@on("v2")
@pytest.mark.usefixtures("quick_looks", "quick_retries")
def test_a_lost_create_that_nobody_sees_yet_is_found_by_the_next_try(ams: Emulator) -> None:
    """When look-up and creates all fail, the try fails, and what it has created is its successor's."""
    given = encode(ams, states=["Finished"])
    look = {
        "when": {"method": "GET", "query": "startswith"},
        "then": {"status": 503},
        "after": 1,
    }
    ams.inject({"when": {"method": "POST", "path": "^Jobs$"}, "then": {"truncate": True}}, look)
    with pytest.raises(AirflowException, match="a new try looks for it first"):
        Try().run(operator(given, timeout=0.5))
    ams.clear_faults()
    assert Try(2).run(operator(given))["state"] == "Finished"
    assert len(ams.requests("^Jobs$")) == 1


@on("v2")
@pytest.mark.parametrize("number", [1, 2])
def test_a_service_without_startswith_is_asked_for_each_name(ams: Emulator, number: int) -> None:
    """The look-up falls back to ``Name eq``, from the last number down."""
    given = encode(ams, states=RUNNING)
    ams.inject({"when": {"path": "^Jobs", "query": "startswith"}, "then": {"status": 400}})
    first = Try(number)
    operator(given, wait_for_completion=False).execute(first.context)
    ams.advance(3600)
    assert Try(3).run(operator(given))["id"] == first.xcoms["job_id"]
    assert creates(ams) == 1


@all_apis
def test_tries_in_one_try_are_one(ams: Emulator) -> None:
    """A task that Airflow starts again in the same try, as after a lost message, has one job."""
    given = encode(ams, states=RUNNING)
    for _ in range(2):
        operator(given, wait_for_completion=False).execute(Try().context)
    assert creates(ams) == 1


@all_apis
def test_other_tasks_have_jobs_of_their_own(ams: Emulator) -> None:
    """Of another run, map index, task or DAG; the name may be the same."""
    given = encode(ams, states=RUNNING)
    others: list[dict[str, Any]] = [
        {},
        {"run_id": "manual__2"},
        {"map_index": 0},
        {"task_id": "other"},
        {"dag_id": "weekly"},
    ]
    for other in others:
        operator(given, wait_for_completion=False).execute(Try(**other).context)
    assert creates(ams) == len(others)


# -- killed by a user


@all_apis
@pytest.mark.parametrize("wanted", [True, False])
def test_a_killed_task_cancels_its_job(ams: Emulator, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is unless said otherwise: what runs on costs money."""
    made = audible(operator(encode(ams, states=RUNNING), cancel_on_kill=wanted))

    def killed(_: float) -> None:
        # Where Airflow's signal meets a waiting task, as good as always.
        made.on_kill()
        raise SystemExit

    monkeypatch.setattr("airflow_ams.operators.ams.time.sleep", killed)
    one = Try()
    with pytest.raises(SystemExit):
        made.execute(one.context)
    with made.hook as hook:
        state = hook.get_job_state(one.xcoms["job_id"])
    assert (state in (JobState.CANCELING, JobState.CANCELED)) is wanted


@all_apis
def test_a_task_that_is_killed_while_it_creates(ams: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id is not known yet; the job is found by its name, and canceled."""
    made = audible(operator(encode(ams, states=RUNNING)))

    def created(*given: Any) -> Any:
        job = create(*given)
        made.on_kill()
        raise SystemExit(job.id)

    monkeypatch.setattr("airflow_ams.operators.submission.create", created)
    with pytest.raises(SystemExit) as caught:
        made.execute(Try().context)
    with made.hook as hook:
        assert hook.get_job_state(str(caught.value)) in (JobState.CANCELING, JobState.CANCELED)


@on("v2", "mkio")
@pytest.mark.parametrize("text", ["Trigger timeout", "Trigger/execution timeout"])
def test_a_wait_that_no_triggerer_began_cancels_its_job(ams: Emulator, text: str) -> None:
    """Although nobody has kept its id."""
    run = Deferred(operator(encode(ams, states=RUNNING), deferrable=True, do_xcom_push=False), Try().context)
    run.start()
    with pytest.raises(AirflowSensorTimeout, match="is a triggerer running"):
        run.fail(text)
    with AmsHook() as hook:
        assert hook.get_job_state(run.trigger.job_ids) in (JobState.CANCELING, JobState.CANCELED)


@on("v2", "mkio")
def test_a_service_out_of_reach_hides_no_time_out(ams: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """That the job may run on is a line in the log."""
    run = Deferred(operator(encode(ams, states=RUNNING), deferrable=True, do_xcom_push=False), Try().context)
    run.start()
    ams.inject({"when": {}, "then": {"status": 403}})
    with caplog.at_level("WARNING"), pytest.raises(AirflowSensorTimeout):
        run.fail("Trigger timeout")
    assert "may run on" in caplog.text


@all_apis
@MODES
def test_time_outs_cancel_the_job(ams: Emulator, deferrable: bool) -> None:
    """So it is unless said otherwise, too; the task is not retried."""
    one = Try()
    with pytest.raises(AirflowSensorTimeout, match="Timed out after 1 s"):
        one.run(operator(encode(ams, states=RUNNING), timeout=1, deferrable=deferrable))
    with AmsHook() as hook:
        assert hook.get_job_state(one.xcoms["job_id"]) in (JobState.CANCELING, JobState.CANCELED)
