"""A watch never ends, so tokens end and keys are changed under it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.account import FINISHED, QUEUED, Account
from tests.integration.door import Door, locked, ways
from tests.integration.waits import lines, running, trigger, until

WAITS = [3, 20]


async def through(
    account: Account, ids: list[str], change: Callable[[], object], goes_on: bool = True
) -> list[Any]:
    """Let waits begin well, change something, and see how they end."""
    async with running([trigger(job_id, account.conn_id) for job_id in ids]) as tasks:
        await until(lambda: len(account.lists()) >= 2 or len(account.singles()) >= 2 * len(ids))
        change()
        before = len(account.seen)
        await until(lambda: len(account.seen) >= before + 8 or all(task.done() for task in tasks))
        if goes_on:
            assert not any(task.done() for task in tasks)
            account.put(ids, FINISHED)
        return await asyncio.wait_for(asyncio.gather(*tasks), 30)


@pytest.mark.parametrize(("account", "way"), [("v2", "acs"), ("rms", "api_key")], indirect=["account"])
@pytest.mark.parametrize("waits", WAITS)
def test_an_expired_token_is_renewed_once_for_all(
    account: Account,
    way: str,
    connection: Callable[..., str],
    waits: int,
    caplog: pytest.LogCaptureFixture,
    quick_back_off: None,
) -> None:
    """The complaint: tokens expire during long waits. There is one more sign-in, and nobody hears of it."""
    door, _ = locked(account, way, "k3y", connection)
    events = asyncio.run(through(account, account.add(waits, QUEUED), door.renew_tokens))
    assert {event["outcome"] for event in events} == {"succeeded"}
    assert door.sign_ins == [200, 200]
    assert lines(caplog, 30) == []


@pytest.mark.parametrize("waits", WAITS)
@ways
def test_a_changed_key_is_found(
    account: Account, connection: Callable[..., str], waits: int, way: str, quick_back_off: None
) -> None:
    """Before a second 401 becomes final the connection is read anew: the key may have been rotated."""
    door, fields = locked(account, way, "old-key", connection)

    def rotate() -> None:
        connection(account.conn_id, **{**fields, "password": "new-key"})
        door.key = "new-key"

    events = asyncio.run(through(account, account.add(waits, QUEUED), rotate))
    assert {event["outcome"] for event in events} == {"succeeded"}


def test_what_the_old_key_is_refused_says_nothing_of_the_new_one(
    account: Account,
    connection: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    quick_back_off: None,
) -> None:
    """A list that was asked for with the old key is refused while the connection is being read anew."""
    from airflow_ams.triggers import pool

    door = Door(account, "old-key")
    connection(account.conn_id, host=account.base_url, password="old-key")
    get: Any = vars(pool)["get_async_connection"]
    refused = threading.Event()

    async def slowly(conn_id: str) -> Any:
        found = await get(conn_id)
        await asyncio.sleep(0.6)
        return found

    def check(seen: Any) -> Any:
        if door.key == "new-key" and seen.headers.get("Authorization") == "Bearer old-key":
            if "State" in seen.query:
                refused.wait(30)
                time.sleep(0.2)
            else:
                refused.set()
        return door.check(seen)

    async def main() -> list[Any]:
        ids = account.add(12, QUEUED)
        # Its last look, a fetch of its own, comes while the list hangs.
        soon = trigger(ids[0], account.conn_id, poke_interval=0.2, deadline=time.time() + 4)
        rest = [trigger(job_id, account.conn_id, poke_interval=0.2) for job_id in ids[1:]]
        async with running([soon, *rest]) as tasks:
            await until(lambda: len(account.lists()) >= 2)
            monkeypatch.setattr(pool, "get_async_connection", slowly)
            connection(account.conn_id, host=account.base_url, password="new-key")
            door.key = "new-key"
            await until(refused.is_set)
            account.put(ids, FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks), 30)

    account.trouble = check
    try:
        assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}
    finally:
        refused.set()


@pytest.mark.parametrize("waits", WAITS)
@ways
def test_a_key_that_is_no_longer_good_ends_all(
    account: Account, connection: Callable[..., str], waits: int, way: str, quick_back_off: None
) -> None:
    """The connection says what it said before, so asking again would bring the same."""
    door, _ = locked(account, way, "old-key", connection)
    ids = account.add(waits, QUEUED)
    events = asyncio.run(through(account, ids, lambda: setattr(door, "key", "new-key"), goes_on=False))
    assert {event["outcome"] for event in events} == {"refused"}
    assert len({event["text"] for event in events}) == 1
    assert "password" in events[0]["text"]
    assert "old-key" not in json.dumps(events)


def test_the_connection_is_read_once(
    account: Account, monkeypatch: pytest.MonkeyPatch, quick_back_off: None
) -> None:
    """Many waits, one read of the connection, on the event loop, and none of it in the threads."""
    from airflow_ams.triggers import pool

    read: list[str] = []
    get: Any = vars(pool)["get_async_connection"]

    async def counted(conn_id: str) -> Any:
        read.append(conn_id)
        return await get(conn_id)

    monkeypatch.setattr(pool, "get_async_connection", counted)
    asyncio.run(through(account, account.add(20), lambda: None))
    assert read == [account.conn_id]


def test_a_connection_that_vanishes_ends_all(
    account: Account, monkeypatch: pytest.MonkeyPatch, quick_back_off: None
) -> None:
    """When the token is refused and there is no connection any more, the message says the latter."""

    def vanish() -> None:
        monkeypatch.delenv("AIRFLOW_CONN_AMS_ACCOUNT")
        account.trouble = lambda _: account.reply(401, {})

    events = asyncio.run(through(account, account.add(3, QUEUED), vanish, goes_on=False))
    assert {event["outcome"] for event in events} == {"refused"}
    assert "ams_account" in events[0]["text"]


def test_a_connection_that_is_not_needed_anew_may_vanish(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that runs well does not notice."""
    change = lambda: monkeypatch.delenv("AIRFLOW_CONN_AMS_ACCOUNT")  # noqa: E731
    events = asyncio.run(through(account, account.add(3, QUEUED), change))
    assert {event["outcome"] for event in events} == {"succeeded"}


