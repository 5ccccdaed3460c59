"""The sensor run by Airflow itself: states, tries and XCom as its own runner and database have them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import airflow_ams
from airflow_ams.emulator.process import Emulator

DAG = """
from datetime import datetime, timezone
import json, os
from airflow.providers.common.compat.sdk import DAG
from airflow_ams.sensors.ams import AmsJobSensor

jobs = json.loads(os.environ["TEST_JOBS"])
with DAG("waits", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    common = {"retries": 2, "retry_delay": 0, "poke_interval": 1, "timeout": 90}
    AmsJobSensor(task_id="finished", job_id=jobs["finished"], mode="reschedule", **common)
    AmsJobSensor(task_id="poked", job_id="{{ '%s' }}" % jobs["finished"], **common)
    AmsJobSensor(task_id="failed", job_id=jobs["failed"], **common)
    AmsJobSensor(task_id="skipped", job_id=jobs["failed"], mode="reschedule", soft_fail=True, **common)
    AmsJobSensor(task_id="unknown", job_id=jobs["unknown"], mode="reschedule", not_found_grace=2, **common)
    AmsJobSensor(task_id="refused", job_id="no id", **common)
"""
RUN = """
import sys
from airflow.utils.db import initdb
from airflow.__main__ import main

initdb()
sys.argv = ["airflow", "dags", "test", "waits"]
main()
"""
DEADLINE = 150


@dataclass
class Run:
    """What the database says of the tasks, how often each job was polled, and all that was logged."""

    tasks: dict[str, tuple[str, int]]
    xcoms: dict[str, Any]
    polls: dict[str, int]
    log: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the DAG once, in an Airflow of its own, against an emulator of its own."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "waits.py").write_text(DAG)
    with Emulator() as ams:
        jobs = {
            "finished": ams.submit_scripted(states=[{"state": "Processing", "seconds": 3600}, "Finished"]),
            "failed": ams.submit_scripted(states=["Error"], error={"code": "E1", "message": "bad input"}),
            "unknown": "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1",
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        env |= {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_AMS_DEFAULT": ams.connection_json(),
            "PYTHONPATH": str(Path(airflow_ams.__file__).parents[1]),
            "TEST_JOBS": json.dumps(jobs),
        }
        log = home / "log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", RUN],
                env=env,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            end = time.monotonic() + DEADLINE
            while process.poll() is None and time.monotonic() < end:
                # The job ends only after its first poll, so one of its two waits has really waited.
                if [r for r in ams.requests(r"^Jobs\(\)$") if jobs["finished"] in r["query"]]:
                    ams.advance(3600)
                    break
                time.sleep(0.2)
            process.wait(max(1.0, end - time.monotonic()))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        requests = ams.requests(r"^Jobs\(\)$")
    database = sqlite3.connect(home / "airflow.db")
    try:
        tasks = {
            task: (state, tries)
            for task, state, tries in database.execute("SELECT task_id, state, try_number FROM task_instance")
        }
        values = database.execute("SELECT task_id, value FROM xcom WHERE key = 'return_value'")
        xcoms = {task: json.loads(value) for task, value in values}
    finally:
        database.close()
    polls = {name: len([r for r in requests if job_id in r["query"]]) for name, job_id in jobs.items()}
    return Run(tasks, xcoms, polls, log.read_text())


def test_every_task_ended_at_its_first_try(run: Run) -> None:
    """Success, failure and skip are what they should be, and nothing was retried."""
    assert run.tasks == {
        "finished": ("success", 1),
        "poked": ("success", 1),
        "failed": ("failed", 1),
        "skipped": ("skipped", 1),
        "unknown": ("failed", 1),
        "refused": ("failed", 1),
    }, run.log[-5000:]


def test_the_grace_is_counted_over_reschedules(run: Run) -> None:
    """Each poke of the unknown id is a start of its own; two seconds after the first one the wait ends."""
    assert run.polls["unknown"] >= 2
    assert "90 days" in run.log


def test_the_xcom_is_the_same_for_both_waits(run: Run) -> None:
    """The waits that succeeded, one in each mode, left the same document; nothing else left one."""
    assert set(run.xcoms) == {"finished", "poked"}
    document = run.xcoms["finished"]
    if isinstance(document, str):
        document = json.loads(document)
    assert run.xcoms["finished"] == run.xcoms["poked"]
    assert (document["state"], document["duration_seconds"]) == ("Finished", 3600.0)


def test_the_reasons_are_in_the_log(run: Run) -> None:
    """A failed task and a skipped one both say why."""
    for words in ("E1: bad input", "Skipping due to soft_fail", "'no id'"):
        assert words in run.log


def test_no_key_is_in_the_log(run: Run) -> None:
    """Airflow's own log of a whole run holds no token."""
    assert "Bearer" not in run.log
    assert "HMACSHA256" not in run.log
