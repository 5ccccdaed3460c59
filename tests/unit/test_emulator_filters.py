"""The emulator's ``$filter``, ``$orderby`` and page options."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.filters import parse_filter
from airflow_ams.emulator.v2.edm import JOB
from airflow_ams.emulator.v2.query import PAGE, read_query

ROW: dict[str, Any] = {
    "Id": "nb:jid:UUID:1",
    "Name": "It's a film",
    "State": 2,
    "Priority": 5,
    "RunningDuration": 1500.5,
    "Created": datetime(2015, 2, 11, 1, 46, 8, 897000, tzinfo=timezone.utc),
    "EndTime": None,
}


def passes(text: str, row: dict[str, Any] = ROW) -> bool:
    """Tell whether a filter lets *row* through."""
    return parse_filter(text, JOB.properties, JOB.name)(row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Id eq 'nb:jid:UUID:1'", True),
        ("Id eq 'NB:JID:UUID:1'", False),
        ("Name eq 'It''s a film'", True),
        ("State eq 2", True),
        ("State ne 2", False),
        ("State gt 2 or State lt 3", True),
        ("Priority ge 5 and Priority le 5", True),
        ("RunningDuration gt 1500", True),
        ("not State eq 2", False),
        ("not not (State eq 2)", True),
        ("State eq 9 or State eq 2 and Priority eq 9", False),
        ("(State eq 9 or State eq 2) and Priority eq 5", True),
        ("startswith(Name,'It')", True),
        ("startswith(Name, 'it') eq true", False),
        ("endswith(Name,'film') eq true", True),
        ("substringof('a fi',Name)", True),
        ("substringof(Name,'a fi')", False),
        ("Created ge datetime'2015-02-11T01:46:08'", True),
        ("Created gt datetime'2015-02-11T01:46:08.8970000'", False),
        ("Created lt datetime'2015-02-11T01:46'", False),
        ("EndTime eq null", True),
        ("EndTime ne null", False),
        ("EndTime lt datetime'2099-01-01T00:00:00Z'", False),
        ("(true or (Created gt datetime'2099-01-01T00:00:00')) and (false or (State eq 2))", True),
    ],
)
def test_filter_decides(text: str, expected: bool) -> None:
    """Each operator and function lets through what OData says it does."""
    assert passes(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "State",
        "State eq",
        "eq 2",
        "State eq 2 and",
        "(State eq 2",
        "State eq 2)",
        "State = 2",
        "State eq 'two'",
        "Name eq 2",
        "Name eq 'open",
        "Nonsense eq 2",
        "startswith(Name)",
        "length(Name) eq 3",
        "startswith(State,'2')",
        "not State",
        "State and Priority",
        "Created gt datetime'yesterday'",
        "Created gt datetime'2015-13-11T01:46:08'",
        "JobNotificationSubscriptions eq null",
        "(" * 500 + "State eq 2" + ")" * 500,
    ],
)
def test_bad_filter_is_refused(text: str) -> None:
    """What is no filter raises `InvalidRequest`, never anything else."""
    with pytest.raises(InvalidRequest):
        passes(text)


@given(st.text(alphabet="StateIdName '()eqandornt2,.-é:", max_size=60))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    """No text breaks the parser."""
    with contextlib.suppress(InvalidRequest):
        assert passes(text) in (True, False)


@given(st.text(max_size=40))
def test_a_quoted_string_means_itself(name: str) -> None:
    """Any string, quotes doubled, equals itself and nothing longer."""
    quoted = name.replace("'", "''")
    assert passes(f"Name eq '{quoted}'", {**ROW, "Name": name})
    assert not passes(f"Name eq '{quoted}'", {**ROW, "Name": name + "x"})


@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from(["eq", "ne", "gt", "ge", "lt", "le"]))
def test_comparisons_agree_with_arithmetic(left: int, right: int, operator: str) -> None:
    """A comparison of numbers is true when arithmetic says so."""
    expected = {"eq": left == right, "ne": left != right, "gt": left > right, "ge": left >= right}
    expected |= {"lt": left < right, "le": left <= right}
    assert passes(f"State {operator} {right}", {**ROW, "State": left}) is expected[operator]


def test_order_puts_null_first_and_pages() -> None:
    """``$orderby`` sorts by several keys, null before every value; ``$skip`` and ``$top`` cut the result."""
    rows = [{**ROW, "Name": name, "Priority": number} for name, number in (("b", 1), ("a", 1), ("c", None))]
    query = read_query({"$orderby": "Priority desc,Name"}, JOB)
    assert [row["Name"] for row in query.page(rows)] == ["a", "b", "c"]
    query = read_query({"$orderby": "Priority,Name desc", "$skip": "1", "$top": "1"}, JOB)
    assert [row["Name"] for row in query.page(rows)] == ["b"]


def test_page_is_never_longer_than_the_cap() -> None:
    """A larger ``$top`` still answers with 1000 entities."""
    assert len(read_query({"$top": "5000"}, JOB).page([ROW] * 1001)) == PAGE == 1000


@pytest.mark.parametrize(
    "options",
    [
        {"$expand": "Tasks"},
        {"$top": "-1"},
        {"$top": "ten"},
        {"$skip": "1.5"},
        {"$orderby": "Created sideways"},
        {"$orderby": "Nonsense"},
        {"$select": "Nonsense"},
        {"$skiptoken": "x"},
    ],
)
def test_bad_options_are_refused(options: dict[str, str]) -> None:
    """An option that the service does not have, or a value that makes no sense, is refused."""
    with pytest.raises(InvalidRequest):
        read_query(options, JOB)


@pytest.mark.parametrize(
    ("text", "only"),
    [
        ("Id eq 'nb:jid:UUID:1'", "nb:jid:UUID:1"),
        ("(Id eq 'nb:jid:UUID:1')", "nb:jid:UUID:1"),
        ("Id eq 'a' or Id eq 'b'", None),
        ("Id ne 'nb:jid:UUID:1'", None),
    ],
)
def test_the_poll_of_one_job_is_recognised(text: str, only: str | None) -> None:
    """A filter for one id, and only that, is answered without looking at the other jobs."""
    assert read_query({"$filter": text}, JOB).only_id == only
