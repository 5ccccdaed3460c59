"""What is measured side by side: the triggers of three providers, each waiting for one job of `server`.

Ours is there once for each dialect. Nothing here imports Airflow before `prepare` has set the environment, in
the process that will wait.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from unittest import mock

from tests.benchmarks import v2, v3
from tests.benchmarks.jobs import CANCELED, ERROR, FINISHED

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger, TriggerEvent

P = ParamSpec("P")
T = TypeVar("T")

ENDED = 0
"""Told instead of a state by a trigger that says that a job has ended, but cannot say how."""

WEEK = 7 * 86400.0
_OUTCOMES = {"succeeded": FINISHED, "failed": ERROR, "canceled": CANCELED}
_DBT = {"success": FINISHED, "cancelled": CANCELED}


@dataclass(frozen=True)
class Ports:
    """Where the server listens."""

    media: int
    control: int

    def command(self, name: str, **arguments: Any) -> Any:
        """Have the server do something; see `server.Control`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control, timeout=120)
        try:
            connection.request("POST", "/", json.dumps({"do": name, **arguments}))
            said = connection.getresponse()
            document = json.loads(said.read())
        finally:
            connection.close()
        if said.status != 200:
            raise RuntimeError(f"{name}: {document}")
        return document


@contextmanager
def server() -> Iterator[Ports]:
    """Run the media service in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.server"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        media, control = process.stdout.readline().split()
        # Leaving the block closes the server's standard input, which ends it.
        yield Ports(int(media), int(control))


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a process that has done nothing else before, and return what it returns."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _ams(conn_id: str, job_id: Callable[[int], str], index: int, interval: float) -> BaseTrigger:
    from airflow_ams.triggers.ams import AmsJobTrigger

    now = time.time()
    return AmsJobTrigger(
        job_ids=job_id(index),
        ams_conn_id=conn_id,
        poke_interval=interval,
        deadline=now + WEEK,
        started_at=now,
    )


def _http(index: int, interval: float) -> BaseTrigger:
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    # It waits while the answer is 404, and for nothing else: the way its sensor's documentation shows.
    return HttpSensorTrigger(
        endpoint=f"jobs/{index}/result", http_conn_id="bench_http", poke_interval=interval
    )


@cache
def _let_dbt_speak_plain_http() -> None:
    """Take the https from the hook, which knows no other; it saves this one a handshake a poll."""
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook

    def plain(tenant: str, endpoint: str, *_: Any, api_version: str = "v2") -> tuple[str, dict[str, Any]]:
        return f"http://{tenant}/api/{api_version}/accounts/{endpoint}", {}

    mock.patch.object(DbtCloudHook, "get_request_url_params", staticmethod(plain)).start()


def _dbt(index: int, interval: float) -> BaseTrigger:
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    _let_dbt_speak_plain_http()
    return DbtCloudRunJobTrigger(
        conn_id="bench_dbt",
        run_id=index,
        account_id=1,
        poll_interval=interval,
        end_time=time.time() + WEEK,
    )


def _told_by_ams(payload: Any) -> int | str:
    return _OUTCOMES.get(payload["outcome"], str(payload["outcome"]))


def _told_by_http(payload: Any) -> int | str:
    return ENDED if payload is True else str(payload)


def _told_by_dbt(payload: Any) -> int | str:
    if payload["status"] == "error" and payload["message"].endswith("has failed."):
        return ERROR
    return _DBT.get(payload["status"], str(payload["message"])[:60])


@dataclass(frozen=True)
class Peer:
    """A kind of trigger.

    :param make: makes the one that waits for the job with this number, at this interval
    :param told: reads an event's payload: the state that the job is said to have ended in, `ENDED`, or the
        text of a wait that ended for another reason
    """

    name: str
    make: Callable[[int, float], BaseTrigger]
    told: Callable[[Any], int | str]


PEERS = {
    "v2": Peer("`AmsJobTrigger`, v2", partial(_ams, "bench_v2", v2.job_id), _told_by_ams),
    # RMS speaks the wire of ARM; only the sign-in differs, of which there is one an hour.
    "arm": Peer("`AmsJobTrigger`, arm/rms", partial(_ams, "bench_arm", v3.job_id), _told_by_ams),
    "mkio": Peer("`AmsJobTrigger`, mkio", partial(_ams, "bench_mkio", v3.job_id), _told_by_ams),
    "http": Peer("`HttpSensorTrigger`", _http, _told_by_http),
    "dbt": Peer("`DbtCloudRunJobTrigger`", _dbt, _told_by_dbt),
}


def prepare(ports: Ports, home: str, *, sign_in: bool = False) -> None:
    """Make this process like a triggerer: connections, as many files as it may open, its log format.

    :param home: a folder for what Airflow writes
    :param sign_in: our connection to v2 fetches tokens; all others hold one that never ends
    """
    base = f"http://127.0.0.1:{ports.media}"
    v2_ams: dict[str, Any] = {"conn_type": "ams", "host": f"{base}/api/", "password": "key"}
    if sign_in:
        v2_ams |= {"login": "account", "extra": {"auth": "acs", "token_url": f"{base}/token"}}
    v3_ams = {"conn_type": "ams", "host": base, "password": "key"}
    arm = {"subscription_id": "S", "resource_group": "R", "account_name": "A"}
    dbt = {
        "conn_type": "dbt_cloud",
        "host": f"127.0.0.1:{ports.media}",
        "login": "1",
        "password": "key",
    }
    os.environ |= {
        "AIRFLOW_HOME": home,
        "AIRFLOW_CONN_BENCH_V2": json.dumps(v2_ams),
        "AIRFLOW_CONN_BENCH_ARM": json.dumps({**v3_ams, "extra": {"api": "arm", "auth": "bearer", **arm}}),
        "AIRFLOW_CONN_BENCH_MKIO": json.dumps({**v3_ams, "extra": {"api": "mkio", "project": "P"}}),
        "AIRFLOW_CONN_BENCH_HTTP": json.dumps({"conn_type": "http", "host": base}),
        "AIRFLOW_CONN_BENCH_DBT": json.dumps(dbt),
    }
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    from airflow.sdk.log import configure_logging

    # As a triggerer's loop does it: a line of JSON for each, unbuffered, to whoever files them.
    log = os.open(Path(home, "log"), os.O_WRONLY | os.O_CREAT)
    configure_logging(json_output=True, output=os.fdopen(log, "wb", buffering=0), sending_to_supervisor=True)
    logging.getLogger("asyncio").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Ending:
    """How one wait ended.

    :param told: see `Peer`
    :param moment: of the event, on the system's clock
    """

    told: int | str
    moment: float


class Waits:
    """Waits of one kind, each consumed by a task of its own, as a triggerer does.

    :param count: for the jobs with numbers from 0 on
    """

    def __init__(self, peer: Peer, count: int, interval: float) -> None:
        self._peer = peer
        self._interval = interval
        self.count = count
        self.endings: dict[int, Ending] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def warm_up(self, index: int) -> None:
        """Wait for a job that has long finished; the first wait imports what all further ones share."""
        await self.wait(index)
        ending = self.endings.pop(index)
        if ending.told not in (ENDED, FINISHED):
            raise RuntimeError(f"{self._peer.name} does not work here: {ending.told}")

    async def start(self, spread: float) -> None:
        """Begin them all, evenly over some seconds; a farm's jobs are not submitted in one moment."""
        began = time.monotonic()
        for index in range(self.count):
            self._tasks.append(asyncio.create_task(self.wait(index)))
            ahead = began + spread * (index + 1) / self.count - time.monotonic()
            if ahead > 0.01:
                await asyncio.sleep(ahead)
            elif index % 20 == 0:
                await asyncio.sleep(0)

    async def wait(self, index: int) -> None:
        """Wait for one job."""
        from structlog.contextvars import bind_contextvars

        bind_contextvars(trigger_id=index)
        try:
            async for event in self._peer.make(index, self._interval).run():
                self.endings.setdefault(index, Ending(self._told(event), time.time()))
        except Exception as exc:
            text = f"raised {type(exc).__name__}: {exc}"[:100]
            self.endings.setdefault(index, Ending(text, time.time()))

    async def ended(self, indexes: Iterable[int], within: float) -> None:
        """Return when these have ended, or after some seconds."""
        await asyncio.wait([self._tasks[index] for index in indexes], timeout=within)

    async def stop(self) -> None:
        """Cancel those that go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _told(self, event: TriggerEvent) -> int | str:
        return self._peer.told(event.payload)


def about_this_machine() -> str:
    """Name the versions that were measured."""
    names = (
        "apache-airflow",
        "apache-airflow-providers-http",
        "apache-airflow-providers-dbt-cloud",
        "requests",
    )
    versions = ", ".join(f"{name} {version(name)}" for name in (*names, "aiohttp"))
    return f"Python {sys.version.split()[0]}, {versions}, {os.cpu_count()} CPUs"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Write a table."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
