"""All waits on a connection share one poll: what it asks for, and how often."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.account import ERROR, FINISHED, PROCESSING, QUEUED, Account, V2Account
from tests.integration.account_v3 import ArmAccount, MkioAccount, RmsAccount, V3Account
from tests.integration.waits import all_dialects, fired, lines, running, skipped, trigger, until

SWEEP = (
    "/api/Jobs()?$filter=State%20le%202%20or%20State%20eq%206&$orderby=Created"
    "&$select=Id,Name,State,Created&$top=1000&$skip=0"
)
ACTIVE = ("Processing", "Queued", "Scheduled", "Canceling")
TYPED = " or ".join(f"properties/state eq Microsoft.Media.JobState'{state}'" for state in ACTIVE)
PLAIN = " or ".join(f"properties/state eq '{state}'" for state in ACTIVE)
ARM = "/subscriptions/S/resourceGroups/R/providers/Microsoft.Media/mediaServices/A/transforms/Encode/jobs"
SWEEPS = {
    V2Account: SWEEP,
    ArmAccount: f"{ARM}?api-version=2022-07-01&$filter={quote(TYPED, safe='')}",
    RmsAccount: f"{ARM}?api-version=2022-07-01&$filter={quote(TYPED, safe='')}",
    MkioAccount: f"/api/v1/projects/P/media/jobs?$filter={quote(PLAIN, safe='')}&$top=1000",
}
"""What is asked for to read many jobs at once."""


def triggers(account: Account, ids: list[str], **arguments: Any) -> list[Any]:
    """Make a wait on each of the jobs."""
    return [trigger(job_id, account.conn_id, **arguments) for job_id in ids]


@all_dialects
def test_many_waits_cost_one_request_a_round(account: Account) -> None:
    """The complaint: rate limits. Thirty waits make one list, and read one percent; what left is fetched."""

    async def main() -> list[Any]:
        ids = account.add(30)
        async with running(triggers(account, ids, poke_interval=0.3, started_at=None)) as tasks:
            await until(lambda: len(account.lists()) >= 4)
            assert account.singles() == []
            account.put(ids[:3], FINISHED)
            account.put(ids[3:5], ERROR)
            return await asyncio.gather(*tasks[:5])

    events = asyncio.run(main())
    assert [event["outcome"] for event in events] == ["succeeded"] * 3 + ["failed"] * 2
    assert "E1: bad" in events[4]["text"]
    assert {seen.target for seen in account.seen if account.is_list(seen)} == {SWEEPS[type(account)]}
    assert len(account.singles()) == 5
    if isinstance(account, V2Account):
        assert len(account.paths("OutputMediaAssets")) == 3
        assert len(account.paths("Tasks")) <= len(account.lists()) + 2


@all_dialects
@pytest.mark.parametrize("waits", [1, 8])
def test_few_waits_are_fetched_singly(account: Account, waits: int) -> None:
    """A list would cost more than it saves."""

    async def main() -> None:
        async with running(triggers(account, account.add(waits))):
            await until(lambda: len(account.singles()) >= 3 * waits)

    asyncio.run(main())
    assert account.lists() == []


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_a_crowded_account_is_not_read_for_a_few(account: Account) -> None:
    """Ten waits among three thousand jobs: two pages are tried, then the jobs are fetched singly."""
    account.add(2995)

    async def main() -> list[Any]:
        ids = account.add(10)
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.singles()) >= 40)
            account.put(ids, FINISHED)
            return await asyncio.gather(*tasks)

    assert [event["outcome"] for event in asyncio.run(main())] == ["succeeded"] * 10
    assert len(account.lists()) == 2


def test_pages_are_read_to_the_end(account: Account) -> None:
    """The next page is read while one comes back full: 2,000 jobs take three, the last of them empty."""
    ids = account.add(2000)

    async def main() -> None:
        # One job that is not in the list keeps the sweep from ending early.
        async with running(triggers(account, [*ids[::25], *account.add(1, 9)], poke_interval=0.2)):
            await until(lambda: len(account.lists()) >= 3)

    asyncio.run(main())
    skips = [query.rpartition("=")[2] for query in account.lists()]
    assert skips[:3] == ["0", "1000", "2000"]


@all_dialects
def test_paging_ends_when_all_jobs_were_seen(account: Account) -> None:
    """What lies behind the last of the waits' own jobs is not read."""
    ids = account.add(40)
    account.add(2500)

    async def main() -> None:
        async with running(triggers(account, ids)):
            await until(lambda: len(account.lists()) >= 5)

    asyncio.run(main())
    assert set(map(skipped, account.lists())) == {0}
    # On a slow machine a few of them may join by themselves, and are few then.
    assert len(account.singles()) <= 8


