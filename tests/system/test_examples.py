"""The example DAGs in a real Airflow, against the emulator."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_ams.emulator.process import Emulator
    from tests.system.conftest import Airflow


def test_publish_runs_when_the_job_has_finished(airflow: Airflow, ams_emulator: Emulator) -> None:
    """The task behind the sensor runs, and the one that reports failures does not."""
    job_id = ams_emulator.submit_scripted("ready", outputs=[{"name": "clip.mp4", "size": 10}])
    ams_emulator.advance(60)
    run = airflow.test_dag("example_ams_wait", {"job_id": job_id}, ams_emulator)
    assert run.code == 0, run.log
    assert run.states == {"wait_for_encode": "success", "publish": "success", "report_failure": "skipped"}
    assert re.search(r"publishing .* \(nb:cid:UUID:", run.log)


def test_failure_is_reported_with_its_reason(airflow: Airflow, ams_emulator: Emulator) -> None:
    """A failed job fails the sensor with the reason; the task behind it does not run, the report does."""
    job_id = ams_emulator.submit_scripted(
        "broken",
        states=[{"state": "Processing", "seconds": 1}, {"state": "Error"}],
        error={"code": "ErrorExecutingTaskMalformedContent", "message": "moov atom not found"},
    )
    ams_emulator.advance(60)
    run = airflow.test_dag("example_ams_wait", {"job_id": job_id}, ams_emulator)
    assert run.code != 0
    assert run.states == {
        "wait_for_encode": "failed",
        "publish": "upstream_failed",
        "report_failure": "success",
    }
    assert "AmsJobFailed: Job 'broken'" in run.log
    assert "nothing to publish: Job 'broken'" in run.log
    assert "ErrorExecutingTaskMalformedContent: moov atom not found" in run.log
    assert ams_emulator.key not in run.log


def test_encode_lists_its_files(airflow: Airflow, ams_emulator: Emulator, clip: Path) -> None:
    """A DAG submits a real encode, waits for it, and lists the files that it made."""
    asset_id = ams_emulator.upload(clip)
    run = airflow.test_dag("example_ams_encode", {"input_asset_id": asset_id}, ams_emulator)
    assert run.code == 0, run.log
    assert run.states == {"submit": "success", "wait_for_encode": "success", "list_outputs": "success"}
    assert "Encoded to H264 Single Bitrate 720p: clip_" in run.log


def test_examples_parse(airflow: Airflow) -> None:
    """Airflow finds both examples, and no import error."""
    listed = airflow.run("dags", "list").stdout
    assert "example_ams_wait" in listed
    assert "example_ams_encode" in listed
    assert "No data found" in airflow.run("dags", "list-import-errors").stdout


def test_airflow_knows_the_provider(airflow: Airflow) -> None:
    """Airflow's own commands list the provider and its hook."""
    assert "airflow-ams" in airflow.run("providers", "list", "--output", "plain").stdout
    assert "airflow_ams.hooks.ams.AmsHook" in airflow.run("providers", "hooks", "--output", "plain").stdout
    assert "airflow-ams" in airflow.run("providers", "get", "airflow-ams").stdout
