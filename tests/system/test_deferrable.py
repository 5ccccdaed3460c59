"""Deferred waits in a real Airflow: its own scheduler, workers, triggerer and database."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_ams.emulator.process import Emulator
from tests.system.standalone import VERSION, Run, Standalone, TaskRow

pytestmark = pytest.mark.standalone

HOUR = 3600
CROWD = 30
POLL = 2
STARTS_IN_TRIGGERER = VERSION >= (3, 3)
"""Below, Airflow renders no templates in the triggerer, and the sensor defers the ordinary way."""

only_with_on_kill = pytest.mark.skipif(
    VERSION < (3, 3), reason="Airflow tells a trigger that its task was killed from 3.3 on"
)

# A name for each task, and the state in which its job ends.
ENDS = {
    "finished": "Finished",
    "finished_again": "Finished",
    "failed": "Error",
    "canceled": "Canceled",
    "skipped": "Error",
    "without_xcom": "Finished",
    "late": "Finished",
    "late_canceled": "Finished",
    "too_long": "Finished",
    "killed": "Finished",
    "spared": "Finished",
    "cleared": "Finished",
    "after_submit": "Finished",
    "ended_in_triggerer": "Finished",
    "with_outlets": "Finished",
    "failed_in_triggerer": "Error",
    "started_in_triggerer": "Finished",
    "never_on_worker": "Finished",
    "never_in_time": "Finished",
}
LISTS = {
    "many": ["Finished", "Finished", "Finished"],
    "mapped": ["Finished", "Error", "Finished"],
    "mapped_over": ["Finished", "Finished"],
    "mapped_over_from_start": ["Finished", "Finished"],
}

DAGS = """
import json, os
from datetime import datetime, timedelta, timezone
from airflow.providers.common.compat.sdk import DAG, Asset, task
from airflow_ams.sensors.ams import AmsJobSensor

JOBS = json.loads(os.environ["TEST_JOBS"])
POLL = int(os.environ["TEST_POLL"])
COMMON = {"deferrable": True, "poke_interval": POLL, "timeout": 600, "retries": 1}
COMMON["retry_delay"] = timedelta(0)


def wait(task_id, **arguments):
    return AmsJobSensor(task_id=task_id, **{**COMMON, "job_id": JOBS[task_id], **arguments})


