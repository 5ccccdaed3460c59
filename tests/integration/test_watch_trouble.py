"""Trouble belongs to the watch, not to its waits: one back-off for all, and nobody hears until it matters."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_ams.triggers.schedule import Schedule
from tests.integration.account import ERROR, FINISHED, PROCESSING, QUEUED, Account
from tests.integration.waits import all_dialects, lines, running, skipped, trigger, until

WAITS = [3, 20]
"""So many that they are fetched singly, and so many that they are listed."""


without_rms = pytest.mark.parametrize("account", ["v2", "arm", "mkio"], indirect=True)
"""Its answers are read as those of ARM are, and there are many combinations."""


@pytest.fixture(autouse=True)
def _short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MK.IO's own way to stay away be short, too."""
    monkeypatch.setattr("airflow_ams.api.mkio.AFTER_REFUSAL", 0.1)


def triggers(account: Account, ids: list[str], **arguments: Any) -> list[Any]:
    """Make a wait on each of the jobs."""
    return [trigger(job_id, account.conn_id, **arguments) for job_id in ids]


def polls(account: Account) -> int:
    """Count the requests that read jobs."""
    return len(account.lists()) + len(account.singles())


async def lived_through(
    account: Account, ids: list[str], trouble: Callable[[Any], Any], failures: int
) -> list[Any]:
    """Let waits begin well, meet so many failures, and end well; return their events."""
    counted = 0

    def answer(seen: Any) -> Any:
        nonlocal counted
        if counted >= failures or not (account.is_list(seen) or account.is_single(seen)):
            return None
        counted += 1
        return trouble(seen)

    async with running(triggers(account, ids)) as tasks:
        await until(lambda: polls(account) >= 2 * len(ids) or len(account.lists()) >= 2)
        account.trouble = answer
        await until(lambda: counted >= failures)
        assert not any(task.done() for task in tasks)
        account.put(ids, FINISHED)
        return await asyncio.gather(*tasks)


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
@pytest.mark.parametrize("waits", WAITS)
@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 503, "document": {}},
        {"status": 429, "document": {}},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 502, "body": b"<html>", "headers": {"Content-Type": "text/html"}},
        {"status": 200, "body": b"<html>", "headers": {"Content-Type": "text/html"}},
        {"status": 200, "body": b'{"value": [{"Id": "nb:ji'},
        {"status": 200, "document": {"value": [{"Name": "no id"}]}},
        {"cut": True},
    ],
    ids=str,
)
@pytest.mark.usefixtures("quick_back_off")
def test_nobody_hears_of_passing_trouble(
    account: Account,
    reply: type[Any],
    trouble: dict[str, Any],
    waits: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The complaint: a transient error fails the task. Each wait ends as its job does; its log is clean."""
    # Queued, since trouble with a percent is nobody's.
    ids = account.add(waits, QUEUED)
    with caplog.at_level(logging.INFO):
        events = asyncio.run(lived_through(account, ids, lambda _: reply(**trouble), 4))
    assert [event["outcome"] for event in events] == ["succeeded"] * waits
    assert lines(caplog, logging.WARNING) == []
    said = [r.getMessage() for r in caplog.records if r.name == "airflow_ams.triggers.watch"]
    assert said
    assert all("ams_account" in line for line in said)
    assert "a-token" not in caplog.text


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
@pytest.mark.parametrize("waits", WAITS)
def test_the_service_is_left_alone_for_as_long_as_it_asks(
    account: Account, reply: type[Any], waits: int
) -> None:
    """One `Retry-After` holds back all; requests that were on their way already are no new ones."""
    asked: list[float] = []
    later: list[float] = []

    def busy(seen: Any) -> Any:
        if not asked or time.monotonic() - asked[0] < 0.2:
            asked.append(time.monotonic())
            return reply(429, {}, headers={"Retry-After": "2"})
        later.append(time.monotonic())
        return None

    async def main() -> None:
        async with running(triggers(account, account.add(waits))):
            await until(lambda: polls(account) >= 2)
            account.trouble = busy
            await until(lambda: len(later) >= 1)

    asyncio.run(main())
    assert later[0] - asked[0] >= 2.0
    assert len(asked) <= 8


def test_trouble_makes_requests_rarer(account: Account, reply: type[Any]) -> None:
    """Twenty waits on a service that is down make one request at a time, further and further apart."""
    account.trouble = lambda _: reply(503, {})

    async def main() -> int:
        async with running(triggers(account, account.add(20))):
            await until(lambda: polls(account) >= 1)
            await asyncio.sleep(3)
        return polls(account)

    # With full jitter after 1, 2, 4, 8 … s, eight within three seconds would be a rare run of short waits.
    assert asyncio.run(main()) <= 14


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_a_long_outage_does_not_end_the_lists(
    account: Account, reply: type[Any], quick_back_off: None
) -> None:
    """When everything has failed for a while, and not the list alone, the list is what is asked for again."""

    async def main() -> None:
        async with running(triggers(account, account.add(60))):
            await until(lambda: len(account.lists()) >= 2)
            account.trouble = lambda _: reply(503, {})
            before = len(account.seen)
            await until(lambda: len(account.seen) - before >= 20)
            account.trouble = lambda _: None
            lists = len(account.lists())
            singles = len(account.singles())
            await until(lambda: len(account.lists()) >= lists + 5, 5)
            assert len(account.singles()) - singles <= 20

    asyncio.run(main())


@all_dialects
def test_a_list_that_alone_fails_is_left_alone(
    account: Account, reply: type[Any], quick_back_off: None
) -> None:
    """A service that has trouble with the list only still answers for each job."""
    account.trouble = lambda seen: reply(503, {}) if account.is_list(seen) else None

    async def main() -> list[Any]:
        ids = account.add(20)
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.singles()) >= 20)
            account.put(ids, FINISHED)
            return await asyncio.gather(*tasks)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}
    assert len(account.lists()) == 5


def test_after_ten_minutes_each_log_says_so_once(
    account: Account,
    reply: type[Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    quick_back_off: None,
) -> None:
    """With the reason, once an outage; the test has no ten minutes, so it shortens them."""
    monkeypatch.setattr("airflow_ams.triggers.watch.OUTAGE_NOTICE", 0.5)

    async def main() -> None:
        ids = account.add(12, QUEUED)
        async with running(triggers(account, ids)):
            for outage in (1, 2):
                await until(lambda: polls(account) >= 2)
                account.trouble = lambda _: reply(503, {"error": {"message": "kaputt"}})
                await until(lambda n=outage: len(lines(caplog, logging.WARNING)) >= 12 * n)  # type: ignore[misc]
                await asyncio.sleep(0.5)
                assert len(lines(caplog, logging.WARNING)) == 12 * outage
                account.trouble = lambda _: None
                account.seen.clear()

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    for line in lines(caplog, logging.WARNING):
        assert "no usable answer" in line
        assert "kaputt" in line


@all_dialects
@pytest.mark.parametrize("waits", WAITS)
def test_404_after_good_answers_is_waited_out(
    account: Account, reply: type[Any], waits: int, quick_back_off: None
) -> None:
    """A gateway that loses its route for a while is no reason to fail what it served well before."""
    ids = account.add(waits)
    events = asyncio.run(lived_through(account, ids, lambda _: reply(404, {}), 6))
    assert {event["outcome"] for event in events} == {"succeeded"}


@without_rms
@pytest.mark.parametrize("waits", WAITS)
@pytest.mark.parametrize("status", [400, 403])
def test_what_is_refused_for_good_ends_all(
    account: Account, reply: type[Any], waits: int, status: int, quick_back_off: None
) -> None:
    """A disabled account answers 403 to everything: each wait says so, at its next poll, as in poke mode."""

    async def main() -> list[Any]:
        async with running(triggers(account, account.add(waits), started_at=None)) as tasks:
            await until(lambda: polls(account) >= 2)
            account.trouble = lambda _: reply(status, {"error": {"message": "disabled"}})
            return await asyncio.wait_for(asyncio.gather(*tasks), 5)

    for event in asyncio.run(main()):
        assert event["outcome"] == "refused"
        assert str(status) in event["text"]
        assert "disabled" in event["text"]


@all_dialects
def test_one_refused_job_is_no_trouble_of_the_others(
    account: Account, reply: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Asking for it again would bring the same, so its wait ends; the others do not notice."""
    bad, *good = account.add(4)
    account.trouble = lambda seen: reply(400, {}) if account.is_single(seen, bad) else None

    async def main() -> Any:
        async with running(triggers(account, [bad, *good])) as tasks:
            event = await tasks[0]
            before = polls(account)
            await until(lambda: polls(account) >= before + 9)
            assert not any(task.done() for task in tasks[1:])
            return event

    assert asyncio.run(main())["outcome"] == "refused"
    assert not [r for r in caplog.records if r.name == "airflow_ams.triggers.watch"]


@pytest.mark.parametrize("waits", WAITS)
@pytest.mark.parametrize("status", [404, 503])
def test_percent_is_a_nicety(
    account: Account, reply: type[Any], waits: int, status: int, quick_back_off: None
) -> None:
    """Waits end as they should although no percent can be read."""
    account.trouble = lambda seen: reply(status, {}) if seen.path.endswith("Tasks") else None

    async def main() -> list[Any]:
        ids = account.add(waits)
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.paths("Tasks")) >= 3)
            account.put(ids, FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks), 30)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}


