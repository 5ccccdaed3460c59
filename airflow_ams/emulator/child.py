"""The emulator's process as its parent sees it: started, heard, and cleaned up after."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from airflow_ams.emulator.settings import ACCOUNTS_VARIABLE

START_SECONDS = 20.0
STOP_SECONDS = 5.0


class EmulatorFailed(RuntimeError):
    """Raised when the child process did not start, or answered a request of the handle with an error.

    :param message: what happened.
    :param status: of the answer, None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Child:
    """A child process that serves on a free port, and a folder for its temporary files.

    :param arguments: of the command.
    :param accounts: name to key.
    """

    def __init__(self, arguments: Sequence[str], accounts: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._accounts = accounts
        self._process: subprocess.Popen[bytes] | None = None
        self.scratch = Path()
        """The folder."""

    @property
    def pid(self) -> int:
        """The process id, which is also that of the process group with the encodes."""
        return self._running().pid

    def start(self, lines: int) -> list[str]:
        """Start the process, and return the first lines that it prints; it takes requests then.

        :param lines: how many they are.
        :raises EmulatorFailed: they did not come.
        """
        self.scratch = Path(tempfile.mkdtemp(prefix="ams-emulator-"))
        accounts = ",".join(f"{name}:{key}" for name, key in self._accounts.items())
        # Keys travel in the environment: arguments can be read by everybody on the machine.
        environment = {**os.environ, ACCOUNTS_VARIABLE: accounts, "TMPDIR": str(self.scratch)}
        command = [sys.executable, "-m", "airflow_ams.emulator", "--port", "0", "--until-stdin-closes"]
        try:
            with (self.scratch / "stderr").open("wb") as stderr:
                self._process = subprocess.Popen(
                    [*command, *self._arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment,
                    start_new_session=True,
                )
            return self._lines(lines, time.monotonic() + START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _lines(self, count: int, deadline: float) -> list[str]:
        output = self._running().stdout
        descriptor, text = output.fileno() if output else -1, b""
        while text.count(b"\n") < count:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(descriptor, 65536) if ready else b""
            if not chunk:
                what = "ended at once" if ready else f"was not ready within {START_SECONDS:g} seconds"
                raise EmulatorFailed(f"The emulator {what}. It said:\n{self.stderr()}")
            text += chunk
        return text.decode().splitlines()

    def stop(self) -> None:
        """Stop the process, kill what is left of its process group, and remove its temporary files.

        Ctrl-C does not cut this short: it takes a few seconds at most, and nothing is to be left.
        """
        with _no_interrupt():
            self._clean_up()

    def _clean_up(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def stderr(self) -> str:
        """Return what the process has logged."""
        return (self.scratch / "stderr").read_text(encoding="utf-8", errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmulatorFailed("The emulator is not running.")
        return self._process


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ignore SIGINT; in another thread than the main one, which alone gets it, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        # None stands for a handler that was not set by Python, and that Python cannot set.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
