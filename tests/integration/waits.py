"""What the tests of waiting share."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import logging
import re
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_ams.sensors.ams import AmsJobSensor

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

UNKNOWN = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
MODES: dict[str, dict[str, Any]] = {
    "poke": {},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
}
all_dialects = pytest.mark.parametrize("account", ["v2", "arm", "rms", "mkio"], indirect=True)
"""Runs a test with an `account` of each dialect."""

APIS = ("v2", "arm", "rms", "mkio")


def on(*apis: str) -> pytest.MarkDecorator:
    """Run a test with the emulator, `ams`, in each of these dialects."""
    return pytest.mark.parametrize("ams", apis, indirect=True)


all_apis = on(*APIS)
signing_in = on("v2", "arm", "rms")
"""The dialects in which a token is fetched."""

TASK_LOGS = ("tests.wait", "airflow_ams.triggers.ams")
JOBS = r"^Jobs\(\)$"
LIST = r"State (le|eq)"
SINGLE = r"Id eq"
TASKS, OUTPUTS = r"/Tasks$", r"/OutputMediaAssets$"


@dataclass(frozen=True)
class Wire:
    """What a dialect's requests look like in the emulator's log, and its jobs in messages.

    :param api: any request to the API, sign-ins left out
    :param job: a read of where a job stands
    :param create: a job's creation, together with the method
    :param sign_in: a sign-in; matches nothing where there is none
    :param unknown: an id that no job has
    :param part: what the messages call the one part of a scripted job
    """

    api: str
    job: str
    create: tuple[str, str]
    sign_in: str
    unknown: str
    part: str

    def title(self, job_id: str) -> str:
        """Return what messages call a job whose name in v2 is Encode."""
        return f"Job 'Encode' ({job_id})" if job_id.startswith("nb:") else f"Job {job_id}"

    def percent(self, percent: int) -> str:
        """Return how messages tell the percent of a job with one part."""
        share = f" ({self.part}: Processing {percent} %)" if self.part == "Encode" else ""
        return f"{percent} %{share}"


_V3_JOB = r"/jobs/[^/]+$"
_ARM = Wire(
    api=r"^subscriptions/",
    job=_V3_JOB,
    create=("PUT", _V3_JOB),
    sign_in=r"/oauth2/v2\.0/token$",
    unknown="Scripted/nowhere",
    part="ScriptedPreset_0",
)
WIRES = {
    "v2": Wire(r"^Jobs", JOBS, ("POST", r"^Jobs$"), r"OAuth2-13$", UNKNOWN, "Encode"),
    "arm": _ARM,
    "rms": replace(_ARM, sign_in=r"^auth/token$"),
    "mkio": replace(_ARM, api=r"^v1/projects/", job=r"/jobs/[^/]+(/state)?$", sign_in=r"(?!)"),
}
"""By the connection's ``extra.api``."""


def sensor(job_id: Any, *, poke_interval: float = 0.05, **arguments: Any) -> AmsJobSensor:
    """Make a sensor that polls more often than DAGs may, and gives up after a while."""
    made = AmsJobSensor(**{"task_id": "wait", "job_id": job_id, "timeout": 60, **arguments})
    made.poke_interval = poke_interval
    return made


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return what was said in the task's own log."""
    said = [r for r in caplog.records if r.name in TASK_LOGS and r.levelno == level]
    return [r.getMessage() for r in said if "Success criteria met" not in r.getMessage()]


def skipped(query: str) -> int:
    """Return how many jobs of a list are on the pages before the one that is asked for."""
    found = re.search(r"\$skip(?:token)?=(\d+)", query)
    return int(found[1]) if found else 0


@contextmanager
def in_step(ams: Emulator, *actions: Callable[[], object], reads: int = 1) -> Iterator[None]:
    """Do one thing after another meanwhile, each when a wait has read its job so many times since the last.

    The request that reads the job comes first in a poll, so with two of them a whole poll has been made. The
    next one may be under way then; where that matters, `in_line` is for it.
    """
    over = threading.Event()
    job = WIRES[ams.api].job

    def answered() -> int:
        return len([read for read in ams.requests(job) if read["status"] is not None])

    def work() -> None:
        for action in actions:
            before = answered()
            while answered() < before + reads:
                if over.wait(0.01):
                    return
            action()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


