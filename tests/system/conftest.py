"""A real Airflow for the system tests: one home with a migrated database, driven by its own command line."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

EXAMPLES = Path(__file__).parents[2] / "example_dags"


@dataclass
class DagRun:
    """How one run of a DAG ended: exit code, each task's state, and all that was logged."""

    code: int
    states: dict[str, str]
    log: str


@dataclass
class Airflow:
    """One Airflow home, in processes of its own."""

    home: Path

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one ``airflow`` command."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        env |= {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **environment,
        }
        return subprocess.run(
            [sys.executable, "-m", "airflow", *command],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )

    def test_dag(self, dag_id: str, conf: dict[str, Any], emulator: Emulator) -> DagRun:
        """Run a DAG once, by ``airflow dags test``, against the emulator."""
        result = self.run(
            *("dags", "test", dag_id, "--conf", json.dumps(conf)),
            AIRFLOW_CONN_AMS_DEFAULT=emulator.connection_json(),
        )
        return DagRun(result.returncode, self.task_states(dag_id), result.stdout)

    def task_states(self, dag_id: str) -> dict[str, str]:
        """Read the states of the newest run's tasks from the database."""
        connection = sqlite3.connect(self.home / "airflow.db")
        try:
            rows = connection.execute(
                "SELECT task_id, state FROM task_instance WHERE run_id = "
                "(SELECT run_id FROM dag_run WHERE dag_id = ? ORDER BY id DESC LIMIT 1)",
                (dag_id,),
            )
            return dict(rows)
        finally:
            connection.close()


def job_v2(ams: Emulator, clip: Path) -> dict[str, Any]:
    """Return an encode for the v2 API."""
    task = {
        "processor": "Media Encoder Standard",
        "configuration": "H264 Single Bitrate 720p",
        "outputs": ["encoded"],
    }
    return {"name": "Encode", "input_asset_ids": [ams.upload(clip)], "tasks": [task]}


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """Yield an Airflow whose database is ready."""
    airflow = Airflow(tmp_path_factory.mktemp("airflow"))
    migrated = airflow.run("db", "migrate")
    assert migrated.returncode == 0, migrated.stdout
    return airflow


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Yield a clip of two seconds with picture and sound."""
    import imageio_ffmpeg

    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    subprocess.run(
        [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error"),
            *("-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25:duration=2"),
            *("-f", "lavfi", "-i", "sine=frequency=440:duration=2"),
            *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", str(path)),
        ],
        check=True,
    )
    return path
