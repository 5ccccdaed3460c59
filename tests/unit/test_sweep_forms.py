"""By which form a sweep lists the jobs, and what becomes of forms that are refused, blind or in trouble."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest

from airflow_ams.api.errors import RefusedError, SignInError, TransientError
from airflow_ams.api.job_list import JOBS_PER_PAGE, MEMORY
from airflow_ams.api.model import Job
from airflow_ams.api.retries import NO_RETRIES
from airflow_ams.api.sweep import Sweep
from airflow_ams.api.tokens import StaticToken
from airflow_ams.api.transport import Transport
from airflow_ams.api.v2 import V2Service
from airflow_ams.api.wire import Answer
from tests.unit.swept_account import MANY, Account, ids, names
from tests.unit.v3_stub import (
    MKIO,
    Dialect,
    Wire,
    answer,
    each_arm,
    each_dialect,
    job,
    page,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stand still at 1000 s, until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def refusing(dialect: Dialect, count: int, status: int = 400) -> Callable[[str], Answer | None]:
    """Refuse the first forms of a dialect."""
    forms = dialect.speak(answer())[0].sweep_forms
    refused = {unquote(query) for form in forms[:count] for query in form}
    return lambda query: (
        dialect.error(status, "InvalidFilter")
        if query.removeprefix("api-version=2022-07-01&") in refused
        else None
    )


@each_dialect
@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_form_that_is_refused_is_tried_once(dialect: Dialect, status: int) -> None:
    """The next one is tried at once, and each further sweep begins with it."""
    account = Account(dialect, {"t": names(20)}, refuse=refusing(dialect, 1, status))
    sweep = Sweep()
    assert account.sweep(sweep, ids("t", 20)).missing == set()
    assert len(set(account.queries)) == 2
    first = account.queries[0]
    assert account.sweep(sweep, ids("t", 20)).missing == set()
    assert account.queries.count(first) == 1


@each_dialect
def test_the_last_form_needs_no_filter(dialect: Dialect) -> None:
    """A service that takes none shows its newest jobs first."""
    count = len(dialect.speak(answer())[0].sweep_forms)
    account = Account(dialect, {"t": names(20)}, refuse=refusing(dialect, count - 1))
    assert account.sweep(Sweep(), ids("t", 20)).missing == set()
    assert account.queries[-1] == "$orderby=properties/created desc"


@each_dialect
def test_forms_by_state_add_up(dialect: Dialect) -> None:
    """One query for each state, and what none of them shows is missing."""
    forms = dialect.speak(answer())[0].sweep_forms
    by_state = next(number for number, form in enumerate(forms) if len(form) > 1)
    states = {
        "Processing": names(9),
        "Queued": names(9, 9),
        "Scheduled": names(9, 18),
        "Canceling": names(9, 27),
    }
    refused = refusing(dialect, by_state)

    def turn(method: str, url: str) -> Answer:
        query = unquote(url.partition("?")[2])
        asked = [state for state in states if f"'{state}'" in query]
        return refused(query) or page(
            *(job(n, state, transform="t") for state in asked for n in states[state])
        )

    service, _ = dialect.speak(by=turn)
    swept = Sweep().read(service, ids("t", 37), lambda *_: False)
    assert swept.seen == set(ids("t", 36))
    assert swept.missing == {"t/job-36"}


@each_dialect
def test_where_every_form_is_refused_no_sweep_pays(dialect: Dialect, clock: list[float]) -> None:
    """Single fetches are the way back, for good."""
    service, wire = dialect.speak(dialect.error(400, "BadRequest"))
    sweep = Sweep()
    for _ in range(2):
        assert sweep.read(service, ids("t", 100_000), lambda *_: False).answered == set()
        assert len(wire.sent) == sum(len(form[:1]) for form in service.sweep_forms)
        clock[0] += 10 * MEMORY


@each_arm
def test_a_form_that_is_refused_later_keeps_what_was_read(dialect: Dialect) -> None:
    """A list that was read is not read again by the next form."""
    asked: list[str] = []

    def refuse(query: str) -> Answer | None:
        asked.append(query)
        return dialect.error(400) if len(asked) == 2 else None

    account = Account(dialect, {"a": names(MANY), "b": names(MANY)}, refuse=refuse)
    swept = account.sweep(Sweep(), ids("a", MANY) + ids("b", MANY))
    assert account.lists == ["transforms/a/jobs", "transforms/b/jobs", "transforms/b/jobs"]
    assert swept.seen == {*ids("a", MANY), *ids("b", MANY)}


@each_dialect
def test_a_form_that_shows_nothing_is_left(dialect: Dialect, clock: list[float]) -> None:
    """A service may let a filter pass that it does not understand: one fetch shows that there are jobs."""
    forms = dialect.speak(answer())[0].sweep_forms
    blind = {unquote(query) for query in forms[0]}

    def refuse(query: str) -> Answer | None:
        return page() if query.removeprefix("api-version=2022-07-01&") in blind else None

    account = Account(dialect, {"t": names(20)}, refuse=refuse)
    sweep = Sweep()
    for _ in range(3):
        assert account.sweep(sweep, ids("t", 20)).missing == set()
        # What has shown jobs is kept to.
        clock[0] += MEMORY + 1
    assert [query in blind for query in account.queries] == [True, False, False, False]
    assert len(account.singles) == 1


@each_dialect
def test_a_list_of_which_nothing_can_be_made_is_left_for_a_while(
    dialect: Dialect, clock: list[float]
) -> None:
    """Each form is tried, and after some minutes again: lists may lag behind."""
    account = Account(dialect, {"t": []})
    sweep, forms = Sweep(), len(account.service.sweep_forms)
    assert account.sweep(sweep, ids("t", 100)).answered == set()
    assert len(account.singles) == forms
    before = len(account.lists)
    assert account.sweep(sweep, ids("t", 100)).answered == set()
    assert len(account.lists) == before
    clock[0] += MEMORY + 1
    account.jobs = {"t": names(100)}
    assert account.sweep(sweep, ids("t", 100)).missing == set()


@each_dialect
def test_a_form_that_has_shown_jobs_is_not_given_up_for_nothing(dialect: Dialect) -> None:
    """Jobs that have ended are not on it; if active ones are not, the other forms have their turn."""
    account = Account(dialect, {"t": names(20)})
    sweep = Sweep()
    account.sweep(sweep, ids("t", 20))
    account.jobs, account.fetched = {"t": []}, "Finished"
    assert account.sweep(sweep, ids("t", 20)).missing == set(ids("t", 20))
    assert len(set(account.queries)) == 1
    account.fetched = "Processing"
    assert account.sweep(sweep, ids("t", 20)).answered == set()
    assert len(set(account.queries)) > 1


@each_dialect
@pytest.mark.parametrize("status", [400, 403, 404, 503])
def test_a_job_that_cannot_be_read_says_nothing_of_the_list(dialect: Dialect, status: int) -> None:
    """That all have ended is believed then; what is wrong with one is told by its own fetch."""
    account = Account(dialect, {"t": []})
    account.fetched = dialect.error(status, "Other")
    assert account.sweep(Sweep(), ids("t", 20)).missing == set(ids("t", 20))
    assert len(set(account.queries)) == 1
    assert len(account.singles) <= 3


@each_dialect
def test_a_refusal_of_a_further_page_is_no_refusal_of_the_form(dialect: Dialect) -> None:
    """Where the first page led may be no more."""
    account = Account(dialect, {"t": names(40)}, size=20)
    account.refuse = lambda query: dialect.error(400, "BadToken") if "skiptoken" in query else None
    sweep = Sweep()
    with pytest.raises(TransientError, match="broke off"):
        account.sweep(sweep, ids("t", 40))
    account.refuse = lambda query: None
    assert account.sweep(sweep, ids("t", 40)).missing == set()
    assert len({query.partition("skiptoken")[0] for query in account.queries}) <= 2


@each_arm
def test_a_transform_whose_list_is_refused_takes_nothing_from_the_others(dialect: Dialect) -> None:
    """Each list has its forms."""
    account = Account(dialect, {"a": names(MANY), "b": names(MANY)})
    account.refuse_list = lambda path: dialect.error(400, "BadName") if path == "transforms/a/jobs" else None
    sweep = Sweep()
    for _ in range(2):
        swept = account.sweep(sweep, ids("a", MANY) + ids("b", MANY))
        assert swept.answered == set(ids("b", MANY))


@each_dialect
def test_jobs_that_have_all_ended_are_no_blindness(dialect: Dialect, clock: list[float]) -> None:
    """One of them is fetched, to see that."""
    account = Account(dialect, {"t": names(20)})
    account.fetched = "Finished"
    sweep = Sweep()
    for shown in (0, 0, 20, 0, 0, 20):
        account.jobs = {"t": names(shown)}
        account.sweep(sweep, ids("t", 20))
    assert len(set(account.queries)) == 1


# -- trouble


@each_dialect
def test_a_list_that_must_not_be_read_says_nothing_of_the_jobs(dialect: Dialect) -> None:
    """The right may be missing for lists only: single fetches go on."""
    service, _ = dialect.speak(dialect.error(403, "Forbidden"))
    assert Sweep().read(service, ids("t", 20), lambda *_: False).answered == set()


@each_dialect
@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (answer(503), TransientError),
        (answer(404, b"<html>", reason="Not Found"), TransientError),
        (answer(200, b"<html>"), TransientError),
        (answer(401), RefusedError),
        (SignInError("no token"), SignInError),
        (RefusedError("no request can be made"), RefusedError),
    ],
)
def test_trouble_with_a_list_is_told(dialect: Dialect, act: Any, kind: type[Exception]) -> None:
    """What may pass is trouble; what is about who asks, or about the connection, is a refusal."""
    service, wire = dialect.speak(act)
    with pytest.raises(kind):
        Sweep().read(service, ids("t", 20), lambda *_: False)
    assert len(wire.sent) == 1


def test_lists_that_fail_alone_are_left_for_a_while(clock: list[float]) -> None:
    """Five times in a row, while single fetches are answered; one that takes long counts for more."""
    service, _ = MKIO.speak(answer(503))
    sweep = Sweep()

    def fail(times: int, *, is_alone: bool = True, seconds: float = 0.0) -> None:
        for _ in range(times):
            with pytest.raises(TransientError):
                sweep.read(service, ids("t", MANY), lambda *_: False)
            sweep.failed(is_alone=is_alone, seconds=seconds)

    fail(4)
    fail(1, is_alone=False)
    fail(4)
    assert sweep.pays(MANY)
    fail(1)
    assert not sweep.pays(100_000)
    clock[0] += MEMORY
    assert sweep.pays(MANY)
    fail(1, seconds=40)
    assert not sweep.pays(MANY)


@pytest.mark.parametrize(("waiting", "pays"), [(0, False), (JOBS_PER_PAGE, False), (MANY, True)])
def test_a_sweep_pays_for_more_jobs_than_a_page_costs(waiting: int, pays: bool) -> None:
    """As long as nothing is known of the lists."""
    assert Sweep().pays(waiting) is pays


def test_news_keep_their_document() -> None:
    """The job that is told under the name it was asked by is whole."""
    account = Account(MKIO, {"T": names(MANY)})
    swept = account.sweep(Sweep(), ids("t", MANY), lambda job_id: True)
    found: Job = swept.news[0]
    assert found.id == "t/job-0"
    assert found.outputs is not None
    assert found.raw["id"].endswith("/transforms/T/jobs/job-0")


def test_pages_of_several_queries_are_told_apart() -> None:
    """The v2 API numbers the pages of each state from the first."""
    ids_of = {
        state: [f"nb:jid:UUID:{state:08}-0000-4000-8000-{n:012}" for n in range(1500)] for state in (0, 2)
    }

    def turn(method: str, url: str) -> Answer:
        query = unquote(url.partition("?")[2])
        if "le 2" in query:
            return answer(400)
        state = int(query.partition("State eq ")[2][0])
        skip = int(query.partition("$skip=")[2])
        rows = [{"Id": job_id, "State": state} for job_id in ids_of.get(state, [])[skip : skip + 1000]]
        return answer(document={"value": rows})

    transport = Transport("https://media.test/api/", StaticToken("t"), Wire(by=turn), retries=NO_RETRIES)
    wanted = [*ids_of[0], *ids_of[2]]
    swept = Sweep().read(V2Service(transport), wanted, lambda *_: False)
    assert swept.answered == set(wanted)
    assert swept.missing == set()
