"""Two triggerers on PostgreSQL, of which one is killed, or stands still: every wait ends just once."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import pytest

from airflow_ams.emulator.process import Emulator
from tests.system.postgres import find_programs, postgres
from tests.system.standalone import AIRFLOW_3, Run, Standalone

PROGRAMS = find_programs()
DRIVERS = ["psycopg2", "asyncpg"] if AIRFLOW_3 else ["psycopg2"]
MISSING = [name for name in DRIVERS if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL is not installed: apt-get install postgresql"),
    pytest.mark.skipif(bool(MISSING), reason=f"Airflow cannot speak to PostgreSQL without {MISSING}"),
]

HOUR = 3600
TASKS = 5
"""Of each kind."""
FEW = 4
"""Waits that the first triggerer takes, so that some are left for the second."""
ACCIDENTS = ["killed", "paused", "paused_at_the_end"]
"""A DAG each; the jobs of the first end after an hour, those of the second after two, and so on."""

DAG = """
import json, os
from datetime import datetime, timezone
from airflow.providers.common.compat.sdk import DAG
from airflow_ams.sensors.ams import AmsJobSensor

JOBS = json.loads(os.environ["TEST_JOBS"])
COMMON = {"deferrable": True, "poke_interval": 2, "timeout": 600, "retries": 1, "cancel_on_kill": True}

