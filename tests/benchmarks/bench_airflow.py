"""What a deferred wait costs in a real Airflow, and how soon the task behind it starts.

Run it with ``python -m tests.benchmarks.bench_airflow`` (about eight minutes; ``--quick`` for a try), on
Airflow 3.3 or later, where the HTTP provider is installed. Four kinds of waits, one after another, in one
``airflow standalone`` on SQLite:

* ``resumed``: `AmsJobSensor`, deferred by a worker and resumed on one
* ``ended in the triggerer``: with ``end_from_trigger``
* ``no worker``: with ``start_from_trigger``, too
* ``HttpSensor``: of the HTTP provider, ``deferrable=True``, on an address that answers 404 until its job ends

Task processes are the starts in Airflow's audit log. CPU seconds are those of all of Airflow's processes,
ended ones included, from the start of a run until its last wait has ended, less what the same Airflow takes
in as many seconds of doing nothing. The delay is from the moment at which a job ends to the start of the task
behind its wait; one job ends at a time, so no task has to queue for a worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import psutil

from airflow_ams.emulator.process import Emulator
from tests.system.standalone import Run, Standalone

HOUR = 3600.0
POLL = 1
IDLE_SECONDS = 20.0
KINDS = {
    "resumed": {},
    "ended in the triggerer": {"end_from_trigger": True},
    "no worker": {"start_from_trigger": True, "end_from_trigger": True},
    "HttpSensor": None,
}
"""What `AmsJobSensor` is told; None is another sensor."""

DAGS = """
import json, os
from datetime import datetime, timezone
from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.http.sensors.http import HttpSensor
from airflow_ams.sensors.ams import AmsJobSensor

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def wait(kind, index, job):
    common = {"task_id": f"wait_{index}", "deferrable": True, "poke_interval": %(poll)d, "timeout": 3600}
    if kind["arguments"] is None:
        return HttpSensor(endpoint=job, http_conn_id="bench_http", **common)
    return AmsJobSensor(job_id=job, **common, **kind["arguments"])


for kind in json.loads(os.environ["BENCH_KINDS"]):
    with DAG(f"cost_{kind['number']}", schedule=None, start_date=START):
        for index, job in enumerate(kind["cost"]):
            wait(kind, index, job)

    with DAG(f"delay_{kind['number']}", schedule=None, start_date=START):
        for index, job in enumerate(kind["delay"]):

            @task(task_id=f"next_{index}")
            def go_on():
                pass

            wait(kind, index, job) >> go_on()
"""


class HttpJobs:
    """An HTTP server that answers 404 for a job until it has ended, as `HttpSensor` wants it."""

    def __init__(self) -> None:
        ended: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path.strip("/") in ended else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._ended = ended
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> HttpJobs:
        """Start it."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def connection_json(self) -> str:
        """Return the Airflow connection."""
        return json.dumps({"conn_type": "http", "host": "http://127.0.0.1", "port": self._server.server_port})

    def end(self, *jobs: str) -> None:
        """Let jobs have ended."""
        self._ended.update(jobs)


@dataclass
class Kind:
    """One kind of wait, and its jobs.

    :param delay: jobs that end one after another
    :param cost: jobs that end at the same time, after the others
    """

    name: str
    number: int
    delay: list[str]
    cost: list[str]
    end_next: Callable[[], None]
    """Let the next job of `delay` end, or all of `cost` when those have ended."""

    def as_json(self) -> dict[str, Any]:
        """Return what the DAGs need of it."""
        arguments = KINDS[self.name]
        return {"number": self.number, "delay": self.delay, "cost": self.cost, "arguments": arguments}


@dataclass
class Figures:
    """What was measured of one kind."""

    processes: int
    cpu_seconds: float
    delays: list[float]


@contextmanager
def kinds(waits: int, ends: int) -> Iterator[tuple[list[Kind], dict[str, str]]]:
    """Run the services; yield the kinds of waits, and the environment that Airflow needs for them."""
    with Emulator() as ams, HttpJobs() as http:
        ams.freeze()
        found = [
            _ams_kind(ams, name, number, waits, ends)
            if arguments is not None
            else _http_kind(http, name, number, waits, ends)
            for number, (name, arguments) in enumerate(KINDS.items())
        ]
        yield (
            found,
            {
                "AIRFLOW_CONN_AMS_DEFAULT": ams.connection_json(),
                "AIRFLOW_CONN_BENCH_HTTP": http.connection_json(),
                "BENCH_KINDS": json.dumps([kind.as_json() for kind in found]),
            },
        )


