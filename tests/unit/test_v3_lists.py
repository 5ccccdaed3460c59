"""How jobs are listed on the v3 services, page after page."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import islice
from typing import Any
from urllib.parse import unquote

import pytest

from airflow_ams.api.errors import (
    TransientError,
)
from airflow_ams.api.model import JobState
from tests.unit.v3_stub import (
    Dialect,
    answer,
    each_arm,
    each_dialect,
    job,
    page,
)


def transforms(dialect: Dialect, *names: str) -> list[Any]:
    """Answer the list of transforms, where jobs are listed by them."""
    return [page(*({"name": name, "properties": {}} for name in names))] if dialect.is_arm else []


@each_dialect
def test_all_jobs_of_an_account(dialect: Dialect) -> None:
    """By transform on ARM and RMS, all at once on MK.IO; each is known as `transform/job`."""
    pages = [page(job("a", transform="t 1"), job("b", transform="t 1")), page(job("a", transform="t-2"))]
    if not dialect.is_arm:
        pages = [page(job("a", transform="t 1"), job("b", transform="t%201"), job("a", transform="t-2"))]
    service, wire = dialect.speak(*transforms(dialect, "t 1", "t-2"), *pages)
    assert [found.id for found in service.iter_jobs()] == ["t 1/a", "t 1/b", "t-2/a"]
    paths = ["transforms", "transforms/t%201/jobs", "transforms/t-2/jobs"] if dialect.is_arm else ["jobs"]
    assert wire.requests == [("GET", dialect.url(path)) for path in paths]


@each_dialect
def test_a_list_is_asked_for_with_a_filter(dialect: Dialect) -> None:
    """States and times, in the words of the service's own documents; what slips through is left out."""
    service, wire = dialect.speak(
        *transforms(dialect, "encode-720p"),
        page(job("a", "Error"), job("b", "Finished"), job("c", "Canceled")),
    )
    found = service.iter_jobs(
        states=frozenset({JobState.ERROR, JobState.CANCELED}),
        since=datetime(2026, 1, 2, 3, 4, 5, 600000, timezone.utc),
        until=datetime(2026, 2, 1, tzinfo=timezone.utc),
    )
    assert [one.name for one in found] == ["a", "c"]
    kind = "Microsoft.Media.JobState" if dialect.is_arm else ""
    assert unquote(wire.sent[-1]["url"]).partition("$filter=")[2] == (
        f"(properties/state eq {kind}'Canceled' or properties/state eq {kind}'Error')"
        " and properties/created ge 2026-01-02T03:04:05.600000Z"
        " and properties/created lt 2026-02-01T00:00:00.000000Z"
    )
    assert not {" ", "'"} & set(wire.sent[-1]["url"])


@each_dialect
def test_a_list_that_needs_no_question(dialect: Dialect) -> None:
    """Of no states there are no jobs; times without zone, and a state without name, are mistakes."""
    service, wire = dialect.speak(page())
    assert list(service.iter_jobs(states=frozenset())) == []
    with pytest.raises(ValueError, match="no time zone"):
        list(service.iter_jobs(since=datetime(2026, 1, 1)))
    with pytest.raises(ValueError, match="UNKNOWN"):
        list(service.iter_jobs(states=frozenset({JobState.UNKNOWN})))
    assert wire.sent == []


@each_dialect
@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_filter_that_is_not_taken_is_done_without(dialect: Dialect, status: int) -> None:
    """All jobs are read then, and what was not asked for is left out."""
    service, wire = dialect.speak(
        *transforms(dialect, "encode-720p"),
        dialect.error(status, "BadFilter"),
        page(
            job("a", "Error", created="2026-01-03T00:00:00Z"),
            job("early", "Error", created="2026-01-01T00:00:00Z"),
            job("late", "Error", created="2026-02-01T00:00:00Z"),
            job("running", created="2026-01-03T00:00:00Z"),
        ),
    )
    found = service.iter_jobs(
        states=frozenset({JobState.ERROR}),
        since=datetime(2026, 1, 2, tzinfo=timezone.utc),
        until=datetime(2026, 2, 1, tzinfo=timezone.utc),
    )
    assert [one.name for one in found] == ["a"]
    assert "$filter" in wire.sent[-2]["url"]
    assert "$filter" not in wire.sent[-1]["url"]