for name, jobs in JOBS.items():
    with DAG(name, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
        half = len(jobs) // 2
        AmsJobSensor.partial(task_id="resumed", **COMMON).expand(job_id=jobs[:half])
        AmsJobSensor.partial(task_id="ended", end_from_trigger=True, **COMMON).expand(job_id=jobs[half:])
"""
NAMES = [f"{kind}[{index}]" for kind in ("resumed", "ended") for index in range(TASKS)]


@dataclass
class Ended:
    """What came of a run."""

    ends: dict[str, tuple[str | None, int]]
    """State and tries of each task instance."""
    starts: dict[str, int]
    xcoms: dict[str, Any]
    jobs: list[str]
    canceled: list[str]
    """Jobs that somebody asked to cancel, and could."""


@dataclass
class Stage:
    """An Airflow on PostgreSQL, and the service whose jobs its DAGs wait for."""

    airflow: Standalone
    ams: Emulator
    jobs: dict[str, list[str]]

    def wait_for_owners(self, count: int = 0, *, without: Collection[int] = ()) -> set[int]:
        """Wait until triggerers, so many and none of some, share all waits; return their numbers."""
        owners: dict[int, int] = {}

        def shared() -> bool:
            rows = self.airflow.query(
                "SELECT triggerer_id, count(*) FROM trigger "
                "WHERE triggerer_id IS NOT NULL GROUP BY triggerer_id"
            )
            owners.clear()
            owners.update(rows)
            is_right = len(owners) == (count or len(owners)) and not owners.keys() & set(without)
            return is_right and sum(owners.values()) == len(NAMES)

        self.airflow.wait_until(shared, what=f"{count} triggerers with all waits")
        return set(owners)

    def wait_for_life(self, triggerer: int) -> None:
        """Wait until a triggerer that stood still has made its rounds again."""
        for _ in range(2):
            before = self._heartbeat(triggerer)
            self.airflow.wait_until(partial(self._beats_after, before, triggerer), what="heartbeat")

    def _beats_after(self, before: str, triggerer: int) -> bool:
        return self._heartbeat(triggerer) != before

    def _heartbeat(self, triggerer: int) -> str:
        [(moment,)] = self.airflow.query("SELECT latest_heartbeat FROM job WHERE id = :id", id=triggerer)
        return str(moment)

    def tell(self, run: Run) -> Ended:
        """Return what came of a run."""
        ends = {name: (task.state, task.try_number) for name, task in run.tasks().items()}
        granted = [entry["query"] for entry in self.ams.requests("CancelJob") if entry["status"] < 300]
        jobs = self.jobs[run.dag_id]
        canceled = [job for job in jobs if any(job in query for query in granted)]
        return Ended(ends, run.starts(), run.xcoms(), jobs, canceled)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """Run the DAGs, each with its accident; the first triggerer takes but a few waits."""
    assert PROGRAMS is not None
    home = tmp_path_factory.mktemp("standalone")
    with Emulator() as ams, postgres(PROGRAMS) as database:
        ams.freeze()
        jobs = {name: _submit(ams, name, hours) for hours, name in enumerate(ACCIDENTS, 1)}
        environment = {
            "AIRFLOW_CONN_AMS_DEFAULT": ams.connection_json(),
            "TEST_JOBS": json.dumps(jobs),
            f"AIRFLOW__TRIGGERER__{'CAPACITY' if AIRFLOW_3 else 'DEFAULT_CAPACITY'}": str(FEW),
        }
        with Standalone(home, {"waits.py": DAG}, environment=environment, database=database) as airflow:
            stage = Stage(airflow, ams, jobs)
            yield {
                "killed": _kill_one(stage),
                "paused": _pause_one(stage, "paused"),
                "paused_at_the_end": _pause_one(stage, "paused_at_the_end", jobs_end=True),
            }


def _submit(ams: Emulator, name: str, hours: int) -> list[str]:
    states = [{"state": "Processing", "seconds": hours * HOUR}, "Finished"]
    return [ams.submit_scripted(f"{name} {index}", states=states) for index in range(len(NAMES))]


def _kill_one(stage: Stage) -> Ended:
    """Share the waits among two triggerers, and kill the first."""
    airflow = stage.airflow
    run = airflow.run_dag("killed")
    run.wait_for("deferred", NAMES)
    airflow.start_triggerer("--capacity", "100")
    owners = stage.wait_for_owners(2)
    run.wait_for_log("is Processing", NAMES, times=2)
    airflow.kill_triggerer(airflow.triggerers()[0])
    stage.wait_for_owners(1, without=[min(owners)])
    stage.ams.advance(HOUR)
    run.wait_for_end()
    return stage.tell(run)


def _pause_one(stage: Stage, dag_id: str, *, jobs_end: bool = False) -> Ended:
    """Stop the triggerers that have the waits; when another one has taken these, let all go on.

    :param jobs_end: the jobs end meanwhile, so that two triggerers see it
    """
    airflow = stage.airflow
    run = airflow.run_dag(dag_id)
    run.wait_for("deferred", NAMES)
    owners = stage.wait_for_owners()
    # Said by the worker, then by the trigger: having a wait is not yet running it.
    run.wait_for_log("is Processing", NAMES, times=2)
    family = [one for main in airflow.triggerers() for one in (main, *main.children(recursive=True))]
    airflow.start_triggerer("--capacity", "100")
    _signal(family, signal.SIGSTOP)
    try:
        stage.wait_for_owners(1, without=owners)
        if jobs_end:
            stage.ams.advance(HOUR)
    finally:
        _signal(family, signal.SIGCONT)
    for owner in owners:
        stage.wait_for_life(owner)
    if not jobs_end:
        stage.ams.advance(HOUR)
    run.wait_for_end()
    return stage.tell(run)


def _signal(family: list[psutil.Process], number: signal.Signals) -> None:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_every_wait_ends_once(story: dict[str, Ended], accident: str) -> None:
    """Each task succeeds in one try, with one document, and no process more than it needs."""
    ended = story[accident]
    assert ended.ends == dict.fromkeys(NAMES, ("success", 1))
    assert ended.starts == {name: 2 if name.startswith("resumed") else 1 for name in NAMES}
    ids = {name: document["id"] for name, document in ended.xcoms.items()}
    assert ids == dict(zip(NAMES, ended.jobs, strict=True))


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_a_lost_triggerer_cancels_nothing(story: dict[str, Ended], accident: str) -> None:
    """The tasks have ``cancel_on_kill``, but it is not the tasks that were killed."""
    assert not story[accident].canceled
