"""The watch on services of v3: what their lists tell, several transforms, and limits of how fast to read."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.account import ERROR, FINISHED, PROCESSING, QUEUED, Account
from tests.integration.account_v3 import V3Account
from tests.integration.waits import lines, running, trigger, until

all_v3 = pytest.mark.parametrize("account", ["arm", "mkio"], indirect=True)
"""RMS has the wire of ARM; the tests of all dialects have it, too."""

with_transforms = pytest.mark.parametrize("account", ["arm"], indirect=True)
"""Lists the jobs of one transform at a time."""

only_mkio = pytest.mark.parametrize("account", ["mkio"], indirect=True)


def triggers(account: Account, ids: list[str], **arguments: Any) -> list[Any]:
    """Make a wait on each of the jobs."""
    return [trigger(job_id, account.conn_id, **arguments) for job_id in ids]


def lists_of(account: Account) -> Counter[str]:
    """Count the requests for lists by transform."""
    paths = [seen.path for seen in list(account.seen) if account.is_list(seen)]
    return Counter(path.split("/")[-2] for path in paths)


def transforms_of(paths: list[str]) -> set[str]:
    """Return the transforms whose jobs these are."""
    return {path.split("/")[-3] for path in paths}


def most(seconds: float, interval: float) -> float:
    """Return how often a job may have been read: up to a quarter early, to be read with others."""
    return 3 + seconds / (interval * 0.75)


# -- percent


@all_v3
def test_percent_comes_with_the_list(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    """It costs no request, is logged as it moves, and is never old."""

    async def main() -> None:
        ids = account.add(12)
        async with running(triggers(account, ids, poke_interval=0.2, started_at=None)):
            for percent in (41, 57, 90):
                account.progress = dict.fromkeys(ids, percent)
                said = [f"Job {job_id} is Processing, {percent} %" for job_id in ids]
                await until(lambda said=said: set(said) <= set(lines(caplog)))  # type: ignore[misc]

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert account.singles() == []
    assert "as of" not in caplog.text


@all_v3
def test_a_percent_in_the_list_is_not_old_because_it_has_not_moved(
    account: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of jobs that were fetched singly before, and beside transforms that are not worth a list."""
    monkeypatch.setattr("airflow_ams.triggers.waiters.HEARTBEAT", 1.5)
    monkeypatch.setattr("airflow_ams.api.waiting.SILENCE", 0.1)

    async def main() -> None:
        few, more, others = account.add(3), account.add(9), account.add(3, QUEUED, "Other")
        async with running(triggers(account, few, poke_interval=0.2)):
            await until(lambda: len(account.singles()) >= 6)
            async with running(triggers(account, [*more, *others], poke_interval=0.2)):
                await until(lambda: len(account.lists()) >= 2)
                caplog.clear()
                await until(lambda: all(len(about(caplog, job_id)) >= 2 for job_id in [*few, *more]))

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert "as of" not in caplog.text