@all_dialects
def test_a_job_that_moves_between_pages_has_not_finished(account: Account) -> None:
    """While pages are being read, jobs end and the others move up, unread: these are asked for, not lost."""
    strangers = account.add(500)
    ids = account.add(1000)
    watched = ids[480:540]

    def end_some(seen: Any) -> None:
        if account.is_list(seen) and skipped(seen.query) == 1000:
            account.put(strangers[:20], FINISHED)

    account.trouble = end_some

    async def main() -> list[Any]:
        async with running(triggers(account, watched, poke_interval=0.3, started_at=None)) as tasks:
            await until(lambda: len(account.lists()) >= 2 and len(account.singles()) >= 20)
            assert not any(task.done() for task in tasks)
            account.trouble = lambda _: None
            account.put(watched, FINISHED)
            return await asyncio.gather(*tasks)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}


@pytest.mark.parametrize(
    ("refused", "form"),
    [
        (r"\$select", {"$filter=State le 2 or State eq 6&$orderby=Created"}),
        (r"\$orderby", {"$filter=State le 2 or State eq 6&$select=Id,Name,State,Created"}),
        (r"\$(select|orderby)", {"$filter=State le 2 or State eq 6"}),
        (
            "State le",
            {f"$filter=State eq {n}&$orderby=Created&$select=Id,Name,State,Created" for n in (0, 1, 2, 6)},
        ),
        (r"State le|\$orderby|\$select", {f"$filter=State eq {n}" for n in (0, 1, 2, 6)}),
        ("State", set()),
    ],
)
def test_a_refused_form_is_not_tried_again(
    account: Account, reply: type[Any], refused: str, form: set[str]
) -> None:
    """The next best form is; the refusal is remembered for the watch's life, and fails no wait."""
    refusals: list[str] = []

    def refuse(seen: Any) -> Any:
        if not account.is_list(seen) or not re.search(refused, seen.query):
            return None
        refusals.append(seen.query)
        # 501 is how a gateway says that it never heard of such a thing.
        status = 501 if "select" in seen.query else 400
        return reply(status, {"odata.error": {"code": "", "message": {"value": "No such form"}}})

    account.trouble = refuse

    async def main() -> list[Any]:
        ids = account.add(34)
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.lists() if form else account.singles()) - len(refusals) >= 9)
            account.put(ids, FINISHED)
            return await asyncio.gather(*tasks)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}
    assert len(refusals) == len(set(refusals)) <= 8
    taken = [query.partition("&$top")[0] for query in account.lists() if query not in refusals]
    assert set(taken) == form


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
def test_single_fetches_have_a_budget(account: Account, reply: type[Any]) -> None:
    """Twenty a second, when a hundred jobs are due all the time and every form of list is refused."""
    account.trouble = lambda seen: reply(400, {}) if account.is_list(seen) else None

    async def main() -> float:
        async with running(triggers(account, account.add(100), started_at=None)):
            await until(account.singles)
            began = time.monotonic()
            await until(lambda: len(account.singles()) >= 40)
            return time.monotonic() - began

    seconds = asyncio.run(main())
    assert len(account.singles()) <= 20 * seconds + 41
    assert len(set(account.singles())) >= 40, "each has its turn"


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_slower_waits_cost_no_request_of_their_own(account: Account) -> None:
    """In one watch, the list that the fastest ask for answers the others, too."""

    async def main() -> float:
        fast, slow = account.add(10), account.add(10)
        began = time.monotonic()
        async with running(
            [
                *triggers(account, fast, poke_interval=0.5),
                *triggers(account, slow, poke_interval=1.3, started_at=None),
            ]
        ):
            await until(lambda: len(account.lists()) >= 6)
        return time.monotonic() - began

    seconds = asyncio.run(main())
    # The slow ones' first poll is at once; after that the shortest interval rules, of which a quarter may be
    # saved to read jobs together.
    assert len(account.lists()) <= 2 + seconds / (0.5 * 0.75)
    assert account.singles() == []


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
def test_each_interval_is_honoured(account: Account) -> None:
    """Jobs that are fetched singly are fetched as often as their own waits ask for."""

    async def main() -> float:
        fast, slow = account.add(2, QUEUED)
        began = time.monotonic()
        both = [
            trigger(fast, account.conn_id, poke_interval=0.2),
            trigger(slow, account.conn_id, poke_interval=1.5, started_at=None),
        ]
        async with running(both):
            await until(lambda: len(account.singles(fast)) >= 12)
        seconds = time.monotonic() - began
        assert len(account.singles(slow)) <= 1 + seconds / (1.5 * 0.75)
        return seconds

    asyncio.run(main())


