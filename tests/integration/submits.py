"""What the tests of submitting share: a task's tries, and what they submit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from airflow_ams.operators.ams import AmsSubmitJobOperator
from tests.integration.client import Client
from tests.integration.waits import WIRES, Deferred, audible, in_line

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "deferrable"])
RUNNING: list[Any] = [{"state": "Processing", "seconds": 3600}, "Finished"]


class Store:
    """Stands for the task state store of Airflow 3.3, which only a running task has."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        """Return what is kept under a key."""
        return self.kept.get(key)

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self.kept[key] = value


@dataclass
class Try:
    """Stands for one try of a running task, which only Airflow's own runner makes.

    :param store: None where Airflow has no task state store
    """

    try_number: int = 1
    max_tries: int = 2
    dag_id: str = "nightly"
    task_id: str = "encode"
    run_id: str = "manual__1"
    map_index: int = -1
    store: Store | None = None
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep an XCom."""
        self.xcoms[key] = value

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int) -> Any:
        """Return one of this task's own."""
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)

    @property
    def context(self) -> Any:
        """What Airflow hands to `execute`."""
        return {"ti": self} if self.store is None else {"ti": self, "task_state_store": self.store}

    def run(self, operator: Any) -> Any:
        """Run this try of a task to its end."""
        if operator.deferrable:
            return Deferred(operator, self.context).run()
        return audible(operator).execute(self.context)


def encode(ams: Emulator, *, name: str = "clip", **script: Any) -> dict[str, Any]:
    """Return the arguments of a submit operator for a job that follows a script, in the emulator's API."""
    if ams.api == "v2":
        task = {
            "processor": "Scripted",
            "configuration": script or {"states": ["Finished"]},
            "outputs": ["out"],
        }
        source = Client(ams).send("POST", "Assets", json={"Name": "source"}).json()["Id"]
        return {"name": name, "input_asset_ids": source, "tasks": [task]}
    ams.create_transform("Scripts", preset={"@odata.type": "#AirflowAms.ScriptedPreset", "script": script})
    return {"transform_name": "Scripts", "job_name": name, "inputs": ["source"], "outputs": ["out"]}


def operator(given: dict[str, Any], **arguments: Any) -> AmsSubmitJobOperator:
    """Make an operator that polls more often than DAGs may."""
    made = AmsSubmitJobOperator(
        **{"task_id": "encode", "timeout": 60, "retries": 2, "deferrable": False, **given, **arguments}
    )
    made.poke_interval = 0.05
    return made


@contextmanager
def outage(ams: Emulator) -> Iterator[None]:
    """Answer nothing until the task has twice logged that it tries again."""
    ams.inject({"when": {}, "then": {"status": 503}})
    with in_line(lambda: None, lambda: None, ams.clear_faults):
        yield


def deadline_after_an_outage(ams: Emulator, operator: Any) -> float:
    """Return the deadline, in seconds since the try began, of a wait that an outage has delayed."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    began = time.time()
    with outage(ams), pytest.raises(TaskDeferred) as caught:
        audible(operator).execute(Try().context)
    assert time.time() > began + 0.5
    return float(caught.value.trigger.deadline - began)


def creates(ams: Emulator) -> int:
    """Return how many jobs there are that somebody has created."""
    method, path = WIRES[ams.api].create
    return len([r for r in ams.requests(path) if r["method"] == method and r["status"] == 201])