def _ams_kind(ams: Emulator, name: str, number: int, waits: int, ends: int) -> Kind:
    # Each end is an hour of the service's clock, and the kinds take turns.
    first = number * (ends + 1) + 1
    delay = [_submit(ams, first + index) for index in range(ends)]
    cost = [_submit(ams, first + ends) for _ in range(waits)]
    return Kind(name, number, delay, cost, lambda: ams.advance(HOUR))


def _http_kind(http: HttpJobs, name: str, number: int, waits: int, ends: int) -> Kind:
    delay = [f"delay-{index}" for index in range(ends)]
    cost = [f"cost-{index}" for index in range(waits)]
    order = iter([*([job] for job in delay), cost])
    return Kind(name, number, delay, cost, lambda: http.end(*next(order)))


def _submit(ams: Emulator, hours: int) -> str:
    states = [{"state": "Processing", "seconds": hours * HOUR, "progress": [0, 0]}, "Finished"]
    return ams.submit_scripted(states=states)


def measure(airflow: Standalone, kind: Kind) -> Figures:
    """Measure one kind of wait."""
    delays = _delays(airflow, kind)
    idle = _idle_rate(airflow)
    began, before = time.monotonic(), _cpu_seconds(airflow)
    run = airflow.run_dag(f"cost_{kind.number}")
    names = [f"wait_{index}" for index in range(len(kind.cost))]
    run.wait_for("deferred", names)
    # The last ones have to be read by the triggerer, too.
    time.sleep(3 * POLL + 2)
    kind.end_next()
    run.wait_for_end()
    _assert_succeeded(run)
    net = _cpu_seconds(airflow) - before - idle * (time.monotonic() - began)
    return Figures(sum(run.starts().values()), net, delays)


def _delays(airflow: Standalone, kind: Kind) -> list[float]:
    run = airflow.run_dag(f"delay_{kind.number}")
    run.wait_for("deferred", [f"wait_{index}" for index in range(len(kind.delay))])
    time.sleep(3 * POLL + 2)
    ended = []
    for index in range(len(kind.delay)):
        # Not always at the same moment between two polls.
        time.sleep(random.uniform(0, POLL))
        ended.append(time.time())
        kind.end_next()
        run.wait_for_end([f"next_{index}"])
    _assert_succeeded(run)
    tasks = run.tasks()
    return [_epoch(tasks[f"next_{index}"].started) - moment for index, moment in enumerate(ended)]


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _assert_succeeded(run: Run) -> None:
    if set(run.states().values()) != {"success"}:
        raise click.ClickException(f"{run.dag_id} has not succeeded: {run.states()}")


def _idle_rate(airflow: Standalone) -> float:
    time.sleep(3)
    began, before = time.monotonic(), _cpu_seconds(airflow)
    time.sleep(IDLE_SECONDS)
    return (_cpu_seconds(airflow) - before) / (time.monotonic() - began)


def _cpu_seconds(airflow: Standalone) -> float:
    """Return the CPU seconds of all processes; a parent's figures include its ended children's."""
    total = 0.0
    for process in airflow.processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _row(name: str, figures: Figures) -> str:
    delays = figures.delays
    return (
        f"| {name} | {figures.processes} | {figures.cpu_seconds:.1f} "
        f"| {statistics.median(delays):.1f} | {max(delays):.1f} |"
    )


@click.command()
@click.option("--waits", default=20, show_default=True, help="Waits whose cost is measured.")
@click.option("--ends", default=10, show_default=True, help="Jobs whose ends are timed.")
@click.option("--quick", is_flag=True, help="Few of both, for a try.")
def main(waits: int, ends: int, quick: bool) -> None:
    """Measure deferred waits in a real Airflow, and print a table."""
    if quick:
        waits, ends = 4, 2
    providers = ("apache-airflow", "apache-airflow-providers-http", "airflow-ams")
    click.echo(", ".join(f"{name} {version(name)}" for name in providers) + f", {os.cpu_count()} CPUs\n")
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-airflow-")))
        all_kinds, environment = stack.enter_context(kinds(waits, ends))
        dags = {"bench.py": DAGS % {"poll": POLL}}
        airflow = stack.enter_context(Standalone(home, dags, environment=environment))
        click.echo(
            f"| {waits} waits, poke_interval {POLL} s | task processes | CPU s "
            "| s from the job's end to the next task's start: median | most |\n|---|---:|---:|---:|---:|"
        )
        for kind in all_kinds:
            click.echo(_row(kind.name, measure(airflow, kind)))


if __name__ == "__main__":
    main()
