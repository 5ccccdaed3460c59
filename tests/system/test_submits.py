"""Submitting in a real Airflow: tries, clears and kills as its own processes do them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from airflow_ams.api.submission import mark_of, number_in
from airflow_ams.emulator.process import Emulator
from tests.integration.client import Client
from tests.system.conftest import EXAMPLES, job_v2
from tests.system.standalone import AIRFLOW_3, VERSION, Run, Standalone

pytestmark = pytest.mark.standalone

HEARS_OF_KILLS = VERSION >= (3, 3)
EXAMPLE = EXAMPLES / "example_ams_assets.py"
HOUR = 3600
CROWD = 50
POLL = 2
FINISHED, ERROR, CANCELED = 3, 4, 5

DAGS = """
import json, os
from datetime import datetime, timedelta, timezone
from airflow.providers.common.compat.sdk import DAG, AssetAlias, task
from airflow_ams.operators.ams import AmsCancelJobOperator, AmsSubmitJobOperator

SOURCE = json.loads(os.environ["TEST_SOURCE"])
ALIAS = AssetAlias("encoded")
COMMON = {"poke_interval": %(POLL)d, "timeout": 600, "retries": 2, "retry_delay": timedelta(0)}


def script(*states, **more):
    configuration = {"states": states, **more}
    return [{"processor": "Scripted", "configuration": configuration, "outputs": ["{{ task.task_id }}"]}]


def submit(task_id, *states, error=None, **arguments):
    tasks = script(*states, **({"error": error} if error else {}))
    return AmsSubmitJobOperator(
        task_id=task_id, name=task_id, input_asset_ids=SOURCE, tasks=tasks, **{**COMMON, **arguments}
    )