@all_dialects
def test_two_waits_on_one_job_are_one_request(account: Account) -> None:
    """Both hear of its end; the smaller interval counts."""

    async def main() -> list[Any]:
        (job_id,) = account.add(1, QUEUED)
        began = time.monotonic()
        pair = [
            trigger(job_id, account.conn_id, poke_interval=0.2),
            trigger(job_id, account.conn_id, poke_interval=30, started_at=None),
        ]
        async with running(pair) as tasks:
            await until(lambda: len(account.singles()) >= 5)
            assert len(account.singles()) <= 2 + (time.monotonic() - began) / (0.2 * 0.5)
            account.put([job_id], FINISHED)
            return await asyncio.gather(*tasks)

    first, second = asyncio.run(main())
    assert first == second
    assert len(account.paths("OutputMediaAssets")) == isinstance(account, V2Account)


@all_dialects
def test_ids_in_any_writing_are_one_job(account: Account) -> None:
    """An id that was pasted from a URL, or in other case, or in full, is watched as the same job."""

    async def main() -> list[Any]:
        (job_id,) = account.add(1, QUEUED)
        written = [job_id, quote(job_id, safe=""), f" {job_id} "]
        if isinstance(account, V3Account):
            written.append(account._resource_id(*job_id.split("/")))
        else:
            written.append(job_id.upper())
        async with running(triggers(account, written)) as tasks:
            await until(lambda: len(account.singles()) >= 2)
            account.put([job_id], FINISHED)
            return await asyncio.gather(*tasks)

    assert len({event["jobs"]["id"] for event in asyncio.run(main())}) == 1
    assert len(account.paths("OutputMediaAssets")) == isinstance(account, V2Account)


@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_newcomers_are_read_after_one_interval_at_most(account: Account) -> None:
    """Their first poll comes half an interval after the worker's at the earliest, whoever else waits."""

    async def main() -> None:
        early = account.add(20)
        async with running(triggers(account, early, poke_interval=0.2)):
            await until(lambda: len(account.lists()) >= 2)
            (late,) = account.add(1, 9)
            came = time.monotonic()
            async with running([trigger(late, account.conn_id, poke_interval=2)]):
                await until(lambda: account.singles(late))
                assert time.monotonic() - came >= 1.0
                lists = len(account.lists())
                await until(lambda: len(account.lists()) > lists + 2)
                assert len(account.singles(late)) == 1

    asyncio.run(main())