def about(caplog: pytest.LogCaptureFixture, job_id: str) -> list[str]:
    """Return what was said of a job."""
    return [line for line in lines(caplog) if job_id in line]


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
def test_percent_is_read_in_turn_where_jobs_are_fetched(
    account: Account, reply: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a list these say only where a job stands; the percent of each has its turn all the same."""
    account.trouble = lambda seen: reply(400, {}) if account.is_list(seen) else None

    async def main() -> None:
        ids = account.add(9)
        async with running(triggers(account, ids, poke_interval=0.2)):
            await until(lambda: len(account.singles()) >= 18)
            account.progress = dict.fromkeys(ids, 77)
            await until(lambda: all("77 %" in "".join(about(caplog, job_id)) for job_id in ids))

    with caplog.at_level(logging.INFO):
        asyncio.run(main())


# -- transforms


@with_transforms
def test_only_transforms_with_many_jobs_are_listed(account: Account) -> None:
    """The jobs of the others are fetched, in the same round; each job is read once an interval."""

    async def main() -> float:
        ids = {name: account.add(count, transform=name) for name, count in SIZES.items()}
        began = time.monotonic()
        async with running(
            triggers(account, [*chain(*ids.values())], poke_interval=0.4, started_at=None)
        ) as tasks:
            await until(lambda: len(account.lists()) >= 12)
            seconds = time.monotonic() - began
            for job_id in [*ids["Small"], *ids["Single"]]:
                assert 3 <= len(account.singles(job_id)) <= most(seconds, 0.4)
            # Read once, since more come while they are looked at.
            assert transforms_of(account.singles()) == {"Small", "Single"}
            for states in ids.values():
                account.put(states, FINISHED)
            events = await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert {event["outcome"] for event in events} == {"succeeded"}
        return seconds

    SIZES = {"Large": 30, "Enough": 9, "Small": 8, "Single": 1}
    seconds = asyncio.run(main())
    counted = lists_of(account)
    assert set(counted) == {"Large", "Enough"}
    assert max(counted.values()) <= most(seconds + 5, 0.4)


@with_transforms
def test_a_list_is_read_as_often_as_its_own_waits_ask(account: Account) -> None:
    """Waits on one transform that are in a hurry have no other transform's jobs read."""

    async def main() -> float:
        slow, fast = account.add(30, transform="Slow"), account.add(12, transform="Fast")
        slow_waits = triggers(account, slow, poke_interval=5, started_at=None)
        began = time.monotonic()
        async with running([*slow_waits, *triggers(account, fast, poke_interval=0.2, started_at=None)]):
            await until(lambda: lists_of(account)["Fast"] >= 15)
        return time.monotonic() - began

    seconds = asyncio.run(main())
    assert lists_of(account)["Slow"] <= most(seconds, 5)
    assert account.singles() == []


@with_transforms
def test_a_list_is_read_no_more_often_because_others_are_fetched(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more due in small transforms than a second allows, there is something due all the time."""
    monkeypatch.setattr("airflow_ams.triggers.fetches.FETCHES_PER_SECOND", 10.0)

    async def main() -> float:
        small = [*chain(*(account.add(5, transform=f"Small{n}") for n in range(20)))]
        large = account.add(20, transform="Large")
        began = time.monotonic()
        async with running(triggers(account, [*large, *small], poke_interval=4, started_at=None)):
            await until(lambda: len(account.singles()) >= 60)
        return time.monotonic() - began

    seconds = asyncio.run(main())
    assert 1 <= lists_of(account)["Large"] <= most(seconds, 4)
    assert not set(lists_of(account)) - {"Large"}


@with_transforms
def test_a_slow_wait_is_not_forgotten_beside_fast_ones(account: Account) -> None:
    """A job that was fetched, and found active, leaves a list that is read oftener than its wait asks for."""

    async def main() -> Any:
        (slow,) = account.add(1)
        async with running(triggers(account, [slow], poke_interval=2, started_at=None)) as tasks:
            await until(account.singles)
            await asyncio.sleep(0.1)
            others = [*account.add(12), *account.add(3, transform="Other")]
            async with running(triggers(account, others, poke_interval=0.2)):
                await until(lambda: len(account.lists()) >= 3)
                account.put([slow], FINISHED)
                return await asyncio.wait_for(tasks[0], 8)

    assert asyncio.run(main())["outcome"] == "succeeded"


@with_transforms
def test_jobs_that_are_in_no_list_are_fetched_once_an_interval(account: Account) -> None:
    """Their state is unknown; the list of their transform is read oftener than they are asked for."""

    async def main() -> None:
        strange = account.add(2, 9)
        others = [*account.add(12), *account.add(3, transform="Other")]
        began = time.monotonic()
        slow = triggers(account, strange, poke_interval=1, started_at=None)
        async with running([*slow, *triggers(account, others, poke_interval=0.2)]) as tasks:
            await until(lambda: len(account.lists()) >= 14)
            seconds = time.monotonic() - began
            for job_id in strange:
                assert seconds / 2 <= len(account.singles(job_id)) <= most(seconds, 1)
            account.put(strange, FINISHED)
            ended = await asyncio.wait_for(asyncio.gather(*tasks[:2]), 10)
        assert {event["outcome"] for event in ended} == {"succeeded"}

    asyncio.run(main())


@with_transforms
def test_a_list_that_outlasts_the_interval_costs_no_fetches_of_its_jobs(account: Account) -> None:
    """They are due again when it ends, as are those of a small transform, and only these are fetched."""
    account.trouble = lambda seen: time.sleep(1.3) if account.is_list(seen) else None

    async def main() -> None:
        many, few = account.add(30), account.add(2, transform="Other")
        async with running(triggers(account, [*many, *few], poke_interval=1, started_at=None)):
            await until(lambda: len(account.lists()) >= 4)
        assert transforms_of(account.singles()) == {"Other"}

    asyncio.run(main())


@with_transforms
def test_a_transform_that_is_not_there_harms_no_other(
    account: V3Account, caplog: pytest.LogCaptureFixture, quick_back_off: None
) -> None:
    """Ten waits name a wrong one: they end as with an unknown job, and the other's list goes on."""

    def no_such_transform(seen: Any) -> Any:
        if "/Wrong/" not in seen.path:
            return None
        return account._refuse(404, "NotFound", "The requested resource was not found.")

    account.trouble = no_such_transform
    wrong = [f"Wrong/{number}" for number in range(10)]

    async def main() -> list[Any]:
        good = account.add(12)
        waits = triggers(account, wrong, poke_interval=0.2, not_found_grace=1)
        async with running([*triggers(account, good, poke_interval=0.2), *waits]) as tasks:
            missed = await asyncio.wait_for(asyncio.gather(*tasks[12:]), 20)
            await until(lambda: lists_of(account)["Encode"] >= 8)
            assert not set(good) & {job_id for job_id in good if account.singles(job_id)}
            account.put(good, FINISHED)
            ended = await asyncio.wait_for(asyncio.gather(*tasks[:12]), 20)
        assert {event["outcome"] for event in ended} == {"succeeded"}
        return missed

    with caplog.at_level(logging.INFO):
        assert {event["outcome"] for event in asyncio.run(main())} == {"not_found"}
    assert not [r for r in caplog.records if r.name == "airflow_ams.triggers.watch"]


# -- how a list is asked for


@all_v3
def test_ids_in_another_case_are_found_in_the_list(account: Account) -> None:
    """Services do not tell names by it; the document has the id as the wait gave it."""

    async def main() -> list[Any]:
        ids = account.add(12)
        given = [job_id.upper() if n % 2 else job_id.lower() for n, job_id in enumerate(ids)]
        async with running(triggers(account, given, started_at=None)) as tasks:
            await until(lambda: len(account.lists()) >= 5)
            assert account.singles() == []
            account.put(ids, FINISHED)
            events = await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert [event["jobs"]["id"] for event in events] == given
        return events

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}


@all_v3
def test_a_filter_that_shows_nothing_is_given_up(
    account: V3Account, caplog: pytest.LogCaptureFixture
) -> None:
    """A service may take a literal that it does not understand: one fetch shows that; no wait suffers."""

    first: list[str] = []

    def match_nothing(seen: Any) -> Any:
        if not account.is_list(seen):
            return None
        first.append(seen.target)
        return account._said({"value": []}) if seen.target == first[0] else None

    account.trouble = match_nothing

    async def main() -> list[Any]:
        ids = account.add(12)
        began = time.monotonic()
        async with running(triggers(account, ids, poke_interval=0.2)) as tasks:
            await until(lambda: len(account.lists()) >= 11)
            seconds = time.monotonic() - began
            assert max(len(account.singles(job_id)) for job_id in ids) <= most(seconds, 0.2)
            before = len(account.singles())
            lists = len(account.lists())
            await until(lambda: len(account.lists()) >= lists + 4)
            assert len(account.singles()) == before
            account.put(ids, FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}
    assert first.count(first[0]) == 1
    assert lines(caplog, logging.WARNING) == []


@pytest.mark.parametrize(
    ("account", "status", "forms"), [("arm", 400, 4), ("arm", 501, 4), ("mkio", 422, 5)], indirect=["account"]
)
@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_refused_form_is_not_tried_again(
    account: V3Account, monkeypatch: pytest.MonkeyPatch, status: int, forms: int, left: int
) -> None:
    """The next best one is; the last lists all jobs there are, and after it there are single fetches only."""
    refusals: list[str] = []

    def refuse(seen: Any) -> Any:
        if account.is_list(seen) and (len(refusals) < forms - left or seen.target in refusals):
            refusals.append(seen.target)
            return account._refuse(status, "BadRequest", "No such form")
        return None

    # Any form that is not refused is understood.
    monkeypatch.setattr(account, "literal", r"(?:Microsoft\.Media\.JobState)?'(\w+)'")
    account.trouble = refuse

    async def main() -> list[Any]:
        ids = account.add(12)
        async with running(triggers(account, ids, started_at=None)) as tasks:
            read = account.lists if left else account.singles
            await until(lambda: len(read()) >= forms + 16)
            assert not left or account.singles() == []
            account.put(ids[:1], ERROR)
            account.put(ids[1:], FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    failed, *others = asyncio.run(main())
    assert "E1: bad" in failed["text"]
    assert {event["outcome"] for event in others} == {"succeeded"}
    assert len(refusals) == len(set(refusals)) == forms - left


LINKS: dict[str, Callable[[str, str], str]] = {
    "absolute": lambda base, path: base + path,
    "relative": lambda _, path: f"/{path}",
    "encoded as a whole": lambda _, path: quote(f"/{path}", safe=""),
    "to another host": lambda _, path: f"OTHER{path}",
}
"""How a service may write where the next page is, given its base and the rest."""


@only_mkio
@pytest.mark.parametrize("form", LINKS)
def test_next_pages_are_read_from_the_service_itself(
    account: V3Account,
    service: Callable[..., Any],
    reply: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    """However the link is written; where it leads elsewhere, the token does not follow."""
    stranger = service(lambda _: reply(500, {}))
    said, link = account._said, "@odata.nextLink"

    def rewritten(document: dict[str, Any]) -> Any:
        if link in document:
            path = document[link].removeprefix(account.base_url)
            document[link] = LINKS[form](account.base_url, path).replace("OTHER", stranger.url)
        return said(document)

    monkeypatch.setattr(account, "_said", rewritten)
    account.page_size = 10

    async def main() -> list[Any]:
        ids = account.add(35)
        async with running(triggers(account, ids, poke_interval=0.2, started_at=None)) as tasks:
            await until(lambda: len(account.lists()) >= 12)
            assert account.singles() == []
            account.put(ids, FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}
    tokens = [re.findall(r"skiptoken=(\d+)", query) for query in account.lists()]
    assert tokens[:8] == [[], ["10"], ["20"], ["30"]] * 2
    assert stranger.seen == []


# -- outputs


@all_v3
@pytest.mark.parametrize("waits", [1, 12])
def test_a_finished_job_whose_output_failed_has_failed(
    account: V3Account, monkeypatch: pytest.MonkeyPatch, waits: int
) -> None:
    """The service calls the job Finished if the transform lets it go on; its output tells why it failed."""
    ids = account.add(waits)
    fail_output(account, ids[0], monkeypatch)

    async def main() -> list[Any]:
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.lists()) >= 2 or len(account.singles()) >= 2 * waits)
            account.put(ids, FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    failed, *others = asyncio.run(main())
    assert failed["outcome"] == "failed"
    for words in (ids[0], "finished, but", "E7: broken", "Content", "DoNotRetry", "Preset_0"):
        assert words in failed["text"]
    assert {event["outcome"] for event in others} <= {"succeeded"}


@all_v3
@pytest.mark.parametrize("fails", [False, True])
def test_a_long_list_leaves_outputs_out_but_looks_at_them(
    account: V3Account, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Of 150 jobs no outputs go into XCom; that one of them has failed is seen all the same."""
    ids = account.add(150)
    if fails:
        fail_output(account, ids[77], monkeypatch)

    async def main() -> Any:
        async with running([trigger(ids, account.conn_id)]) as tasks:
            await until(lambda: len(account.lists()) >= 2)
            account.put(ids, FINISHED)
            return await asyncio.wait_for(tasks[0], 30)

    event = asyncio.run(main())
    if fails:
        assert event["outcome"] == "failed"
        assert f"Job {ids[77]} finished, but" in event["text"]
    else:
        assert [job["id"] for job in event["jobs"]] == ids
        assert {job["outputs"] for job in event["jobs"]} == {None}


def fail_output(account: V3Account, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a job's output fail although the job finishes."""
    row = account._row

    def failed(asked: str) -> dict[str, Any]:
        made = row(asked)
        if asked == job_id and account.states[asked] == FINISHED:
            error = {"code": "E7", "message": "broken", "category": "Content", "retry": "DoNotRetry"}
            made["properties"]["outputs"][0] |= {"state": "Error", "error": error}
        return made

    monkeypatch.setattr(account, "_row", failed)


# -- single fetches, and how fast


@pytest.fixture
def unlisted(account: Account, reply: type[Any]) -> None:
    """Let the account refuse every list, so that jobs are fetched singly."""
    account.trouble = lambda seen: reply(400, {}) if account.is_list(seen) else None


def read_at(account: Account, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the times at which single jobs are read, as they come."""
    times: list[float] = []
    trouble = account.trouble

    def noted(seen: Any) -> Any:
        if account.is_single(seen):
            times.append(time.monotonic())
        return trouble(seen)

    monkeypatch.setattr(account, "trouble", noted)
    return times


@only_mkio
@pytest.mark.usefixtures("unlisted")
def test_single_fetches_ask_for_states(account: Account) -> None:
    """A job is read whole at first, and when it has ended; in between its state is enough."""

    async def main() -> list[Any]:
        ids = account.add(12, QUEUED)
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: len(account.paths("state")) >= 36)
            assert len(account.singles()) - len(account.paths("state")) == 12
            account.put(ids[:6], PROCESSING)
            account.put(ids, FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    events = asyncio.run(main())
    assert {event["outcome"] for event in events} == {"succeeded"}
    assert all(event["jobs"]["outputs"] for event in events)
    assert len(account.singles()) - len(account.paths("state")) == 24


@only_mkio
@pytest.mark.usefixtures("unlisted")
def test_a_process_keeps_to_its_share_of_the_projects_reads(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs wait, and however often they ask; the numbers are smaller here."""
    monkeypatch.setattr("airflow_ams.api.mkio.READS_A_MINUTE", 1200.0)
    monkeypatch.setattr("airflow_ams.api.mkio.BURST", 5)
    monkeypatch.setattr("airflow_ams.triggers.fetches.FETCHES_PER_SECOND", 100.0)
    times = read_at(account, monkeypatch)

    async def main() -> None:
        async with running(triggers(account, account.add(40), poke_interval=0.1, started_at=None)):
            await until(lambda: len(times) >= 45)

    asyncio.run(main())
    # The refused lists, one of each form, had their share of the first ones.
    assert len(times) <= 5 + 20 * (times[-1] - times[0]) + 3


@only_mkio
@pytest.mark.usefixtures("unlisted", "quick_back_off")
def test_a_refusal_that_names_no_time_holds_reads(
    account: Account, reply: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MK.IO's 429 has no Retry-After; what was on its way already is no new request."""
    monkeypatch.setattr("airflow_ams.api.mkio.AFTER_REFUSAL", 2.0)
    refused: list[float] = []
    trouble = account.trouble

    def busy(seen: Any) -> Any:
        if len(times) >= 30 and not refused:
            refused.append(time.monotonic())
            return reply(429, {"error": {"code": "TooManyRequests", "detail": "slow down"}, "status": 429})
        return trouble(seen)

    monkeypatch.setattr(account, "trouble", busy)
    times = read_at(account, monkeypatch)

    async def main() -> list[Any]:
        ids = account.add(12)
        async with running(triggers(account, ids)) as tasks:
            await until(lambda: refused and times[-1] > refused[0] + 0.5)
            account.put(ids, FINISHED)
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    assert {event["outcome"] for event in asyncio.run(main())} == {"succeeded"}
    after = [at - refused[0] for at in times if at > refused[0]]
    assert not [seconds for seconds in after if 0.5 < seconds < 1.9]
    assert len([seconds for seconds in after if seconds <= 0.5]) <= 6


@with_transforms
@pytest.mark.usefixtures("unlisted")
def test_single_fetches_slow_down_before_the_reads_run_out(
    account: V3Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resource Manager says how many are left: with none, there is one each while."""
    monkeypatch.setattr("airflow_ams.api.pace._SLOWEST", 0.25)
    said, left = account._said, ["11999"]
    header = "x-ms-ratelimit-remaining-subscription-reads"

    def counted(document: dict[str, Any]) -> Any:
        answer = said(document)
        answer.headers = {header: left[0]}
        return answer

    monkeypatch.setattr(account, "_said", counted)
    times = read_at(account, monkeypatch)

    async def main() -> None:
        async with running(triggers(account, account.add(20), poke_interval=0.2)):
            await until(lambda: len(times) >= 20)
            left[0] = "0"
            # Those whose turn had come before that was known.
            await asyncio.sleep(1)
            times.clear()
            await until(lambda: len(times) >= 8)

    asyncio.run(main())
    assert len(times) <= (times[-1] - times[0]) / 0.25 + 3


@all_v3
def test_one_fetch_is_tried_after_a_list_has_asked_to_be_left_alone(
    account: V3Account, reply: type[Any]
) -> None:
    """It shows whether it is the list alone; a list that answers again needs none."""
    refused: list[str] = []

    def busy_once(seen: Any) -> Any:
        if not account.is_list(seen) or refused:
            return None
        refused.append(seen.target)
        return reply(503, {}, headers={"Retry-After": "1"})

    account.trouble = busy_once

    async def main() -> None:
        async with running(triggers(account, account.add(12), poke_interval=0.5)):
            await until(lambda: len(account.lists()) >= 6)

    asyncio.run(main())
    assert len(account.singles()) == 1
