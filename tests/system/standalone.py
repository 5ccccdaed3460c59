"""A whole Airflow for system tests and benchmarks: ``airflow standalone`` with its own home and ports.

Its REST API does what a user would do (start a run, mark a task failed, read a log); states, tries and XComs
are read from its database, which says the same on every version and costs the Airflow under test nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import airflow
import psutil
import requests
import sqlalchemy

VERSION = tuple(int(part) for part in airflow.__version__.split(".")[:2])
AIRFLOW_3 = VERSION >= (3, 0)

START_SECONDS = 180.0
WAIT_SECONDS = 180.0
_STOP_STEPS = ((signal.SIGINT, 3.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0))
_ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}


class StandaloneFailed(RuntimeError):
    """Raised when Airflow did not start, did not get where a test wanted it, or left a process behind."""


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass(frozen=True)
class TaskRow:
    """A task instance as the database has it."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    started: str
    ended: str


class Standalone:
    """An Airflow of one's own, from ``with`` to the end of the block.

    :param home: its folder, empty or not there yet
    :param dags: the DAG files, name to text
    :param environment: more of the environment: connections, settings, what the DAGs read
    :param database: its URL; None takes a SQLite file in the home
    :param parallelism: how many tasks run at the same time
    """

    def __init__(
        self,
        home: Path,
        dags: Mapping[str, str],
        *,
        environment: Mapping[str, str] | None = None,
        database: str | None = None,
        parallelism: int = 4,
    ) -> None:
        self.home = home
        # A worker that finds the file locked waits for its turn; the default gives up after five seconds.
        self.database = database or f"sqlite:///{home}/airflow.db?timeout=60"
        self._dags = dags
        self._port, *self._log_ports = free_ports(3)
        self._environment = self._settings(parallelism) | dict(environment or {})
        self._http = requests.Session()
        self._http.trust_env = False
        self._engine = sqlalchemy.create_engine(self.database, poolclass=sqlalchemy.pool.NullPool)
        self._started: list[subprocess.Popen[bytes]] = []

    def _settings(self, parallelism: int) -> dict[str, str]:
        """Return the whole environment: of the caller's own Airflow nothing must get through."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "_AIRFLOW")) and name.lower() not in _PROXIES
        }
        url = f"http://127.0.0.1:{self._port}"
        web = "API" if AIRFLOW_3 else "WEBSERVER"
        parsing = "DAG_PROCESSOR" if AIRFLOW_3 else "SCHEDULER"
        worker_logs, trigger_logs = self._log_ports
        settings = {
            "CORE__DAGS_FOLDER": self.home / "dags",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": parallelism,
            "CORE__MAX_ACTIVE_TASKS_PER_DAG": 64,
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "DATABASE__SQL_ALCHEMY_CONN": self.database,
            "DATABASE__LOAD_DEFAULT_CONNECTIONS": False,
            f"{web}__{'PORT' if AIRFLOW_3 else 'WEB_SERVER_PORT'}": self._port,
            f"{web}__{'HOST' if AIRFLOW_3 else 'WEB_SERVER_HOST'}": "127.0.0.1",
            f"{web}__BASE_URL": url,
            f"{web}__WORKERS": 1,
            f"{web}__SECRET_KEY": secrets.token_hex(16),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "LOGGING__WORKER_LOG_SERVER_PORT": worker_logs,
            "LOGGING__TRIGGER_LOG_SERVER_PORT": trigger_logs,
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
            "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": 2,
            "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
            "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 10,
            f"{parsing}__PARSING_PROCESSES": 1,
            f"{parsing}__MIN_FILE_PROCESS_INTERVAL": 3600,
            "USAGE_DATA_COLLECTION__ENABLED": False,
        }
        if not AIRFLOW_3:
            settings["API__AUTH_BACKENDS"] = "airflow.api.auth.backend.basic_auth"
            # It and the scheduler would count one try twice now and then: SQLite locks no rows.
            settings["SCHEDULER__SCHEDULE_AFTER_TASK_EXECUTION"] = False
            # 2.11 starts one task at a time on SQLite, each in a new interpreter: minutes for these tests.
            env["_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK"] = "1"
        env |= {f"AIRFLOW__{name}": str(value) for name, value in settings.items()}
        # The title that a process gives itself would overwrite the environment that it is known by.
        env |= {"AIRFLOW_HOME": str(self.home), "SPT_NOENV": "1", "PYTHONUNBUFFERED": "1"}
        return env | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"}

    def __enter__(self) -> Standalone:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start all components, and wait until they are healthy and know every DAG."""
        folder = self.home / "dags"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self._dags.items():
            (folder / name).write_text(text)
        self._spawn("standalone")
        self.wait_until(self._is_healthy, START_SECONDS, "healthy components")
        self._sign_in()
        self.wait_until(lambda: self._files_read() == len(self._dags), START_SECONDS, "every DAG file read")

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    @property
    def log_path(self) -> Path:
        """Where all components write."""
        return self.home / "standalone.log"

    def _is_healthy(self) -> bool:
        if self._started[0].poll() is not None:
            raise StandaloneFailed(f"Airflow ended at once.\n{self._log_tail()}")
        try:
            path = "/api/v2/monitor/health" if AIRFLOW_3 else "/health"
            answer = self._http.get(self.url + path, timeout=10)
            health = answer.json()
        except (requests.RequestException, ValueError):
            return False
        wanted = ["metadatabase", "scheduler", "triggerer", *(["dag_processor"] if AIRFLOW_3 else [])]
        return all((health.get(name) or {}).get("status") == "healthy" for name in wanted)

    @property
    def url(self) -> str:
        """The web server's root."""
        return f"http://127.0.0.1:{self._port}"

    def _sign_in(self) -> None:
        if AIRFLOW_3:
            answer = self._http.get(f"{self.url}/auth/token", timeout=30)
            answer.raise_for_status()
            self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        else:
            password = (self.home / "standalone_admin_password.txt").read_text().strip()
            self._http.auth = ("admin", password)

    def _files_read(self) -> int:
        errors = self.query("SELECT filename, stacktrace FROM import_error")
        if errors:
            raise StandaloneFailed("\n".join(f"{name}: {trace}" for name, trace in errors))
        dags = self.query(
            "SELECT DISTINCT dag.fileloc FROM dag JOIN serialized_dag ON serialized_dag.dag_id = dag.dag_id"
        )
        return len(dags)

    def stop(self) -> None:
        """Stop every process that has this home, by process groups.

        :raises StandaloneFailed: one is still there.
        """
        for number, patience in _STOP_STEPS:
            groups = set()
            for process in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    groups.add(os.getpgid(process.pid))
            for group in groups - {os.getpgid(0)}:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, number)
            end = time.monotonic() + patience
            while time.monotonic() < end and self.processes():
                time.sleep(0.1)
        left = self.processes()
        for child in self._started:
            child.wait(5)
        self._http.close()
        self._engine.dispose()
        if left:
            raise StandaloneFailed(f"still running: {[process.info for process in left]}")

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that were started with this home."""
        for child in self._started:
            child.poll()
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("AIRFLOW_HOME") == str(self.home):
                    found.append(process)
        return [process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE]

    def triggerers(self) -> list[psutil.Process]:
        """Return the main processes of the triggerers, oldest first."""
        # 2.11 writes a title in place of the command line, cut to its length: the last letters are missing.
        found = [one for one in self.processes() if "airflow triggere" in " ".join(one.info["cmdline"] or ())]
        pids = {process.pid for process in found}
        return sorted((one for one in found if one.ppid() not in pids), key=lambda one: one.create_time())

    def start_triggerer(self, *options: str) -> None:
        """Start one more triggerer, in a process group of its own."""
        # The first one's log server has the port; it is not needed to read files of the same machine.
        before = self._triggerer_jobs()
        self._spawn("triggerer", "--skip-serve-logs", *options)
        self.wait_until(lambda: self._triggerer_jobs() > before, WAIT_SECONDS, "a new triggerer")

    def _triggerer_jobs(self) -> int:
        [(count,)] = self.query("SELECT count(*) FROM job WHERE job_type = 'TriggererJob'")
        return int(count)

    def kill_triggerer(self, main: psutil.Process) -> None:
        """Kill a triggerer with all its children by ``kill -9``: it can say goodbye to nobody."""
        family = [main, *main.children(recursive=True)]
        pids = {process.pid for process in family}
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait_until(lambda: not pids & {one.pid for one in self.processes()}, what="end of the triggerer")

    def query(self, sql: str, **parameters: Any) -> list[Any]:
        """Read from Airflow's database."""
        with self._engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(sql), parameters).all())

    def request(self, method: str, path: str, document: Any = None, **arguments: Any) -> requests.Response:
        """Ask the REST API; `path` is below its version."""
        url = f"{self.url}/api/{'v2' if AIRFLOW_3 else 'v1'}/{path}"
        answer = self._http.request(method, url, json=document, timeout=60, **arguments)
        if not answer.ok:
            raise StandaloneFailed(f"{method} {path}: {answer.status_code} {answer.text[:2000]}")
        return answer

    def run_dag(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> Run:
        """Start a run of a DAG."""
        document: dict[str, Any] = {"conf": dict(conf or {})}
        if AIRFLOW_3:
            document["logical_date"] = None
        answer = self.request("POST", f"dags/{dag_id}/dagRuns", document).json()
        return Run(self, dag_id, answer["dag_run_id"])

    def wait_until(
        self, condition: Callable[[], bool], seconds: float = WAIT_SECONDS, what: str = ""
    ) -> None:
        """Wait until something is so.

        :raises StandaloneFailed: it was not so in time; the text has the end of Airflow's log.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise StandaloneFailed(f"no {what} after {seconds:.0f} s.\n{self._log_tail()}")
            time.sleep(0.3)

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        return "\n".join(lines[-60:])


@dataclass(frozen=True)
class Run:
    """One run of a DAG."""

    airflow: Standalone
    dag_id: str
    run_id: str

    @property
    def _key(self) -> dict[str, str]:
        return {"dag_id": self.dag_id, "run_id": self.run_id}

    @property
    def _path(self) -> str:
        return f"dags/{self.dag_id}/dagRuns/{quote(self.run_id, safe='')}"

    def tasks(self) -> dict[str, TaskRow]:
        """Return the task instances by name; of a mapped task ``name[0]``, ``name[1]``…"""
        rows = self.airflow.query(
            "SELECT task_id, map_index, state, try_number, start_date, end_date FROM task_instance "
            "WHERE dag_id = :dag_id AND run_id = :run_id",
            **self._key,
        )
        tasks = [TaskRow(*row[:4], *map(str, row[4:])) for row in rows]
        return {
            task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]": task
            for task in tasks
        }

    def states(self) -> dict[str, str | None]:
        """Return the task instances' states."""
        return {name: task.state for name, task in self.tasks().items()}

    def starts(self) -> dict[str, int]:
        """Count the processes started for each task instance: Airflow's audit log has a row for each."""
        rows = self.airflow.query(
            "SELECT task_id, map_index, count(*) FROM log "
            "WHERE dag_id = :dag_id AND run_id = :run_id AND event = 'running' GROUP BY task_id, map_index",
            **self._key,
        )
        return {
            task if index is None or index < 0 else f"{task}[{index}]": count for task, index, count in rows
        }

    def xcoms(self) -> dict[str, Any]:
        """Return the task instances' return values."""
        rows = self.airflow.query(
            "SELECT task_id, map_index, value FROM xcom "
            "WHERE dag_id = :dag_id AND run_id = :run_id AND key = 'return_value'",
            **self._key,
        )
        return {task if index < 0 else f"{task}[{index}]": self._value(value) for task, index, value in rows}

    def _value(self, stored: Any) -> Any:
        """Decode a value just once: one that was stored as the text of a document is to be seen as a text."""
        is_decoded = AIRFLOW_3 and not self.airflow.database.startswith("sqlite")
        return stored if is_decoded else json.loads(bytes(stored) if not isinstance(stored, str) else stored)

    def wait_for(self, state: str, names: Collection[str], seconds: float = WAIT_SECONDS) -> None:
        """Wait until tasks are in a state."""

        def reached() -> bool:
            states = self.states()
            return all(states.get(name) == state for name in names)

        self._wait(reached, seconds, f"tasks {state}")

    def wait_for_end(self, names: Collection[str] | None = None, seconds: float = WAIT_SECONDS) -> None:
        """Wait until tasks have ended in whatever way; None waits for the whole run."""

        def ended() -> bool:
            if names is None:
                [(state,)] = self.airflow.query(
                    "SELECT state FROM dag_run WHERE dag_id = :dag_id AND run_id = :run_id", **self._key
                )
                return state in ("success", "failed")
            states = self.states()
            return all(states.get(name) in _ENDED for name in names)

        self._wait(ended, seconds, "end")

    def wait_for_log(self, text: str, names: Collection[str], times: int = 1) -> None:
        """Wait until each of some tasks' logs has a text, so many times."""

        def said() -> bool:
            states = self.states()
            # Airflow knows of no log before a task has been scheduled.
            return all(states.get(name) and self.log(name).count(text) >= times for name in names)

        self._wait(said, WAIT_SECONDS, f"{text!r} in the logs")

    def _wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        try:
            self.airflow.wait_until(condition, seconds, what)
        except StandaloneFailed as exc:
            raise StandaloneFailed(f"{self.dag_id}: {self.states()}\n{exc}") from None

    def log(self, name: str, attempt: int = 1) -> str:
        """Return a task instance's log as the user interface shows it, a line an event."""
        task, _, index = name.rstrip("]").partition("[")
        answer = self.airflow.request(
            "GET",
            f"{self._path}/taskInstances/{task}/logs/{attempt}",
            params={"full_content": "true", "map_index": index or "-1"},
            headers={"Accept": "application/json" if AIRFLOW_3 else "text/plain"},
        )
        return "\n".join(_log_lines(answer.json()["content"])) if AIRFLOW_3 else answer.text

    def mark_failed(self, name: str) -> None:
        """Mark a task failed, as a user does."""
        document = {"new_state": "failed"} if AIRFLOW_3 else {"new_state": "failed", "dry_run": False}
        self.airflow.request("PATCH", f"{self._path}/taskInstances/{name}", document)

    def clear(self, name: str) -> None:
        """Clear a task, as a user does."""
        document = {
            "dry_run": False,
            "dag_run_id": self.run_id,
            "task_ids": [name],
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.airflow.request("POST", f"dags/{self.dag_id}/clearTaskInstances", document)


def _log_lines(content: list[dict[str, Any]]) -> Iterator[str]:
    for entry in content:
        yield f"{entry.get('level') or ''} {entry.get('event')}".strip()
        for error in entry.get("error_detail") or []:
            yield f"{error.get('exc_type')}: {error.get('exc_value')}"
