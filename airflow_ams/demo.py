"""``airflow-ams demo``: one real encode, waited for by a DAG in a real Airflow, on a clean machine.

Everything lives in a temporary folder: an Airflow home with its SQLite database, the emulator's assets, and
the clip. Airflow runs in a child process of its own; this process watches the job as any other client would.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import imageio_ffmpeg
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from airflow_ams.api.errors import ServiceError
from airflow_ams.api.model import Job, JobState, Outcome, verdict
from airflow_ams.emulator.ffmpeg import probe
from airflow_ams.emulator.process import Emulator
from airflow_ams.hooks.connection import connect, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_ams.api import MediaService

DAG_ID = "example_ams_encode"
APIS = ("v2", "rms", "mkio")
CLIP_SECONDS = 10

_LOOK_EVERY = 0.5
_DOWNSTREAM = "list_outputs"


class DemoError(click.ClickException):
    """Raised when the demo could not come to its end; the message says why."""


def run_demo(clip: Path | None, output: Path | None, time_limit: float, api: str = "v2") -> int:
    """Run the demo and print what came of it.

    :param clip: the video to encode; a test clip is made if None
    :param output: folder to leave the encoded files in; they are deleted if None
    :param time_limit: seconds after which Airflow is stopped
    :param api: one of `APIS`, which the DAG's connection is to
    :returns: the exit code: 0 when the encode finished and the downstream task ran, else 1
    """
    console = Console(markup=False, highlight=False, soft_wrap=True)
    with _terminable(), tempfile.TemporaryDirectory(prefix="airflow-ams-demo-") as folder:
        home = Path(folder)
        if clip is None:
            console.print(f"Making a test clip of {CLIP_SECONDS} s")
            clip = _make_clip(home / "clip.mp4")
        console.print("Starting the media service in a box")
        with Emulator(api) as emulator:
            asset_id = emulator.upload(clip)
            source = asset_id if api == "v2" else emulator.asset_name(asset_id)
            console.print(f"Uploaded {clip.name} as {source}")
            spec = _job_v2(source) if api == "v2" else _job_v3(emulator, source)
            job = _wait_with_airflow(emulator, spec, home, time_limit)
            code = _report(console, job, _task_states(home))
            if code == 0:
                console.print(_table(emulator.download_outputs(job.id, output or home / "output")))
                console.print(f"The files are in {output}" if output else "Keep the files with --output DIR")
            return code


def _make_clip(path: Path) -> Path:
    """Make a clip with a moving picture and a tone."""
    subprocess.run(
        [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"),
            *("-f", "lavfi", "-i", f"testsrc2=size=1280x720:rate=25:duration={CLIP_SECONDS}"),
            *("-f", "lavfi", "-i", f"sine=frequency=440:duration={CLIP_SECONDS}"),
            *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", str(path)),
        ],
        check=True,
    )
    return path


def _job_v2(source: str) -> dict[str, Any]:
    task = {
        "processor": "Media Encoder Standard",
        "configuration": "H264 Multiple Bitrate 720p",
        "outputs": ["encoded"],
    }
    return {"name": "Demo", "input_asset_ids": [source], "tasks": [task]}


def _job_v3(emulator: Emulator, source: str) -> dict[str, Any]:
    """Make a transform, as an account has them before there are jobs, and what a job of it is made of."""
    emulator.create_transform("adaptive", preset="AdaptiveStreaming")
    return {"transform_name": "adaptive", "job_name": "demo", "inputs": [source], "outputs": ["encoded"]}


def _wait_with_airflow(emulator: Emulator, spec: dict[str, Any], home: Path, time_limit: float) -> Job:
    """Run the example DAG in Airflow, showing the job's progress meanwhile; return the job as it ended."""
    log = home / "airflow.log"
    job: Job | None = None
    service = _service(emulator)
    end = time.monotonic() + time_limit
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    try:
        with progress, _airflow(emulator, spec, home, log) as child:
            bar = progress.add_task("Airflow is starting", total=100)
            while child.poll() is None:
                if time.monotonic() > end:
                    raise DemoError(f"Airflow was not done after {time_limit:.0f} s and was stopped")
                job = _look(service, job)
                if job is not None:
                    progress.update(bar, description=str(job.state), completed=job.progress or 0)
                time.sleep(_LOOK_EVERY)
            job = _look(service, job)
    except ServiceError as exc:
        raise DemoError(f"The media service in a box stopped answering: {exc}") from exc
    finally:
        service.close()
    if job is None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise DemoError(f"Airflow submitted no job. The end of its log:\n{tail}")
    return job