RUNNING = ({"state": "Processing", "seconds": %(HOUR)d}, "Finished")
with DAG("submits", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    submit("killed_worker", *RUNNING)
    submit("finished", "Finished", outlets=[ALIAS])
    shortly = {"state": "Processing", "seconds": 1}
    submit("finished_deferred", shortly, "Finished", deferrable=True, outlets=[ALIAS])
    submit("transient", "Error", error={"code": "TransientError", "message": "busy"}, deferrable=True)
    submit("broken", "Error", error={"code": "ErrorParsingConfiguration", "message": "bad"}, deferrable=True)
    submit("marked_failed", *RUNNING, deferrable=True)
    stopped = submit("stopped", *RUNNING, wait_for_completion=False)
    AmsCancelJobOperator(task_id="stop", job_id=stopped.output["job_id"], poke_interval=1)

with DAG("crowd", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):

    @task
    def sources():
        return [SOURCE] * %(CROWD)d

    AmsSubmitJobOperator.partial(
        task_id="encode",
        ams_conn_id="ams_crowd",
        name="crowd {{ ti.map_index }}",
        tasks=script(*RUNNING),
        deferrable=True,
        **COMMON,
    ).expand(input_asset_ids=sources())

with DAG("encoded", schedule=[ALIAS], start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):

    @task
    def publish(**context):
        events = context["triggering_asset_events" if %(AIRFLOW_3)r else "triggering_dataset_events"]
        return [event.extra["name"] for some in events.values() for event in some]

    publish()
"""


class Stage:
    """An Airflow with these DAGs, and two services."""

    def __init__(self, airflow: Standalone, ams: Emulator, crowd: Emulator) -> None:
        self.airflow = airflow
        self.ams = ams
        self.crowd = crowd


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Start all of it."""
    home: Path = tmp_path_factory.mktemp("submits")
    (home / "source.mp4").write_bytes(b"scripted jobs do not look at it")
    with Emulator() as ams, Emulator() as crowd:
        sources = [one.upload(home / "source.mp4") for one in (ams, crowd)]
        connection = json.loads(ams.connection_json())
        connection["extra"]["job_url_template"] = "https://portal.example/jobs/{job_id}"
        environment = {
            "AIRFLOW_CONN_AMS_DEFAULT": json.dumps(connection),
            "AIRFLOW_CONN_AMS_CROWD": crowd.connection_json(),
            "TEST_SOURCE": json.dumps(sources[0]),
        }
        text = DAGS % {"POLL": POLL, "HOUR": HOUR, "CROWD": CROWD, "AIRFLOW_3": AIRFLOW_3}
        text = text.replace("return [SOURCE] *", f"return [{sources[1]!r}] *")
        dags = {"submits.py": text, EXAMPLE.name: EXAMPLE.read_text()}
        with Standalone(home, dags, environment=environment) as airflow:
            yield Stage(airflow, ams, crowd)


def jobs(ams: Emulator, run: Run, task: str, map_index: int = -1) -> dict[int, int]:
    """Return the states, by their numbers on the wire, of a task's jobs, by the numbers in their names."""
    mark = mark_of(run.dag_id, task, run.run_id, map_index)
    numbers = {number_in(job["Name"], mark): job["State"] for job in Client(ams).value("Jobs()")}
    return {number: state for number, state in numbers.items() if number is not None}


def kill_worker(stage: Stage, run: Run, task: str) -> None:
    """Kill the process that runs a task, by ``kill -9``."""
    rows = stage.airflow.query(
        "SELECT pid FROM task_instance WHERE run_id = :run_id AND task_id = :task_id",
        run_id=run.run_id,
        task_id=task,
    )
    psutil.Process(rows[0][0]).kill()


@pytest.fixture(scope="module")
def run(stage: Stage) -> Run:
    """Run the DAG; kill the worker of one task in mid-wait, mark another failed, clear a third one."""
    run = stage.airflow.run_dag("submits")
    run.wait_for_log("Submitted job", ["killed_worker"])
    kill_worker(stage, run, "killed_worker")
    stage.airflow.wait_until(lambda: run.tasks()["killed_worker"].try_number == 2, what="second try")
    # A trigger that the triggerer has not started yet hears of nothing.
    run.wait_for_log("is Processing", ["marked_failed"], times=2)
    run.mark_failed("marked_failed")
    run.wait_for_end(["finished", "finished_deferred", "transient", "broken", "marked_failed", "stop"])
    stage.airflow.wait_until(
        lambda: "going on with it" in run.log("killed_worker", 2), what="second try that waits"
    )
    if HEARS_OF_KILLS:
        stage.airflow.wait_until(
            lambda: jobs(stage.ams, run, "marked_failed") == {1: CANCELED}, what="cancel of the job"
        )
    stage.ams.advance(2 * HOUR)
    run.wait_for_end()
    run.clear("finished")
    stage.airflow.wait_until(lambda: len(jobs(stage.ams, run, "finished")) == 2, what="second job")
    run.wait_for_end()
    return run


def test_a_killed_worker_costs_no_second_job(stage: Stage, run: Run) -> None:
    """The next try waits for the job of the first one."""
    task = run.tasks()["killed_worker"]
    assert (task.state, task.try_number) == ("success", 2)
    assert jobs(stage.ams, run, "killed_worker") == {1: FINISHED}


def test_a_task_that_is_cleared_after_success_encodes_anew(stage: Stage, run: Run) -> None:
    """The second job has the next number."""
    assert run.states()["finished"] == "success"
    assert jobs(stage.ams, run, "finished") == {1: FINISHED, 2: FINISHED}


def test_a_failed_job_is_submitted_again_if_that_may_help(stage: Stage, run: Run) -> None:
    """As often as there are tries; a broken one is not."""
    assert jobs(stage.ams, run, "transient") == {1: ERROR, 2: ERROR, 3: ERROR}
    assert jobs(stage.ams, run, "broken") == {1: ERROR}
    tasks = run.tasks()
    assert (tasks["transient"].state, tasks["transient"].try_number) == ("failed", 3)
    assert (tasks["broken"].state, tasks["broken"].try_number) == ("failed", 1)
    assert "AmsJobFailedRetryable" in run.log("transient", 1)
    assert "AmsJobFailed: " in run.log("transient", 3)


@pytest.mark.skipif(not HEARS_OF_KILLS, reason="Airflow tells no trigger that its task was killed")
def test_a_task_that_is_marked_failed_cancels_its_job(stage: Stage, run: Run) -> None:
    """It is deferred then."""
    assert run.states()["marked_failed"] == "failed"
    assert jobs(stage.ams, run, "marked_failed") == {1: CANCELED}


def test_a_job_is_stopped_by_another_task(stage: Stage, run: Run) -> None:
    """The cancel operator ends when the job is Canceled."""
    assert run.states()["stop"] == "success"
    assert jobs(stage.ams, run, "stopped") == {1: CANCELED}
    assert run.xcoms()["stop"]["state"] == "Canceled"


def test_other_dags_run_on_what_was_encoded(stage: Stage, run: Run) -> None:
    """Each output is an event of the alias, with the job's document."""
    extras = stage.airflow.query(f"SELECT extra FROM {'asset' if AIRFLOW_3 else 'dataset'}_event")
    told = [json.loads(extra)["name"] for (extra,) in extras if "finished" in extra]
    assert len(told) == 3
    assert {name.rsplit("-", 2)[0] for name in told} == {"finished", "finished_deferred"}

    def published() -> list[str]:
        rows = stage.airflow.query("SELECT value FROM xcom WHERE dag_id = 'encoded' AND key = 'return_value'")
        return [name for (value,) in rows for name in json.loads(value)]

    # Airflow 2.11 may miss an event on an address that it has not seen before until it has read the DAG anew.
    least = 3 if AIRFLOW_3 else 1
    stage.airflow.wait_until(lambda: len(published()) >= least, what="run of the other DAG")
    assert {*published()} <= {*told}


def test_the_example_runs_when_the_other_has_encoded(stage: Stage, clip: Path) -> None:
    """A real encode by the producer starts the consumer, which knows what was written, and by which job."""
    producer = stage.airflow.run_dag("example_ams_assets_producer", {"job": job_v2(stage.ams, clip)})
    producer.wait_for_end()
    assert producer.states() == {"encode": "success"}

    def runs() -> list[str]:
        rows = stage.airflow.query("SELECT run_id FROM dag_run WHERE dag_id = 'example_ams_assets_consumer'")
        return [run_id for (run_id,) in rows]

    stage.airflow.wait_until(lambda: bool(runs()), what="run of the consumer")
    consumer = Run(stage.airflow, "example_ams_assets_consumer", *runs())
    consumer.wait_for_end()
    assert consumer.states() == {"publish": "success"}
    job_id = producer.xcoms()["encode"]["id"]
    assert f"publishing encoded, which job {job_id} wrote" in consumer.log("publish")


def test_the_link_leads_to_the_job(stage: Stage, run: Run) -> None:
    """As the user interface shows it."""
    path = f"dags/submits/dagRuns/{quote(run.run_id, safe='')}/taskInstances/killed_worker/links"
    links = stage.airflow.request("GET", path).json()
    link = (links.get("extra_links") or links)["Media job"]
    assert link.startswith("https://portal.example/jobs/nb%3Ajid%3AUUID%3A")


def test_a_crowd_is_submitted_once_and_shares_its_requests(stage: Stage) -> None:
    """Fifty mapped tasks, one triggerer: a look and a create each, and one list an interval for all."""
    run = stage.airflow.run_dag("crowd")
    encodes = [f"encode[{index}]" for index in range(CROWD)]
    run.wait_for("deferred", encodes, 600)
    # The last ones have been read once in the triggerer, and are in step with the others.
    time.sleep(3 * POLL)
    stage.crowd.clear_requests()
    began = time.monotonic()
    time.sleep(5 * POLL)
    requests, seconds = stage.crowd.requests("^Jobs"), time.monotonic() - began
    sweeps = [entry for entry in requests if "State le 2" in entry["query"]]
    assert len(sweeps) <= 1 + seconds / (POLL * 0.75)
    # Besides, one job's percent has its turn with each; and a busy machine may hold up a round.
    others = [entry["path"] for entry in requests if entry not in sweeps]
    assert len(others) <= len(sweeps) + 5, others
    stage.crowd.advance(2 * HOUR)
    run.wait_for_end(encodes, 600)
    assert set(run.states().values()) == {"success"}
    for index in range(CROWD):
        assert jobs(stage.crowd, run, "encode", index) == {1: FINISHED}
    assert len(Client(stage.crowd).value("Jobs()")) == CROWD