with DAG("outcomes", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    wait("finished")
    wait("finished_again", job_id=JOBS["finished"])
    wait("failed")
    wait("canceled")
    wait("skipped", soft_fail=True)
    wait("many", job_id=JOBS["many"])
    wait("without_xcom", do_xcom_push=False, end_from_trigger=True)
    wait("late", timeout=25)
    wait("late_canceled", timeout=25, cancel_on_timeout=True)
    wait("too_long", execution_timeout=timedelta(seconds=15))
    wait("killed", cancel_on_kill=True)
    wait("spared")
    wait("cleared", cancel_on_kill=True)
    AmsJobSensor.partial(task_id="mapped", **COMMON).expand(job_id=JOBS["mapped"])

    @task(multiple_outputs=True)
    def submit():
        return {name: JOBS[name] for name in ("after_submit", "started_in_triggerer")}

    @task
    def publish(job):
        return "published " + job["name"]

    submitted = submit()
    wait("after_submit", job_id=submitted["after_submit"])
    wait("ended_in_triggerer", end_from_trigger=True)
    wait("with_outlets", end_from_trigger=True, outlets=[Asset("encoded")])
    wait("failed_in_triggerer", end_from_trigger=True)
    wait("started_in_triggerer", job_id=submitted["started_in_triggerer"], start_from_trigger=True)
    publish(wait("never_on_worker", start_from_trigger=True, end_from_trigger=True).output)
    wait("never_in_time", start_from_trigger=True, timeout=25)
    for name, starts_there in (("mapped_over", False), ("mapped_over_from_start", True)):
        waited = wait(name, end_from_trigger=True, start_from_trigger=starts_there)
        publish.override(task_id="publish_" + name).expand(job=waited.output)

with DAG("crowd", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    AmsJobSensor.partial(
        task_id="wait", ams_conn_id="ams_crowd", end_from_trigger=True, cancel_on_kill=True, **COMMON
    ).expand(
        job_id=JOBS["crowd"]
    )
"""


def _submit(ams: Emulator, name: str, end: str) -> str:
    return ams.submit_scripted(
        f"job of {name}",
        states=[{"state": "Processing", "seconds": HOUR, "progress": [40, 40]}, end],
        error={"code": "ErrorOfTest", "message": f"the reason of {name}"} if end == "Error" else None,
    )


def _crowd_end(index: int) -> str:
    return {0: "Error", 1: "Canceled"}.get(index, "Finished")


@dataclass
class Stage:
    """An Airflow with both DAGs, each of which waits for the jobs of a service of its own."""

    airflow: Standalone
    ams: Emulator
    crowd: Emulator
    jobs: dict[str, Any]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Start two services, whose clocks stand still, and an Airflow."""
    home: Path = tmp_path_factory.mktemp("standalone")
    with Emulator() as ams, Emulator() as crowd:
        ams.freeze()
        crowd.freeze()
        jobs: dict[str, Any] = {name: _submit(ams, name, end) for name, end in ENDS.items()}
        for name, ends in LISTS.items():
            jobs[name] = [_submit(ams, f"{name} {index}", end) for index, end in enumerate(ends)]
        jobs["crowd"] = [_submit(crowd, f"crowd {index}", _crowd_end(index)) for index in range(CROWD)]
        environment = {
            "AIRFLOW_CONN_AMS_DEFAULT": ams.connection_json(),
            "AIRFLOW_CONN_AMS_CROWD": crowd.connection_json(),
            "TEST_JOBS": json.dumps(jobs),
            "TEST_POLL": str(POLL),
        }
        with Standalone(home, {"deferred.py": DAGS}, environment=environment) as airflow:
            yield Stage(airflow, ams, crowd, jobs)


@dataclass
class Story:
    """What came of a run: as the database, the logs and the service have it."""

    run: Run
    tasks: dict[str, TaskRow]
    starts: dict[str, int]
    xcoms: dict[str, Any]
    canceled: list[str]
    """Ids of the jobs that somebody asked to cancel."""
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def ends(self) -> dict[str, tuple[str | None, int]]:
        """State and tries of each task instance."""
        return {name: (task.state, task.try_number) for name, task in self.tasks.items()}


def _tell(run: Run, ams: Emulator, **seen: Any) -> Story:
    return Story(run, run.tasks(), run.starts(), run.xcoms(), _canceled(ams), seen)


def _wait_until_settled(airflow: Standalone, ams: Emulator) -> None:
    """Wait until every wait has had its first reading, which may be a request of its own."""

    def is_settled() -> bool:
        ams.clear_requests()
        _wait_for_sweeps(airflow, ams, 2)
        lists = ams.requests(r"^Jobs\(\)$")
        return len(lists) == len(_sweeps(lists))

    airflow.wait_until(is_settled, what="quiet polling")


def _canceled(ams: Emulator) -> list[str]:
    return [_job_id(entry) for entry in ams.requests("CancelJob") if entry["status"] < 300]


def _job_id(entry: dict[str, Any]) -> str:
    found = re.search(r"nb:jid:UUID:[0-9a-f-]{36}", entry["path"] + entry["query"])
    return found.group() if found else ""


@pytest.fixture(scope="module")
def outcomes(stage: Stage) -> Story:
    """Run all kinds of waits at once; mark some failed, then let the jobs end."""
    run = stage.airflow.run_dag("outcomes")
    # These may have ended by the time the last one waits, or wait for no job of theirs.
    others = {"late", "late_canceled", "too_long", "never_in_time"}
    lists = {"many", "mapped[0]", "mapped[1]", "mapped[2]", "mapped_over", "mapped_over_from_start"}
    names = (set(ENDS) - others) | lists
    run.wait_for("deferred", names)
    # A trigger that the triggerer has not started yet hears of nothing. Each says where its job stands,
    # after the worker has said so.
    run.wait_for_log("is Processing", ["killed", "spared", "cleared"], times=2)
    for name in ("killed", "spared"):
        run.mark_failed(name)
    run.clear("cleared")
    if STARTS_IN_TRIGGERER:
        killed = stage.jobs["killed"]
        stage.airflow.wait_until(lambda: killed in _canceled(stage.ams), what="cancel of the job")
        run.wait_for_log("invoking on_kill", ["cleared"])
    else:
        run.wait_for("deferred", ["cleared"])
    run.wait_for_end(others)
    stage.ams.advance(HOUR)
    run.wait_for_end()
    return _tell(run, stage.ams)


@pytest.fixture(scope="module")
def crowd(stage: Stage) -> Story:
    """Let many tasks wait; count their requests; kill the triggerer, start another; let the jobs end."""
    airflow, ams = stage.airflow, stage.crowd
    run = airflow.run_dag("crowd")
    run.wait_for("deferred", [f"wait[{index}]" for index in range(CROWD)])
    _wait_until_settled(airflow, ams)
    ams.clear_requests()
    began = time.monotonic()
    _wait_for_sweeps(airflow, ams, 5)
    requests, seconds = ams.requests(), time.monotonic() - began
    for triggerer in airflow.triggerers():
        airflow.kill_triggerer(triggerer)
    ams.clear_requests()
    airflow.start_triggerer()
    _wait_for_sweeps(airflow, ams, 1)
    ams.advance(HOUR)
    run.wait_for_end()
    return _tell(run, ams, requests=requests, seconds=seconds)


def _sweeps(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in requests if "State" in entry["query"].partition("$orderby")[0]]


def _wait_for_sweeps(airflow: Standalone, ams: Emulator, count: int) -> None:
    airflow.wait_until(lambda: len(_sweeps(ams.requests(r"^Jobs\(\)$"))) >= count, what="sweep")


@pytest.mark.parametrize("name", ["finished", "finished_again", "after_submit"])
def test_success_resumes_on_a_worker(outcomes: Story, name: str) -> None:
    """A wait that succeeds starts twice in one try, and leaves the job's document."""
    assert outcomes.ends[name] == ("success", 1)
    assert outcomes.starts[name] == 2, outcomes.run.log(name)
    document = outcomes.xcoms[name]
    job = "finished" if name == "finished_again" else name
    assert (document["name"], document["state"]) == (f"job of {job}", "Finished")
    assert document["duration_seconds"] == HOUR
    assert [output["name"] for output in document["outputs"]] == [f"job of {job} output"]


def test_failure_names_its_reason_and_is_not_retried(outcomes: Story) -> None:
    """A job in Error fails the task at its first try."""
    assert outcomes.ends["failed"] == ("failed", 1)
    assert "AmsJobFailed" in outcomes.run.log("failed")
    assert "ErrorOfTest: the reason of failed" in outcomes.run.log("failed")
    assert "failed" not in outcomes.xcoms


def test_cancel_is_a_failure_of_its_own(outcomes: Story) -> None:
    """A job that somebody canceled fails the task at its first try."""
    assert outcomes.ends["canceled"] == ("failed", 1)
    assert "AmsJobCanceled" in outcomes.run.log("canceled")


def test_soft_fail_skips_and_says_why(outcomes: Story) -> None:
    """Under ``soft_fail`` the task is skipped, with the reason in its log."""
    assert outcomes.ends["skipped"] == ("skipped", 1)
    assert "the reason of skipped" in outcomes.run.log("skipped")


def test_a_list_leaves_its_documents_in_order(outcomes: Story, stage: Stage) -> None:
    """One task waits for three jobs."""
    assert outcomes.ends["many"] == ("success", 1)
    assert [document["id"] for document in outcomes.xcoms["many"]] == stage.jobs["many"]


def test_mapped_waits_end_each_by_itself(outcomes: Story, stage: Stage) -> None:
    """Of three mapped tasks the one whose job failed fails, and the others leave their documents."""
    ends = [outcomes.ends[f"mapped[{index}]"] for index in range(3)]
    assert ends == [("success", 1), ("failed", 1), ("success", 1)]
    for index in (0, 2):
        assert outcomes.xcoms[f"mapped[{index}]"]["id"] == stage.jobs["mapped"][index]


@pytest.mark.parametrize("name", ["late", "late_canceled", "never_in_time"])
def test_timeout_is_not_retried(outcomes: Story, name: str) -> None:
    """``timeout`` ends the wait at its first try, wherever the wait has started."""
    assert outcomes.ends[name] == ("failed", 1)
    assert "AirflowSensorTimeout" in outcomes.run.log(name)


def test_execution_timeout_is_retried(outcomes: Story) -> None:
    """The shorter ``execution_timeout`` ends a try, and there is a second one."""
    assert outcomes.ends["too_long"] == ("failed", 2)
    for attempt in (1, 2):
        log = outcomes.run.log("too_long", attempt)
        assert "AirflowTaskTimeout" in log
        assert "AirflowSensorTimeout" not in log


def test_timeout_cancels_only_where_asked(outcomes: Story, stage: Stage) -> None:
    """``cancel_on_timeout`` cancels the job once; without it the job runs on."""
    assert outcomes.canceled.count(stage.jobs["late_canceled"]) == 1
    assert not {stage.jobs[name] for name in ("late", "too_long", "never_in_time")} & set(outcomes.canceled)


@only_with_on_kill
def test_mark_failed_and_clear_cancel_where_asked(outcomes: Story, stage: Stage) -> None:
    """``cancel_on_kill`` cancels the job of a task that a user marks or clears, once."""
    assert outcomes.ends["killed"][0] == "failed"
    assert outcomes.canceled.count(stage.jobs["killed"]) == 1
    assert "is being canceled" in outcomes.run.log("killed")
    # Which comes first is Airflow's affair: the cancel, which the next try finds, or the next try's own wait.
    if stage.jobs["cleared"] in outcomes.canceled:
        assert outcomes.canceled.count(stage.jobs["cleared"]) == 1
        assert outcomes.ends["cleared"] == ("failed", 2)
        assert "AmsJobCanceled" in outcomes.run.log("cleared", 2)
    else:
        assert outcomes.ends["cleared"] == ("success", 2)
        assert "the task waits on" in outcomes.run.log("cleared", 1)


def test_mark_failed_cancels_nothing_by_default(outcomes: Story, stage: Stage) -> None:
    """Without ``cancel_on_kill`` the job of a task that is marked failed runs on."""
    assert outcomes.ends["spared"][0] == "failed"
    assert stage.jobs["spared"] not in outcomes.canceled


def test_nothing_else_is_canceled(outcomes: Story, stage: Stage) -> None:
    """Nobody cancels a job unasked."""
    asked = {"late_canceled", "killed", "cleared"}
    assert set(outcomes.canceled) <= {stage.jobs[name] for name in asked}


def test_end_from_trigger_starts_one_process(outcomes: Story) -> None:
    """Success ends in the triggerer, with the same document as on a worker."""
    assert outcomes.ends["ended_in_triggerer"] == ("success", 1)
    assert outcomes.starts["ended_in_triggerer"] == 1
    ours, usual = outcomes.xcoms["ended_in_triggerer"], outcomes.xcoms["finished"]
    assert set(ours) == set(usual)
    assert (ours["name"], ours["state"]) == ("job of ended_in_triggerer", "Finished")
    assert [output["name"] for output in ours["outputs"]] == ["job of ended_in_triggerer output"]


def test_end_from_trigger_without_xcom(outcomes: Story) -> None:
    """``do_xcom_push=False`` is kept where the task ends in the triggerer."""
    assert outcomes.ends["without_xcom"] == ("success", 1)
    assert outcomes.starts["without_xcom"] == 1
    assert "without_xcom" not in outcomes.xcoms


def test_end_from_trigger_raises_on_a_worker(outcomes: Story) -> None:
    """A failure goes back to the worker, which raises it."""
    assert outcomes.ends["failed_in_triggerer"] == ("failed", 1)
    assert outcomes.starts["failed_in_triggerer"] == 2
    assert "AmsJobFailed" in outcomes.run.log("failed_in_triggerer")


def test_end_from_trigger_with_outlets_resumes_and_says_so_once(outcomes: Story) -> None:
    """Only a worker emits asset events, so the task resumes there; the event is there, and one line why."""
    assert outcomes.ends["with_outlets"] == ("success", 1)
    assert outcomes.starts["with_outlets"] == 2
    table = "asset_event" if VERSION >= (3, 0) else "dataset_event"
    events = outcomes.run.airflow.query(f"SELECT source_task_id FROM {table}")
    assert [task for (task,) in events] == ["with_outlets"]
    lines = [line for line in outcomes.run.log("with_outlets").splitlines() if "end_from_trigger" in line]
    assert len(lines) == 1


@pytest.mark.parametrize("name", ["mapped_over", "mapped_over_from_start"])
def test_a_task_can_be_mapped_over_the_output(outcomes: Story, name: str) -> None:
    """Only a worker stores the output's length, so the wait resumes there; one task a job runs behind it."""
    assert outcomes.ends[name] == ("success", 1)
    never_started = STARTS_IN_TRIGGERER and name == "mapped_over_from_start"
    assert outcomes.starts[name] == (1 if never_started else 2)
    for index in (0, 1):
        assert outcomes.xcoms[f"publish_{name}[{index}]"] == f"published job of {name} {index}"
    lines = [line for line in outcomes.run.log(name).splitlines() if "end_from_trigger" in line]
    assert len(lines) == 1


def test_start_from_trigger_takes_an_upstream_output(outcomes: Story) -> None:
    """The wait starts in the triggerer with the id that another task returned, and resumes on a worker."""
    assert outcomes.ends["started_in_triggerer"] == ("success", 1)
    assert outcomes.starts["started_in_triggerer"] == (1 if STARTS_IN_TRIGGERER else 2)
    assert outcomes.xcoms["started_in_triggerer"]["name"] == "job of started_in_triggerer"


def test_neither_start_nor_end_on_a_worker(outcomes: Story) -> None:
    """The wait starts no process where the triggerer can do all, and the task behind it gets its document."""
    assert outcomes.ends["never_on_worker"] == ("success", 1)
    assert outcomes.starts.get("never_on_worker", 0) == (0 if STARTS_IN_TRIGGERER else 1)
    assert outcomes.xcoms["never_on_worker"]["state"] == "Finished"
    assert outcomes.xcoms["publish"] == "published job of never_on_worker"


@pytest.mark.parametrize("name", ["finished", "failed", "ended_in_triggerer", "never_on_worker", "mapped[2]"])
def test_a_log_has_its_own_job_only(outcomes: Story, stage: Stage, name: str) -> None:
    """A task's log has the states of its job, and no line of the other waits that share its poll."""
    log = outcomes.run.log(name)
    job = f"job of {name.replace('[', ' ').rstrip(']')}"
    assert re.search(f"{job}.*Processing", log)
    assert set(re.findall(r"job of (\w+(?: \d)?)", log)) == {job.removeprefix("job of ")}
    own = stage.jobs[name] if name in ENDS else stage.jobs["mapped"][2]
    assert set(re.findall(r"nb:jid:UUID:[0-9a-f-]{36}", log)) <= {own}


def test_no_token_is_in_a_log(outcomes: Story, stage: Stage) -> None:
    """What all components wrote holds no key and no token."""
    texts = [path.read_text(errors="replace") for path in stage.airflow.home.rglob("*.log")]
    assert texts
    for text in texts:
        assert stage.ams.key not in text
        assert "HMACSHA256" not in text


def test_a_crowd_shares_its_requests(crowd: Story) -> None:
    """Thirty waits cost two requests an interval: a sweep, and the percent of one job."""
    requests, seconds = crowd.seen["requests"], crowd.seen["seconds"]
    sweeps = _sweeps(requests)
    # A few come singly where a busy machine has held up a round; unshared it would be thirty an interval.
    assert len(requests) <= 2 * len(sweeps) + 5
    assert len(sweeps) <= seconds / (POLL * 0.7) + 2


def test_a_killed_triggerer_loses_no_wait(crowd: Story, stage: Stage) -> None:
    """The next triggerer takes the waits over: each ends once, as its job did, and no job is canceled."""
    states = {"Error": "failed", "Canceled": "failed", "Finished": "success"}
    ends = [_crowd_end(index) for index in range(CROWD)]
    assert crowd.ends == {f"wait[{index}]": (states[end], 1) for index, end in enumerate(ends)}
    finished = {index for index, end in enumerate(ends) if end == "Finished"}
    assert {name: document["id"] for name, document in crowd.xcoms.items()} == {
        f"wait[{index}]": stage.jobs["crowd"][index] for index in finished
    }
    assert {name: count for name, count in crowd.starts.items() if count != 1} == {"wait[0]": 2, "wait[1]": 2}
    assert not crowd.canceled