def _service(emulator: Emulator) -> MediaService:
    """Open the emulator by the connection that the DAG has; Airflow itself is not needed for that."""
    fields = {"port": None, "schema": None, "login": None, **emulator.connection}
    connection: Any = SimpleNamespace(**{**fields, "extra": json.dumps(fields["extra"])})
    return connect(read_settings(connection))


def _look(service: MediaService, job: Job | None) -> Job | None:
    """Read the one job that there is, if Airflow has submitted it already."""
    job = service.get_job(job.id) if job else next(service.iter_jobs(), None)
    return service.with_tasks(job) if job else None


@contextmanager
def _airflow(
    emulator: Emulator, spec: dict[str, Any], home: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Start Airflow in a process group of its own, and stop the whole group in the end."""
    dags = home / "dags"
    dags.mkdir()
    shutil.copy(_example_dags() / f"{DAG_ID}.py", dags)
    # Settings of the user's own Airflow must not lead the demo to the user's own database.
    env = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_AMS_DEFAULT": emulator.connection_json(),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps({"job": spec})],
            env=env,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _stop_group(child)


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            break
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


def _example_dags() -> Path:
    """Find the example DAGs: inside an installed package, beside it in a source tree."""
    package = Path(__file__).parent
    return next(
        folder
        for folder in (package / "example_dags", package.parent / "example_dags")
        if (folder / f"{DAG_ID}.py").exists()
    )


def _task_states(home: Path) -> dict[str, str]:
    """Read from Airflow's own database how each task ended."""
    database = home / "airflow.db"
    if not database.exists():
        return {}
    connection = sqlite3.connect(database)
    try:
        return dict(connection.execute("SELECT task_id, state FROM task_instance ORDER BY start_date"))
    finally:
        connection.close()


def _report(console: Console, job: Job, states: dict[str, str]) -> int:
    """Print how the job and Airflow's tasks ended; return the exit code."""
    console.print(f"\nJob {job.id} ({job.name})")
    moments = ((JobState.QUEUED, job.created), (JobState.PROCESSING, job.started), (job.state, job.ended))
    for state, moment in moments:
        if moment is not None:
            console.print(f"  {moment.astimezone():%H:%M:%S}  {state}")
    console.print("Tasks in Airflow: " + ", ".join(f"{task} {state}" for task, state in states.items()))
    found = verdict(job)
    if found.outcome is not Outcome.SUCCEEDED:
        console.print(f"\n{found.text}")
        console.print(f"The task behind the encode, {_DOWNSTREAM}, did not run.")
        return 1
    if states.get(_DOWNSTREAM) != "success":
        raise DemoError(f"The job has finished, but task {_DOWNSTREAM} is {states.get(_DOWNSTREAM)}")
    return 0


def _table(files: list[Path]) -> Table:
    table = Table("File", "Bytes", "Resolution", "Seconds")
    for file in files:
        media = asyncio.run(probe(file))
        size = f"{media.width}x{media.height}"
        table.add_row(Text(file.name), f"{file.stat().st_size:,}", size, f"{media.duration or 0:.1f}")
    return table


@contextmanager
def _terminable() -> Iterator[None]:
    """Let every signal that ends the demo unwind the stack, once, so that nothing is left running."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> None:
        # An impatient second Ctrl-C must not cut the clean-up short.
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_airflow(conf: str) -> int:
    """Make Airflow's database and run the DAG once (the child process)."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for command in (["db", "migrate"], ["dags", "test", DAG_ID, "--conf", conf]):
        code = subprocess.call([sys.executable, "-m", "airflow", *command])
        if code:
            return code
    return 0


def _end_with_parent() -> None:
    """Stop this process group when the demo is gone, even if killed: its end of the pipe closes then."""
    while sys.stdin.buffer.read(1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_run_airflow(sys.argv[1]))
