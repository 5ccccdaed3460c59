"""A watch lives as long as somebody waits: where its work is done, whose log it writes to, what is left."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import airflow_ams
from tests.integration.account import FINISHED, QUEUED, Account
from tests.integration.waits import running, trigger, until

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator


def triggers(account: Account, ids: list[str], **arguments: Any) -> list[Any]:
    """Make a wait on each of the jobs."""
    return [trigger(job_id, account.conn_id, **arguments) for job_id in ids]


def sockets(account: Account) -> int:
    """Count this process's open connections to the account, as a client."""
    port = int(account.base_url.split(":")[2].split("/")[0])
    return len([c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == port])


def threads(account: Account) -> list[str]:
    """Name the threads that serve the account's watches."""
    return [t.name for t in threading.enumerate() if t.name.startswith(f"ams-{account.conn_id}")]


def watches() -> int:
    """Count the watches of the running loop."""
    from airflow_ams.triggers import watch

    return len(watch._watches.get(asyncio.get_running_loop(), {}))


@pytest.mark.parametrize("account", ["v2", "rms"], indirect=True)
@pytest.mark.parametrize("waits", [3, 30])
@pytest.mark.parametrize("way", ["finished", "stopped"])
def test_nothing_is_left_of_a_watch(account: Account, waits: int, way: str) -> None:
    """The complaint: triggerers grow. After the last wait, however it ended, there is no thread or socket."""

    async def main() -> None:
        before = asyncio.all_tasks()
        ids = account.add(waits)
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.seen) >= 10)
            assert threads(account)
            assert sockets(account) > 0
            if way == "finished":
                account.put(ids, FINISHED)
                await asyncio.gather(*tasks)
        assert watches() == 0
        await until(lambda: not threads(account) and not sockets(account))
        await until(lambda: asyncio.all_tasks() == before)

    asyncio.run(main())


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
def test_a_stopped_wait_is_gone_from_the_watch(account: Account) -> None:
    """Those that go on do so without it: nothing is read for the one that left."""

    async def main() -> None:
        one, *others = account.add(4, QUEUED)
        async with running(triggers(account, others)):
            async with running(triggers(account, [one])):
                await until(lambda: account.singles(one))
            before = len(account.singles(one))
            await until(lambda: len(account.singles()) >= before + 20)
            assert len(account.singles(one)) <= before + 1

    asyncio.run(main())


def test_a_watch_begins_anew_after_its_end(account: Account) -> None:
    """One after another in the same loop, each with threads of its own."""

    async def main() -> None:
        for _ in range(3):
            ids = account.add(2)
            async with running(triggers(account, ids)) as tasks:
                await until(lambda: len(account.singles()) >= 2)
                account.put(ids, FINISHED)
                assert [event["outcome"] for event in await asyncio.gather(*tasks)] == ["succeeded"] * 2
            account.seen.clear()

    asyncio.run(main())


def test_each_connection_has_a_watch(account: Account, connection: Callable[..., str]) -> None:
    """Two ids of connections are two watches, even if they lead to the same place."""
    other = connection("ams_other", host=account.base_url, password="a-token")

    async def main() -> None:
        ids = account.add(2, QUEUED)
        both = [trigger(ids[0], account.conn_id), trigger(ids[1], account.conn_id), trigger(ids[0], other)]
        async with running(both):
            await until(lambda: len(account.singles()) >= 6)
            assert watches() == 2

    asyncio.run(main())


def test_each_loop_has_a_watch(account: Account) -> None:
    """Loops in two threads do not meet in one watch."""
    ids = account.add(2)
    outcomes: list[str] = []

    def work(job_id: str) -> None:
        async def main() -> None:
            async with running(triggers(account, [job_id])) as tasks:
                await until(lambda: len(account.singles(job_id)) >= 3)
                account.put([job_id], FINISHED)
                outcomes.append((await tasks[0])["outcome"])

        asyncio.run(main())

    workers = [threading.Thread(target=work, args=(job_id,)) for job_id in ids]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert outcomes == ["succeeded"] * 2