@contextmanager
def in_line(*actions: Callable[[], object]) -> Iterator[None]:
    """Do one thing after another meanwhile, each when the task's log gets its next line.

    A line is the last thing that a poll does, and whoever writes it waits, so nothing changes within a poll.
    """

    left = list(actions)

    class Acting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if left:
                left.pop(0)()

    handler = Acting(logging.INFO)
    for name in TASK_LOGS:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in TASK_LOGS:
            logging.getLogger(name).removeHandler(handler)


class Deferred:
    """A sensor run as Airflow runs a deferrable one: on a worker, in a triggerer, and on a worker again.

    :param sensor: what each of the two workers makes of the DAG file
    :param context: what Airflow hands to the task
    """

    def __init__(self, sensor: Any, context: Any = None) -> None:
        self._context = context or {}
        # A resumed task is another process, which knows nothing of what the first one did.
        self._first, self._second = sensor, copy.copy(sensor)
        self.deferral: Any = None
        self.trigger: Any = None
        self.events: list[Any] = []

    def start(self) -> Any:
        """Run the first part; make the trigger as the triggerer does, or return what `execute` returned."""
        from airflow.providers.common.compat.sdk import TaskDeferred

        audible(self._first)
        try:
            return self._first.execute(self._context)
        except TaskDeferred as deferral:
            self.deferral = deferral
        self.trigger = rebuilt(self.deferral.trigger)
        return None

    async def fire(self) -> Any:
        """Run the trigger; return the payload of its event."""
        audible(self.trigger)
        self.events = [event async for event in self.trigger.run()]
        (event,) = self.events
        return json.loads(json.dumps(event.payload))

    def resume(self, event: Any) -> Any:
        """Run the second part."""
        audible(self._second)
        given = {**(self.deferral.kwargs or {}), "event": event}
        return self._second.resume_execution(self.deferral.method_name, given, self._context)

    def fail(self, error: str, *traceback: str) -> Any:
        """Run the second part as Airflow does when there was no event."""
        audible(self._second)
        reason = {"error": error, "traceback": [*traceback]}
        return self._second.resume_execution("__fail__", reason, self._context)

    def run(self) -> Any:
        """Run all parts; return the task's XCom."""
        result = self.start()
        if self.trigger is None:
            return result
        try:
            event = asyncio.run(self.fire())
        except Exception as exc:
            return self.fail("Trigger failure", *traceback.format_exception(exc))
        return self._resumed(event)

    def _resumed(self, event: Any) -> Any:
        """Run the second part, and whatever comes after it if it defers again."""
        from airflow.providers.common.compat.sdk import TaskDeferred

        try:
            return self.resume(event)
        except TaskDeferred as deferral:
            self.deferral = deferral
        self.trigger = rebuilt(self.deferral.trigger)
        return self._resumed(asyncio.run(self.fire()))


def audible(operator: Any) -> Any:
    """Let caplog see what an operator, or a trigger, says.

    Airflow 3 logs by structlog, 2.11 by logging; this logger is seen on both.
    """
    operator._log = operator._cached_logger = logging.getLogger("tests.wait")
    return operator


def rebuilt(trigger: Any) -> Any:
    """Make a trigger anew of what Airflow stores of it."""
    classpath, arguments = json.loads(json.dumps(trigger.serialize()))
    module, _, name = classpath.rpartition(".")
    return getattr(importlib.import_module(module), name)(**arguments)


def trigger(job_ids: str | list[str], conn_id: str = "ams_default", **arguments: Any) -> Any:
    """Make a trigger as a sensor does that has polled just now."""
    from airflow_ams.triggers.ams import AmsJobTrigger

    now = time.time()
    given = {"poke_interval": 0.05, "deadline": now + 60, "started_at": now, **arguments}
    return AmsJobTrigger(job_ids, conn_id, **given)


async def fired(one: Any) -> Any:
    """Run a trigger; return the payload of its event."""
    (event,) = [event async for event in one.run()]
    return event.payload


@asynccontextmanager
async def running(triggers: Iterable[Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run triggers; at the end of the block, stop those that still wait, as a triggerer that ends does."""
    tasks = [asyncio.ensure_future(fired(one)) for one in triggers]
    try:
        # They have joined their watch when this comes back.
        await asyncio.sleep(0)
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come true"
        await asyncio.sleep(0.01)