@each_dialect
def test_a_row_that_is_no_job_hides_no_other(dialect: Dialect) -> None:
    """One without properties, or, where the id tells the transform, without an id."""
    rows = [job("a"), {"name": "b"}, {**job("c"), "id": None}, job("d")]
    service, _ = dialect.speak(*transforms(dialect, "encode-720p"), page(*rows))
    assert [one.name for one in service.iter_jobs()] == (["a", "c", "d"] if dialect.is_arm else ["a", "d"])


LINKS = [
    "https://management.azure.com/subscriptions/x/jobs?api-version=2022-07-01&$skiptoken=a%2Bb%3D",
    "/api/v1/projects/contoso/media/jobs?api-version=2022-07-01&$skiptoken=a%2Bb%3D",
    "jobs?api-version=2022-07-01&$skiptoken=a%2Bb%3D",
    "?api-version=2022-07-01&$skiptoken=a%2Bb%3D",
    "%2Fapi%2Fams%2Fcontoso%2Fjobs%3Fapi-version%3D2022-07-01%26%24skiptoken%3Da%252Bb%253D",
    "https%3A%2F%2Fapp.mk.io%2Fjobs%3Fapi-version%3D2022-07-01%26%24skiptoken%3Da%252Bb%253D",
    "http://evil.test:8080/jobs?api-version=2022-07-01&$skiptoken=a%2Bb%3D",
    "//evil.test/jobs?api-version=2022-07-01&$skiptoken=a%2Bb%3D#x",
    "http://[evil/jobs?api-version=2022-07-01&$skiptoken=a%2Bb%3D",
]


@each_dialect
@pytest.mark.parametrize("link", LINKS)
def test_the_next_page_is_asked_for_at_the_same_place(dialect: Dialect, link: str) -> None:
    """Whatever the link looks like, and whichever host it names: the token stays here."""
    service, wire = dialect.speak(
        *transforms(dialect, "encode-720p"), page(job("a"), link=link), page(job("b"))
    )
    assert [found.name for found in service.iter_jobs()] == ["a", "b"]
    first, second = (url for _, url in wire.requests[-2:])
    assert second == f"{first.partition('?')[0]}?api-version=2022-07-01&$skiptoken=a%2Bb%3D"


@each_arm
def test_a_link_without_the_version_gets_it(dialect: Dialect) -> None:
    """Every request needs it."""
    service, wire = dialect.speak(*transforms(dialect, "t"), page(job("a"), link="?$skiptoken=x"), page())
    assert [found.name for found in service.iter_jobs()] == ["a"]
    assert wire.sent[-1]["url"] == dialect.url("transforms/t/jobs", "$skiptoken=x")


@each_dialect
@pytest.mark.parametrize("back", [1, 2])
def test_a_list_that_leads_back_to_itself_ends(dialect: Dialect, back: int) -> None:
    """To the same page or to one before; no job is told without end."""

    def turn(method: str, url: str) -> Any:
        if "/transforms?" in url:
            return page({"name": "encode-720p", "properties": {}})
        number = int(url.partition("skiptoken=")[2] or 0)
        return page(job(f"clip-{number}"), link=f"?$skiptoken={number + 1 if number < back else 1}")

    service, _ = dialect.speak(by=turn)
    assert [found.name for found in islice(service.iter_jobs(), 20)] == [f"clip-{n}" for n in range(back + 1)]


@each_dialect
@pytest.mark.parametrize("link", ["https://management.azure.com/jobs", "jobs?", "?#x", "%2Fjobs", ["x"]])
def test_a_link_that_leads_nowhere_is_not_the_end(dialect: Dialect, link: Any) -> None:
    """The list would be cut, and nobody would know."""
    service, _ = dialect.speak(*transforms(dialect, "encode-720p"), page(job("a"), link=link))
    with pytest.raises(TransientError, match="goes on"):
        list(service.iter_jobs())


@each_dialect
@pytest.mark.parametrize("link", [None, "", [], {}, 0])
def test_a_list_without_a_link_is_at_its_end(dialect: Dialect, link: Any) -> None:
    """Null, or another type of nothing."""
    last = answer(document={"value": [job("a")], "@odata.nextLink": link})
    service, _ = dialect.speak(*transforms(dialect, "encode-720p"), last)
    assert len(list(service.iter_jobs())) == 1


@each_dialect
@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"[]", b"{}", b'{"value": {}}', b'{"value": [5]}'])
def test_a_list_of_no_shape_is_trouble_to_wait_out(dialect: Dialect, body: bytes) -> None:
    """It does not mean that there are no jobs."""
    service, _ = dialect.speak(*transforms(dialect, "encode-720p"), answer(document=body))
    with pytest.raises(TransientError):
        list(service.iter_jobs())