@pytest.mark.parametrize("state", [3, 4])
def test_a_job_whose_details_cannot_be_read_has_ended_all_the_same(
    account: Account,
    reply: type[Any],
    state: int,
    quick_back_off: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a while the end counts: outputs are null, with one warning; the reasons are said to lack."""
    monkeypatch.setattr("airflow_ams.triggers.fetches.DETAILS_PATIENCE", 1.0)
    account.trouble = lambda seen: reply(503, {}) if re.search("Tasks|Output", seen.path) else None

    async def main() -> Any:
        (job_id,) = account.add(1, QUEUED)
        async with running(triggers(account, [job_id])) as tasks:
            await until(lambda: len(account.singles()) >= 2)
            account.put([job_id], state)
            return await asyncio.wait_for(tasks[0], 20)

    with caplog.at_level(logging.WARNING):
        event = asyncio.run(main())
    if state == FINISHED:
        assert event["jobs"]["outputs"] is None
        assert len([line for line in lines(caplog, logging.WARNING) if "outputs could not" in line]) == 1
    else:
        assert event["outcome"] == "failed"
        assert "the reasons could not be read" in event["text"]
    assert len(account.paths("Tasks") + account.paths("OutputMediaAssets")) >= 2


@pytest.mark.parametrize("silent", [True, False])
def test_a_log_that_cannot_be_written_harms_nobody_else(account: Account, silent: bool) -> None:
    """What one task's log does with its lines is its own affair: all waits on the job end."""
    from airflow_ams.api.waiting import wait_on
    from airflow_ams.triggers.waiters import Waiter
    from airflow_ams.triggers.watch import job_watch

    def break_down(level: int, line: str) -> None:
        raise OSError("no space left on device")

    async def main() -> None:
        (job_id,) = account.add(1, QUEUED)
        watch = job_watch(account.conn_id)
        says = [break_down, lambda *_: None] if silent else [lambda *_: None, break_down]
        waiters = [Waiter(wait_on(job_id), 0.05, time.time() + 60, say) for say in says]
        for waiter in waiters:
            watch.join(waiter, at_once=True)
        try:
            await until(lambda: len(account.singles()) >= 2)
            account.put([job_id], FINISHED)
            await asyncio.wait_for(asyncio.gather(*(waiter.done for waiter in waiters)), 10)
        finally:
            for waiter in waiters:
                watch.leave(waiter)

    asyncio.run(main())


def test_trouble_is_counted(
    account: Account, reply: type[Any], monkeypatch: pytest.MonkeyPatch, quick_back_off: None
) -> None:
    """Waits, requests, errors and seconds of outage go to Airflow's Stats, with the connection's id."""
    counted: Counter[str] = Counter()
    gauges: dict[str, set[float]] = {}

    class Stats:
        """Takes the place of Airflow's."""

        @staticmethod
        def incr(name: str, count: int = 1, **options: Any) -> None:
            """Count up."""
            assert options == {"tags": {"conn_id": "ams_account"}}
            counted[name] += count

        @staticmethod
        def gauge(name: str, value: float, **options: Any) -> None:
            """Note a value."""
            assert options == {"tags": {"conn_id": "ams_account"}}
            gauges.setdefault(name, set()).add(value)

    monkeypatch.setattr("airflow_ams.triggers.watch.Stats", Stats)
    ids = account.add(3, QUEUED)
    asyncio.run(lived_through(account, ids, lambda _: reply(503, {}), 4))
    assert 0 < counted["ams.watch.requests"] <= len(account.seen)
    assert 0 < counted["ams.watch.errors"] <= 4
    assert 3 in gauges["ams.watch.waits"]
    assert max(gauges["ams.watch.outage_seconds"]) > 0


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
def test_a_fetch_that_hangs_holds_up_nobody(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others end as their jobs do, and the watch rests in between instead of asking what is due."""
    over, rounds, due = threading.Event(), list[float](), Schedule.due

    def counted(self: Schedule, now: float) -> Any:
        rounds.append(now)
        return due(self, now)

    monkeypatch.setattr(Schedule, "due", counted)

    async def main() -> list[str]:
        ids = account.add(3, QUEUED)
        hangs = ids[0]
        account.trouble = lambda seen: over.wait(60) and None if account.is_single(seen, hangs) else None
        async with running(triggers(account, ids, poke_interval=1)) as tasks:
            await until(lambda: len(account.singles(ids[1])) >= 2)
            account.put(ids, FINISHED)
            ended = await asyncio.gather(*tasks[1:])
            assert not tasks[0].done()
        return [event["outcome"] for event in ended]

    try:
        assert asyncio.run(main()) == ["succeeded"] * 2
    finally:
        over.set()
    assert len(rounds) < 40


SLOW_TROUBLE = {
    "refusal": (401, {}),
    "request to stay away": (503, {"Retry-After": "60"}),
    "outage": (503, {}),
}


@pytest.fixture
def slow(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every answer come later than a round waits for it."""
    monkeypatch.setattr("airflow_ams.triggers.fetches.PATIENCE", 0.01)
    account.trouble = lambda _: time.sleep(0.1)


@pytest.mark.parametrize("kind", SLOW_TROUBLE)
def test_what_comes_late_counts_all_the_same(
    account: Account,
    reply: type[Any],
    slow: None,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    quick_back_off: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A refusal ends all, a request to stay away is heard, and an outage is told, however slow they come."""
    monkeypatch.setattr("airflow_ams.triggers.watch.OUTAGE_NOTICE", 0.5)
    status, headers = SLOW_TROUBLE[kind]

    def fail_slowly(_: Any) -> Any:
        time.sleep(0.1)
        return reply(status, {}, headers=headers)

    async def main() -> list[Any]:
        async with running(triggers(account, account.add(3), poke_interval=0.2)) as tasks:
            await until(lambda: polls(account) >= 3)
            account.trouble = fail_slowly
            await asyncio.sleep(2)
            return [task.result()["outcome"] for task in tasks if task.done()]

    with caplog.at_level(logging.WARNING):
        outcomes = asyncio.run(main())
    assert outcomes == (["refused"] * 3 if kind == "refusal" else [])
    told = [line for line in lines(caplog, logging.WARNING) if "no usable answer" in line]
    assert len(told) == (3 if kind == "outage" else 0)
    if kind == "request to stay away":
        asked = polls(account)
        time.sleep(0.5)
        assert polls(account) == asked <= 12


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_a_list_that_hangs_holds_up_no_last_look(account: Account) -> None:
    """Where a job stands when its wait's time is over is asked for by itself."""
    over = threading.Event()

    async def main() -> list[str]:
        ids = account.add(20, QUEUED)
        soon = triggers(account, ids[:1], poke_interval=1, deadline=time.time() + 5)
        async with running([*soon, *triggers(account, ids[1:], poke_interval=1)]) as tasks:
            await until(lambda: len(account.lists()) >= 2)
            account.trouble = lambda seen: over.wait(60) and None if account.is_list(seen) else None
            before = len(account.lists())
            await until(lambda: len(account.lists()) > before)
            account.put(ids, FINISHED)
            event = await asyncio.wait_for(tasks[0], 10)
            assert len(account.singles()) == 1
            assert not any(task.done() for task in tasks[1:])
            over.set()
            return [event["outcome"] for event in [event, *await asyncio.gather(*tasks[1:])]]

    try:
        assert asyncio.run(main()) == ["succeeded"] * 20
    finally:
        over.set()


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_a_sweep_that_breaks_off_goes_on_where_it_was(
    account: Account, reply: type[Any], quick_back_off: None
) -> None:
    """Of many pages not all are read again because one cannot be; else bad times would end all sweeps."""
    failing = [503, 503, 503]

    def fail(seen: Any) -> Any:
        is_second = account.is_list(seen) and skipped(seen.query) == 1000
        return reply(failing.pop(), {}) if is_second and failing else None

    account.trouble = fail

    async def main() -> None:
        ids = account.add(2500)
        async with running(triggers(account, ids, poke_interval=60, started_at=None)):
            await until(lambda: 2000 in map(skipped, account.lists()))

    asyncio.run(main())
    assert [*map(skipped, account.lists())] == [0, 1000, 1000, 1000, 1000, 2000]


def test_the_list_is_not_believed_about_an_end(account: Account, reply: type[Any]) -> None:
    """A gateway that drops the filter lists jobs that have ended, too; why, only a job itself tells."""
    ids = account.add(12)

    def unfiltered(seen: Any) -> Any:
        if not account.is_list(seen):
            return None
        rows = [{"Id": job_id, "Name": "Encode", "State": account.states[job_id]} for job_id in ids]
        return reply(200, {"value": rows})

    async def main() -> list[Any]:
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.lists()) >= 2)
            account.put(ids, ERROR)
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    account.trouble = unfiltered
    events = asyncio.run(main())
    assert {event["text"].rpartition(": ")[2] for event in events} == {"bad"}


@all_dialects
@pytest.mark.parametrize("waits", WAITS)
def test_404_is_waited_out_where_a_worker_had_an_answer(
    account: Account, reply: type[Any], waits: int, quick_back_off: None
) -> None:
    """A triggerer that starts while a gateway is being replaced fails nobody."""
    account.trouble = lambda _: reply(404, {})

    async def main() -> list[Any]:
        ids = account.add(waits, FINISHED)
        async with running(triggers(account, ids)) as tasks:
            # Sign-ins are refused as well.
            await until(lambda: len(account.seen) >= 5)
            account.trouble = lambda _: None
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}


