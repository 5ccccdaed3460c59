"""A PostgreSQL server of a test's own, from Debian's packages, run as a user who is not root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.standalone import free_ports

_START_SECONDS = 60.0


def find_programs() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs; Debian keeps them out of ``PATH``."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not folders and (found := shutil.which("initdb")):
        folders = [Path(found).parent]
    return max(folders, key=lambda folder: _number(folder.parent.name), default=None)


def _number(name: str) -> int:
    return int(name) if name.isdigit() else 0


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Run a server with an empty database; yield its URL for SQLAlchemy.

    :param programs: folder of ``initdb`` and ``postgres``
    """
    # Not below pytest's folder: only its owner may enter that.
    folder = Path(tempfile.mkdtemp(prefix="airflow-ams-postgres-"))
    try:
        user = _unprivileged(folder)
        password, [port] = secrets.token_hex(16), free_ports(1)
        (folder / "password").write_text(password)
        _run(user, programs / "initdb", *_initdb_options(folder))
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", *_server_options(folder, port)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **user,
            )
        try:
            _wait_until_ready(programs, port, server, folder / "log")
            yield f"postgresql+psycopg2://airflow:{password}@127.0.0.1:{port}/postgres"
        finally:
            _stop(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Hand a folder to a user who is not root; return what a process of that user is started with."""
    user: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C", "PATH": os.environ.get("PATH", "")}}
    if os.geteuid() != 0:
        return user
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, account.pw_uid, account.pw_gid)
        return user | {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise RuntimeError("neither a user 'postgres' nor 'nobody' is there to run PostgreSQL")


def _initdb_options(folder: Path) -> list[str]:
    return [
        *("-D", str(folder / "data"), "-U", "airflow", "-E", "UTF8", "--no-sync"),
        *("--auth", "scram-sha-256", "--pwfile", str(folder / "password")),
    ]


def _server_options(folder: Path, port: int) -> list[str]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        # Nothing of it is to outlive the test.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
    return ["-D", str(folder / "data"), *(f"--{name}={value}" for name, value in settings.items())]


def _run(user: dict[str, Any], *command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, **user)
    if result.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {result.stdout}{result.stderr}")


def _wait_until_ready(programs: Path, port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    command = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    end = time.monotonic() + _START_SECONDS
    while subprocess.run(command, check=False).returncode:
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Shut down without waiting for clients; kill the group if that does not help."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
