"""``airflow-ams demo``, as somebody types it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = [str(Path(sys.executable).with_name("airflow-ams")), "demo"]
DEADLINE = 240


def _processes(marker: str) -> list[str]:
    """List the command lines of processes whose environment or command line holds a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in command + environment:
            found.append(command.replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def sandbox(tmp_path: Path) -> dict[str, str]:
    """An environment whose temporary files land in one folder, and that marks the processes."""
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "DEMO_TEST": str(tmp_path)}


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()


def _demo(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options], env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def test_demo_encodes_and_reports(sandbox: dict[str, str], tmp_path: Path) -> None:
    """It ends in 0, names job, states and files, keeps the files where told, and leaves nothing else."""
    output = tmp_path / "encoded [x]"
    # A proxy must not come between the processes of one machine.
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    result = _demo({**sandbox, **proxies}, "--output", str(output))
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"Job nb:jid:UUID:[0-9a-f-]{36}", result.stdout)
    assert re.search(r"\d\d:\d\d:\d\d  Processing\n(.*\n)*  \d\d:\d\d:\d\d  Finished", result.stdout)
    assert "list_outputs success" in result.stdout
    assert "1280x720" in result.stdout
    assert "10.0" in result.stdout
    assert all(file.stat().st_size > 10_000 for file in output.glob("*.mp4"))
    assert len(list(output.glob("*.mp4"))) > 1
    assert not list((tmp_path / "tmp").iterdir())
    assert not _processes(str(tmp_path))


def test_broken_input_ends_in_one(sandbox: dict[str, str], tmp_path: Path) -> None:
    """A file that is no video ends in 1 with the encoder's reason, and the downstream task has not run."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is not a video" * 100)
    result = _demo(sandbox, "--input", str(broken))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "failed: " in result.stdout
    assert re.search(r"Error\w+: ", result.stdout)
    assert "encode failed" in result.stdout
    assert "list_outputs upstream_failed" in result.stdout
    assert not list((tmp_path / "tmp").iterdir())


@contextmanager
def _demo_in_airflow(environment: dict[str, str], marker: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the demo, and yield it once Airflow runs in it."""
    with subprocess.Popen(
        COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as demo:
        try:
            _wait_until(lambda: any("airflow db migrate" in line for line in _processes(marker)))
            yield demo
        finally:
            demo.kill()


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize(
    "signs",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGINT]],
    ids=["ctrl-c", "term", "terminal-closed", "ctrl-c-twice"],
)
def test_interrupt_leaves_nothing(
    sandbox: dict[str, str], tmp_path: Path, signs: list[signal.Signals]
) -> None:
    """Whatever ends the demo while Airflow runs, every process is stopped and every file removed."""
    with _demo_in_airflow(sandbox, str(tmp_path)) as demo:
        for sign in signs:
            demo.send_signal(sign)
            time.sleep(0.05)
        assert demo.wait(30) == 130
    assert not _processes(str(tmp_path))
    assert not list((tmp_path / "tmp").iterdir())


def test_a_killed_demo_leaves_no_process(sandbox: dict[str, str], tmp_path: Path) -> None:
    """When nothing can be cleaned up any more, Airflow and the media service end by themselves."""
    with _demo_in_airflow(sandbox, str(tmp_path)) as demo:
        demo.kill()
    _wait_until(lambda: not _processes(str(tmp_path)))


def test_missing_input_is_said_at_once(tmp_path: Path) -> None:
    """A file that is not there is a usage error."""
    result = subprocess.run(
        [*COMMAND, "--input", str(tmp_path / "nothing.mp4")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "nothing.mp4" in result.stderr
