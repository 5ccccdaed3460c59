"""Which lists a sweep reads, and what it makes of what they show."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from airflow_ams.api.errors import TransientError
from airflow_ams.api.job_list import JOBS_PER_PAGE, MEMORY
from airflow_ams.api.model import JobState
from airflow_ams.api.sweep import Sweep
from tests.unit.swept_account import MANY, Account, ids, names
from tests.unit.v3_stub import (
    Dialect,
    answer,
    each_arm,
    each_dialect,
    each_mkio,
    job,
    page,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stand still at 1000 s, until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@each_dialect
def test_one_request_finds_all(dialect: Dialect) -> None:
    """State and percent of each are told, without another request; only what is news is read whole."""
    account = Account(dialect, {"t": names(20)})
    swept = account.sweep(Sweep(), ids("t", 20), lambda job_id: job_id == "t/job-3")
    assert len(account.wire.sent) == 1
    assert swept.seen == swept.answered == set(ids("t", 20))
    assert swept.missing == set()
    assert swept.lists_progress
    assert account.looked_at == [(job_id, JobState.PROCESSING, 40) for job_id in ids("t", 20)]
    (news,) = swept.news
    assert (news.id, news.state, news.progress) == ("t/job-3", JobState.PROCESSING, 40)


@each_dialect
def test_the_first_form_asks_for_the_active_states(dialect: Dialect) -> None:
    """With the literal that the service's own documents use."""
    account = Account(dialect, {"t": names(20)})
    account.sweep(Sweep(), ids("t", 20))
    kind = "Microsoft.Media.JobState" if dialect.is_arm else ""
    states = ("Processing", "Queued", "Scheduled", "Canceling")
    text = " or ".join(f"properties/state eq {kind}'{state}'" for state in states)
    assert account.queries[0].split("&")[0] == f"$filter={text}"


@each_dialect
def test_what_is_not_listed_is_missing(dialect: Dialect) -> None:
    """It has ended, or never was: single fetches will tell. A job that nobody waits for is only seen."""
    account = Account(dialect, {"t": names(18)})
    swept = account.sweep(Sweep(), ids("t", 18, first=2))
    assert swept.seen == set(ids("t", 18))
    assert swept.missing == {"t/job-18", "t/job-19"}
    assert swept.answered == set(ids("t", 18, first=2))


@each_dialect
def test_a_job_that_has_ended_is_not_active(dialect: Dialect) -> None:
    """A service that lists it nevertheless, as by the form that asks for all, is not believed to run it."""
    rows = [job(name, "Finished" if name == "job-0" else "Queued", transform="t") for name in names(20)]
    service, _ = dialect.speak(page(*rows))
    swept = Sweep().read(service, ids("t", 20), lambda *_: True)
    assert swept is not None
    assert swept.missing == {"t/job-0"}
    assert {one.id for one in swept.news} == set(ids("t", 20, first=1)[:19])


# -- several lists


@each_arm
def test_each_list_pays_for_itself(dialect: Dialect) -> None:
    """Many jobs of one transform are listed; of the few of another nothing is known."""
    account = Account(dialect, {"many": names(MANY), "few": names(JOBS_PER_PAGE)})
    swept = account.sweep(Sweep(), ids("many", MANY) + ids("few", JOBS_PER_PAGE))
    assert account.lists == ["transforms/many/jobs"]
    assert swept.answered == swept.seen == set(ids("many", MANY))
    assert swept.missing == set()


@each_arm
def test_where_no_list_pays_nothing_is_asked(dialect: Dialect) -> None:
    """Many jobs of many transforms, a few of each, are fetched singly."""
    account = Account(dialect, {f"t-{n}": names(2) for n in range(20)})
    swept = account.sweep(Sweep(), [job_id for n in range(20) for job_id in ids(f"t-{n}", 2)])
    assert account.wire.sent == []
    assert swept.answered == swept.seen == swept.missing == set()


@each_arm
def test_lists_that_pay_are_all_read(dialect: Dialect) -> None:
    """The name of a transform is percent-encoded; jobs of the same name are told by transform."""
    account = Account(dialect, {"a b": names(MANY), "ü": names(MANY - 1)})
    swept = account.sweep(Sweep(), ids("a b", MANY) + ids("ü", MANY))
    assert account.lists == ["transforms/a b/jobs", "transforms/ü/jobs"]
    assert swept.answered == {*ids("a b", MANY), *ids("ü", MANY)}
    assert swept.missing == {f"ü/job-{MANY - 1}"}


@each_mkio
def test_a_project_has_one_list(dialect: Dialect) -> None:
    """Few jobs of each of many transforms are many jobs."""
    account = Account(dialect, {f"t-{n}": names(2) for n in range(10)})
    swept = account.sweep(Sweep(), [job_id for n in range(10) for job_id in ids(f"t-{n}", 2)])
    assert account.lists == ["jobs"]
    assert len(swept.answered) == 20
    assert swept.missing == set()


@each_dialect
def test_another_spelling_is_the_same_job(dialect: Dialect) -> None:
    """Services do not tell names by case; who waits hears of the job by the name that he gave."""
    account = Account(dialect, {"Transform": [name.upper() for name in names(MANY)]})
    wanted = [*ids("transform", MANY - 1), f"TRANSFORM/Job-{MANY - 1}"]
    swept = account.sweep(Sweep(), wanted, lambda job_id: True)
    assert len(account.wire.sent) == 1
    assert swept.seen == swept.answered == set(wanted)
    assert swept.missing == set()
    assert sorted(found.id for found in swept.news) == sorted(wanted)
    assert sorted(looked_at for looked_at, _, _ in account.looked_at) == sorted(wanted)