@pytest.fixture
def page(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Let the second page of a list hang, once; return what is set when it does, and what lets it go on."""
    monkeypatch.setattr("airflow_ams.api.v2.PAGE", 10)
    account.page_size = 10
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(seen: Any) -> None:
        if account.is_list(seen) and skipped(seen.query) == 10 and not hangs.is_set():
            hangs.set()
            goes_on.wait(30)

    account.trouble = hang
    yield hangs, goes_on
    goes_on.set()


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_an_old_page_says_nothing_about_the_queue(
    account: Account, page: tuple[threading.Event, threading.Event]
) -> None:
    """A job that was queued when a long list began may run by now; its wait must not end for that."""
    hangs, goes_on = page
    ids = account.add(20)
    account.put(ids[:1], QUEUED)

    async def main() -> None:
        limit = time.time() - 1767225600 + 1
        waits = triggers(account, ids, poke_interval=1, started_at=None, queue_timeout=limit)
        async with running(waits) as tasks:
            await until(hangs.is_set)
            account.put(ids[:1], PROCESSING)
            await asyncio.sleep(1.5)
            goes_on.set()
            await until(lambda: len(account.lists()) >= 6)
            assert not tasks[0].done()

    asyncio.run(main())


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_a_last_look_is_newer_than_the_list_under_way(
    account: Account, page: tuple[threading.Event, threading.Event]
) -> None:
    """What the list has said before somebody came to be in a hurry is no last look."""
    hangs, goes_on = page
    ids = account.add(20)

    async def main() -> Any:
        soon = triggers(account, ids[:1], poke_interval=30, started_at=None, deadline=time.time() + 3.1)
        rest = triggers(account, ids[1:], poke_interval=30, started_at=None)
        async with running([*soon, *rest]) as tasks:
            await until(hangs.is_set)
            account.put(ids[:1], FINISHED)
            # The last look falls due after 1.1 s.
            await asyncio.sleep(1.3)
            goes_on.set()
            return await asyncio.wait_for(tasks[0], 10)

    assert asyncio.run(main())["outcome"] == "succeeded"


def test_a_list_that_outlasts_the_interval_costs_no_fetches(account: Account) -> None:
    """All jobs are due again when it ends; the next list reads them."""
    account.trouble = lambda seen: time.sleep(1.3) if account.is_list(seen) else None

    async def main() -> None:
        async with running(triggers(account, account.add(30), poke_interval=1, started_at=None)):
            await until(lambda: len(account.lists()) >= 4)

    asyncio.run(main())
    assert account.singles() == []


def test_errors_that_come_late_bring_no_more_requests(
    account: Account, reply: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier round did not wait for is judged, but nothing is read before its time."""
    monkeypatch.setattr("airflow_ams.triggers.fetches.PATIENCE", 0.05)
    asked: list[float] = []

    def fail_some_late(seen: Any) -> Any:
        if account.is_list(seen):
            return reply(400, {})
        if "Id eq" in seen.query:
            asked.append(time.monotonic())
            if len(asked) % 20 == 0:
                time.sleep(0.3)
                return reply(503, {})
        return None

    async def main() -> None:
        async with running(triggers(account, account.add(200), poke_interval=1, started_at=None)):
            await until(lambda: len(asked) >= 120)

    account.trouble = fail_some_late
    asyncio.run(main())
    windows = [sum(at <= other < at + 0.9 for other in asked) for at in asked]
    assert max(windows) <= 32
