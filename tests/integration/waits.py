"""What the tests of waiting share."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import logging
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
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
TASK_LOGS = ("tests.wait", "airflow_ams.triggers.ams")
JOBS = r"^Jobs\(\)$"
LIST = r"State (le|eq)"
SINGLE = r"Id eq"
TASKS, OUTPUTS = r"/Tasks$", r"/OutputMediaAssets$"


def sensor(job_id: Any, *, poke_interval: float = 0.05, **arguments: Any) -> AmsJobSensor:
    """Make a sensor that polls more often than DAGs may, and gives up after a while."""
    made = AmsJobSensor(**{"task_id": "wait", "job_id": job_id, "timeout": 60, **arguments})
    made.poke_interval = poke_interval
    return made


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return what was said in the task's own log."""
    said = [r for r in caplog.records if r.name in TASK_LOGS and r.levelno == level]
    return [r.getMessage() for r in said if "Success criteria met" not in r.getMessage()]


@contextmanager
def in_step(ams: Emulator, *actions: Callable[[], object], reads: int = 1) -> Iterator[None]:
    """Do one thing after another meanwhile, each when a wait has read its job so many times since the last.

    The request that reads the job comes first in a poll, so with two of them a whole poll has been made.
    """
    over = threading.Event()

    def work() -> None:
        for action in actions:
            before = len(ams.requests(JOBS))
            while len(ams.requests(JOBS)) < before + reads:
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


class Deferred:
    """A sensor run as Airflow runs a deferrable one: on a worker, in a triggerer, and on a worker again.

    :param sensor: what each of the two workers makes of the DAG file
    """

    def __init__(self, sensor: Any) -> None:
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
            return self._first.execute({})
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
        return self._second.resume_execution(self.deferral.method_name, {"event": event}, {})

    def fail(self, error: str, *traceback: str) -> Any:
        """Run the second part as Airflow does when there was no event."""
        audible(self._second)
        return self._second.resume_execution("__fail__", {"error": error, "traceback": [*traceback]}, {})

    def run(self) -> Any:
        """Run all parts; return the task's XCom."""
        result = self.start()
        if self.trigger is None:
            return result
        try:
            event = asyncio.run(self.fire())
        except Exception as exc:
            return self.fail("Trigger failure", *traceback.format_exception(exc))
        return self.resume(event)


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