def test_percent_is_read_in_turn(account: Account) -> None:
    """One job's a round, so that each of many has its turn, however many wait."""

    async def main() -> None:
        queued, working = account.add(5, QUEUED), account.add(12)
        async with running(triggers(account, [*queued, *working])):
            await until(lambda: len(account.paths("Tasks")) >= 24)
        turns = account.paths("Tasks")
        assert set(turns[:12]) == set(turns[12:24]) == set(working)
        assert len(turns) <= len(account.lists())

    asyncio.run(main())


def test_a_line_says_how_old_its_percent_is(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    """Percent is read in turn while many wait; those who join are told what is known, and since when."""
    standing = r"Job .* is Processing, 40 % \(Encode: Processing 40 %\)"

    async def main() -> None:
        ids = account.add(12)
        async with running(triggers(account, ids, poke_interval=0.3)):
            await until(lambda: set(account.paths("Tasks")) == set(ids))
            caplog.clear()
            async with running(triggers(account, ids, started_at=None)):
                await until(lambda: [line for line in lines(caplog) if "as of" in line])

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    for line in lines(caplog):
        assert re.fullmatch(rf"{standing}(, as of [1-9]\d* s ago)?", line)


def test_a_long_silence_is_broken(
    account: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task's log repeats itself after a while: five minutes, which are shortened here."""
    monkeypatch.setattr("airflow_ams.triggers.waiters.HEARTBEAT", 0.3)
    monkeypatch.setattr("airflow_ams.api.waiting.SILENCE", 0.5)

    async def main() -> None:
        ids = [*account.add(12, QUEUED)]
        async with running([*triggers(account, ids), trigger(ids, account.conn_id)]):
            await until(lambda: len(lines(caplog)) >= 13 * 3)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    said = Counter(lines(caplog))
    assert len(said) == 13, "twelve jobs and a list of them"
    assert min(said.values()) >= 2
    assert "0 of 12 jobs have finished, 12 Queued" in said


@all_dialects
def test_an_unknown_state_is_waited_through(account: Account) -> None:
    """It is not in the list of the active jobs, so it is fetched, once an interval."""

    async def main() -> list[Any]:
        strange, ids = account.add(2, 9), account.add(12)
        began = time.monotonic()
        async with running(triggers(account, [*strange, *ids], poke_interval=0.2)) as tasks:
            await until(lambda: len(account.lists()) >= 8)
            seconds = time.monotonic() - began
            for job_id in strange:
                assert 0 < len(account.singles(job_id)) <= 2 + seconds / (0.2 * 0.5)
            assert not any(task.done() for task in tasks)
            account.put(strange, FINISHED)
            return await asyncio.gather(*tasks[:2])

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}


@all_dialects
def test_a_job_that_reappears_in_the_list_is_followed(account: Account) -> None:
    """Jobs that were read singly while few waited are read by the list once many do."""

    async def main() -> list[Any]:
        few = account.add(3)
        async with running(triggers(account, few, poke_interval=0.1)) as tasks:
            await until(lambda: len(account.singles()) >= 6)
            async with running(triggers(account, account.add(20))):
                await until(lambda: len(account.lists()) >= 3)
                before = len(account.singles())
                await until(lambda: len(account.lists()) >= 8)
                assert len(account.singles()) == before
                account.put(few, FINISHED)
                return await asyncio.gather(*tasks)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}


def test_a_trigger_that_is_run_twice_fires_twice(account: Account) -> None:
    """Two triggerers may run the same trigger for a moment; neither disturbs the other."""

    async def main() -> list[Any]:
        (job_id,) = account.add(1, PROCESSING)
        one = trigger(job_id, account.conn_id)
        both = [asyncio.ensure_future(fired(one)), asyncio.ensure_future(fired(one))]
        await until(lambda: len(account.singles()) >= 2)
        account.put([job_id], FINISHED)
        return await asyncio.gather(*both)

    first, second = asyncio.run(main())
    assert first == second
