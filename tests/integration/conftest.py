"""What the integration tests share."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import pytest

from airflow_ams.emulator.process import Emulator
from tests.integration.account import Account, V2Account
from tests.integration.account_v3 import ArmAccount, MkioAccount, RmsAccount
from tests.integration.client import Client
from tests.integration.waits import Deferred, audible

_ACCOUNTS: dict[str, type[Account]] = {
    "v2": V2Account,
    "arm": ArmAccount,
    "rms": RmsAccount,
    "mkio": MkioAccount,
}


@pytest.fixture
def client(ams_emulator: Emulator) -> Client:
    """Return a client of the emulator."""
    return Client(ams_emulator)


@pytest.fixture
def ams(request: pytest.FixtureRequest, ams_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Return the emulator, to which ``ams_default`` leads; in v2, unless `waits.all_apis` says else."""
    ams_emulator.api = getattr(request, "param", "v2")
    monkeypatch.setenv("AIRFLOW_CONN_AMS_DEFAULT", ams_emulator.connection_json())
    return ams_emulator


@pytest.fixture
def account(
    request: pytest.FixtureRequest,
    service: Callable[..., Any],
    reply: type[Any],
    connection: Callable[..., str],
) -> Iterator[Account]:
    """Return an empty account, and an Airflow connection to it; v2, unless `waits.all_dialects` says else."""
    account = _ACCOUNTS[getattr(request, "param", "v2")](reply)
    started = service(account.answer)
    account.seen = started.seen
    account.base_url = started.url + account.folder
    account.conn_id = connection("ams_account", **account.connection)
    yield account
    account.trouble = lambda _: None


@pytest.fixture
def quick_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a watch come back soon after trouble, for tests that are not about the back-off."""
    monkeypatch.setattr("airflow_ams.triggers.trouble._FIRST_BACK_OFF", 0.05)
    monkeypatch.setattr("airflow_ams.triggers.trouble.MAX_BACK_OFF", 0.2)


class _TaskInstance:
    """Stands for the running task, which only Airflow's own runner makes; a sensor asks it when it began."""

    dag_id, task_id, run_id, map_index, max_tries = "dag", "wait", "run", -1, 0

    def __init__(self) -> None:
        self.first_reschedule: datetime | None = None


class _TaskInstance3(_TaskInstance):
    def get_first_reschedule_date(self, _: Any) -> datetime | None:
        """Answer as Airflow 3's runner does."""
        return self.first_reschedule


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a sensor to its end as Airflow would: in one go, deferred, or started again at each poke."""
    from airflow.providers.common.compat.sdk import BaseSensorOperator

    try:
        from airflow.sdk.exceptions import AirflowRescheduleException
    except ImportError:
        from airflow.exceptions import AirflowRescheduleException
    in_database = not BaseSensorOperator.__module__.startswith("airflow.sdk")

    def run(sensor: Any, pokes: int = 500) -> Any:
        if sensor.deferrable:
            return Deferred(sensor).run()
        audible(sensor)
        if sensor.mode == "poke":
            return sensor.execute({})
        ti = _TaskInstance() if in_database else _TaskInstance3()
        if in_database:
            # 2.11 keeps in its database when a rescheduled task began.
            monkeypatch.setattr("airflow.sensors.base._orig_start_date", lambda *_, **__: ti.first_reschedule)
        for _ in range(pokes):
            # Each start is a process of its own.
            start = audible(copy.copy(sensor))
            with suppress(AirflowRescheduleException):
                return start.execute({"ti": ti})
            ti.first_reschedule = ti.first_reschedule or datetime.now(timezone.utc)
            time.sleep(sensor.poke_interval)
        raise AssertionError(f"still waiting after {pokes} pokes")

    return run
