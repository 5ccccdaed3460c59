"""The example DAGs in a real Airflow, against the emulator."""

from __future__ import annotations

import re
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.conftest import job_v2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


def job_v3(ams: Emulator, clip: Path) -> dict[str, Any]:
    """Return an encode for the others."""
    ams.create_transform("encode-720p", preset="H264SingleBitrate720p")
    source = ams.asset_name(ams.upload(clip))
    return {"transform_name": "encode-720p", "job_name": "Clip-7", "inputs": [source], "outputs": ["encoded"]}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over http; yield its address."""
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("api", "job"), [("v2", job_v2), ("arm", job_v3), ("rms", job_v3), ("mkio", job_v3)])
def test_one_dag_encodes_on_every_service(
    airflow: Airflow, ams_emulator: Emulator, clip: Path, api: str, job: Callable[..., dict[str, Any]]
) -> None:
    """A DAG submits a real encode, waits for it, and lists what it wrote."""
    ams_emulator.api = api
    run = airflow.test_dag("example_ams_encode", {"job": job(ams_emulator, clip)}, ams_emulator)
    assert run.code == 0, run.log
    assert run.states == {"encode": "success", "list_outputs": "success"}
    (job_id,) = re.findall(r"(\S+) wrote encoded \(", run.log)
    assert job_id.startswith("encode-720p/Clip-7-" if api != "v2" else "nb:jid:UUID:")
    assert ams_emulator.key not in run.log


def test_a_folder_is_encoded_in_one_batch(
    airflow: Airflow, ams_emulator: Emulator, clip: Path, tmp_path: Path
) -> None:
    """Each clip becomes a job, which reads it over http; one wait is for all of them."""
    ams_emulator.api = "mkio"
    ams_emulator.create_transform("encode-720p", preset="H264SingleBitrate720p")
    for name in ("a clip.mp4", "b.mp4", "notes.txt"):
        shutil.copy(clip, tmp_path / name)
    with served(tmp_path) as address:
        conf = {"folder": str(tmp_path), "address": address, "transform_name": "encode-720p"}
        run = airflow.test_dag("example_ams_batch", conf, ams_emulator)
    assert run.code == 0, run.log
    assert set(run.states.values()) == {"success"}
    assert sorted(re.findall(r"(a-clip|b)-\w+-1 wrote (.*-encoded)", run.log)) == [
        ("a-clip", "a clip-mp4-encoded"),
        ("b", "b-mp4-encoded"),
    ]


def test_examples_parse(airflow: Airflow) -> None:
    """Airflow finds all examples, and no import error."""
    listed = airflow.run("dags", "list", "--output", "plain").stdout
    for name in ("wait", "encode", "batch", "assets_producer", "assets_consumer"):
        assert f"example_ams_{name}" in listed
    assert "No data found" in airflow.run("dags", "list-import-errors").stdout


def test_airflow_knows_the_provider(airflow: Airflow) -> None:
    """Airflow's own commands list the provider and its hook."""
    assert "airflow-ams" in airflow.run("providers", "list", "--output", "plain").stdout
    assert "airflow_ams.hooks.ams.AmsHook" in airflow.run("providers", "hooks", "--output", "plain").stdout
    assert "airflow-ams" in airflow.run("providers", "get", "airflow-ams").stdout