def test_requests_are_made_by_a_few_threads_of_the_watch(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The complaint: blocking calls starve all triggers. None is made in the loop, or in its executor."""
    from airflow_ams.api.wire import Wire

    by: dict[str, set[int]] = {}
    exchange = Wire.exchange

    def noted(self: Wire, *args: Any, **kwargs: Any) -> Any:
        by.setdefault(threading.current_thread().name, set()).add(id(self))
        return exchange(self, *args, **kwargs)

    monkeypatch.setattr(Wire, "exchange", noted)

    async def main() -> None:
        ids = account.add(40)
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.lists()) >= 3)
            account.put(ids, FINISHED)
            await asyncio.gather(*tasks)

    asyncio.run(main())
    assert 1 < len(by) <= 8
    assert all(name.startswith("ams-ams_account") for name in by)
    assert len(set().union(*by.values())) <= 8


_task_of: contextvars.ContextVar[str] = contextvars.ContextVar("task_of", default="nobody")


class _Noting(logging.Handler):
    """Notes each line with the task in whose context it was written, as Airflow's own routing finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, _task_of.get(), record.getMessage()))


@pytest.mark.parametrize("waits", [3, 20])
def test_each_line_lands_in_its_own_tasks_log(account: Account, reply: type[Any], waits: int) -> None:
    """A task's lines are written in its context; the watch's own in nobody's, so not in the first one's."""
    noting = _Noting()
    logger = logging.getLogger("airflow_ams")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(noting)
    ids = account.add(waits, QUEUED)

    async def one(job_id: str) -> Any:
        _task_of.set(job_id)
        return [event async for event in trigger(job_id, account.conn_id).run()]

    async def main() -> None:
        tasks = [asyncio.ensure_future(one(job_id)) for job_id in ids]
        await until(lambda: len({task for _, task, _ in noting.lines}) >= waits)
        account.trouble = lambda _: reply(503, {})
        await until(lambda: any(task == "nobody" for _, task, _ in noting.lines))
        account.trouble = lambda _: None
        account.put(ids, FINISHED)
        await asyncio.gather(*tasks)

    try:
        asyncio.run(main())
    finally:
        logger.removeHandler(noting)
        logger.setLevel(level)
    own = [line for line in noting.lines if line[0] == "airflow_ams.triggers.ams"]
    assert {task for _, task, _ in own} == set(ids)
    assert all(task in text for _, task, text in own)
    others = {task for name, task, _ in noting.lines if name != "airflow_ams.triggers.ams"}
    assert others == {"nobody"}


LEAKS = """
import asyncio, sys, time
from airflow_ams.triggers.ams import AmsJobTrigger

async def fired(job_id, seconds):
    trigger = AmsJobTrigger(job_id, poke_interval=0.1, deadline=time.time() + seconds, started_at=time.time())
    return [event async for event in trigger.run()][0].payload["outcome"]

async def main():
    waits = [fired(job_id, 60) for job_id in sys.argv[1:7]] + [fired(job_id, 1.5) for job_id in sys.argv[7:]]
    print(*await asyncio.gather(*waits))

asyncio.run(main())
"""


def test_no_resource_is_leaked(ams_emulator: Emulator) -> None:
    """A process of its own, in which a leaked socket, loop or task is an error that Python tells of."""
    ids = [ams_emulator.submit_scripted(states=["Finished"]) for _ in range(6)]
    ids += [ams_emulator.submit_scripted(states=[{"state": "Processing", "seconds": 3600}]) for _ in range(6)]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", LEAKS, *ids],
        env={**os.environ, "PYTHONPATH": str(Path(airflow_ams.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert done.stdout.split()[-12:] == ["succeeded"] * 6 + ["timeout"] * 6
    for word in ("ResourceWarning", "never retrieved", "was destroyed", "never awaited"):
        assert word not in done.stderr