@pytest.mark.parametrize("when", ["at first", "after a 401"])
def test_a_secrets_backend_that_is_down_is_waited_out(
    account: Account, monkeypatch: pytest.MonkeyPatch, when: str, quick_back_off: None
) -> None:
    """That the connection cannot be read says nothing about the jobs: it is trouble, and not an end."""
    from airflow_ams.triggers import pool

    door = Door(account, "a-token")
    failures = 3 if when == "at first" else 0
    read: list[str] = []
    get: Any = vars(pool)["get_async_connection"]

    async def fail_at_first(conn_id: str) -> Any:
        nonlocal failures
        read.append(conn_id)
        if failures:
            failures -= 1
            raise TimeoutError("the vault is sealed")
        return await get(conn_id)

    def change() -> None:
        nonlocal failures
        if when == "after a 401":
            failures = 3
            door.key = "new-key"
            value = {"conn_type": "ams", "host": account.base_url, "password": "new-key"}
            monkeypatch.setenv("AIRFLOW_CONN_AMS_ACCOUNT", json.dumps(value))

    monkeypatch.setattr(pool, "get_async_connection", fail_at_first)
    events = asyncio.run(through(account, account.add(12, QUEUED), change))
    assert {event["outcome"] for event in events} == {"succeeded"}
    assert len(read) == 4 + (when == "after a 401")


@pytest.mark.parametrize("conn_id", ["ams_nowhere", "ams_bad"])
def test_a_bad_connection_is_final(connection: Callable[..., str], conn_id: str) -> None:
    """No such connection, or one that names no service: all waits end, and say which connection."""
    connection("ams_bad", schema="x", password="tok")

    async def main() -> list[Any]:
        job_id = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
        async with running([trigger(job_id, conn_id) for _ in range(3)]) as tasks:
            return await asyncio.wait_for(asyncio.gather(*tasks), 30)

    for event in asyncio.run(main()):
        assert event["outcome"] == "refused"
        assert conn_id in event["text"]