@each_arm
def test_a_list_of_a_transform_that_is_not_there_is_empty(dialect: Dialect) -> None:
    """It must not spoil the lists of the others; that its jobs are not there, single fetches will find."""
    listed = page(*(job(name, transform="yes") for name in names(MANY)))
    service, _ = dialect.speak(by=lambda method, url: dialect.error(404) if "/no/" in url else listed)
    swept = Sweep().read(service, ids("no", MANY) + ids("yes", MANY), lambda *_: False)
    assert swept is not None
    assert swept.seen == set(ids("yes", MANY))
    assert swept.missing == set(ids("no", MANY))


# -- crowded lists


@each_dialect
def test_a_list_is_read_until_all_were_seen(dialect: Dialect) -> None:
    """What comes after nobody waits for."""
    account = Account(dialect, {"t": names(400)}, size=100)
    swept = account.sweep(Sweep(), ids("t", 150))
    assert len(account.wire.sent) == 2
    assert swept.answered == set(ids("t", 150))
    assert swept.missing == set()


@each_dialect
def test_a_crowded_list_is_given_up(dialect: Dialect, clock: list[float]) -> None:
    """Of the jobs that it did not come to nothing is said; it is remembered, for a while."""
    account = Account(dialect, {"t": names(400)}, size=10)
    wanted = ids("t", MANY, first=0)[:5] + ids("t", MANY, first=390)[:4]
    sweep = Sweep()
    swept = account.sweep(sweep, wanted)
    asked = len(account.wire.sent)
    assert 2 <= asked <= 3
    assert swept.answered == set(wanted[:5])
    assert swept.missing == set()
    # Of another transform's list nothing is known.
    assert sweep.pays(MANY) is dialect.is_arm
    assert sweep.pays(JOBS_PER_PAGE * asked + 1)
    assert account.sweep(sweep, wanted).answered == set()
    assert len(account.wire.sent) == asked
    clock[0] += MEMORY + 1
    assert sweep.pays(MANY)
    account.sweep(sweep, wanted)
    assert len(account.wire.sent) == 2 * asked


@each_arm
def test_a_crowded_list_does_not_spoil_another(dialect: Dialect, clock: list[float]) -> None:
    """Each list's length is its own."""
    account = Account(dialect, {"crowded": names(400), "quiet": names(MANY)}, size=10)
    sweep = Sweep()
    wanted = ids("crowded", MANY, first=391) + ids("quiet", MANY)
    for _ in range(2):
        swept = account.sweep(sweep, wanted)
        assert swept.answered == set(ids("quiet", MANY))
        assert sweep.pays(MANY)
    assert account.lists.count("transforms/quiet/jobs") == 2
    assert account.lists.count("transforms/crowded/jobs") <= 3


@each_arm
def test_a_crowded_list_does_not_keep_another_from_being_found(dialect: Dialect, clock: list[float]) -> None:
    """Jobs of a transform that nobody waited for before are looked for, however crowded the known list is."""
    account = Account(dialect, {"crowded": names(400), "new": names(MANY)}, size=10)
    sweep = Sweep()
    account.sweep(sweep, ids("crowded", MANY, first=391))
    assert sweep.pays(MANY)
    assert account.sweep(sweep, ids("new", MANY)).seen == set(ids("new", MANY))


@each_dialect
def test_a_list_that_leads_back_to_itself_is_given_up(dialect: Dialect) -> None:
    """It would be read for ever."""
    service, wire = dialect.speak(page(job(transform="t"), link="?$skiptoken=x"))
    with pytest.raises(TransientError, match="leads back"):
        Sweep().read(service, ids("t", 1000), lambda *_: False)
    assert len(wire.sent) == 2


@each_arm
@pytest.mark.parametrize("bad", ["a", "b"])
def test_a_list_that_fails_takes_nothing_from_the_others(dialect: Dialect, bad: str) -> None:
    """It comes last from then on, and after five failures in a row it is left alone; it is told of."""
    account = Account(dialect, {"a": names(MANY), "b": names(MANY)})
    good = "b" if bad == "a" else "a"
    is_bad = {f"transforms/{bad}/jobs"}
    account.refuse_list = lambda path: answer(503) if path in is_bad else None
    sweep, wanted = Sweep(), ids("a", MANY) + ids("b", MANY)
    with suppress(TransientError):
        # Which of them is asked first is open; if it is this one, nothing is known of the others yet.
        account.sweep(sweep, wanted)
        sweep.failed(is_alone=True)
    sweep.failed(is_alone=True)
    for _ in range(4):
        swept = account.sweep(sweep, wanted)
        assert swept.answered == set(ids(good, MANY))
    before = account.lists.count(f"transforms/{bad}/jobs")
    swept = account.sweep(sweep, wanted)
    assert swept.answered == set(ids(good, MANY))
    assert swept.trouble is None
    assert account.lists.count(f"transforms/{bad}/jobs") == before


@each_arm
def test_a_service_that_wants_to_be_left_alone_is(dialect: Dialect) -> None:
    """No further list is asked for; what others have told before is not lost."""
    account = Account(dialect, {name: names(MANY) for name in "abc"})
    busy = answer(429, headers={"Retry-After": "7"})
    account.refuse_list = lambda path: busy if len(account.lists) > 1 else None
    swept = account.sweep(Sweep(), [job_id for name in "abc" for job_id in ids(name, MANY)])
    assert len(account.lists) == 2
    assert len(swept.answered) == MANY
    assert swept.trouble is not None
    assert swept.trouble.retry_after == 7
