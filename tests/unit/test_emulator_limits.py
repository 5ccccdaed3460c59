"""The emulator's limits, and the errors that its box answers by itself, without HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.limits import Limits
from airflow_ams.emulator.refusals import refusal


def limits_of(document: Any) -> tuple[Limits, Clock]:
    """Return limits on a clock that stands still."""
    clock = Clock(real=lambda: 1000.0)
    limits = Limits(clock)
    limits.change(document)
    return limits, clock


def test_a_bucket_of_reads_fills_up_again() -> None:
    """Reads are taken from a bucket for each account, which fills with time, but not over."""
    limits, clock = limits_of({"arm_reads": {"bucket": 2, "per_second": 0.25}})
    assert [limits.take_arm_read("a") for _ in range(3)] == [(1, 0), (0, 0), (0, 4)]
    assert limits.take_arm_read("b") == (1, 0)
    clock.advance(3)
    assert limits.take_arm_read("a") == (0, 1)
    clock.advance(1)
    assert limits.take_arm_read("a") == (0, 0)
    clock.advance(1000)
    assert limits.take_arm_read("a") == (1, 0)


def test_a_minute_has_so_many_gets() -> None:
    """A project's GETs are counted by the minute; the next minute begins anew."""
    limits, clock = limits_of({"mkio_gets_per_minute": 2})
    assert [limits.take_mkio_get("a") for _ in range(3)] == [True, True, False]
    assert limits.take_mkio_get("b")
    clock.advance(59)
    assert not limits.take_mkio_get("a")
    clock.advance(1)
    assert limits.take_mkio_get("a")


def test_limits_change_one_by_one_and_come_back() -> None:
    """What a document does not name stays as it is; a reset puts all back, and forgets what was used."""
    limits, _ = limits_of({"page_size": 7, "arm_reads": {"bucket": 1}})
    limits.change({"mkio_gets_per_minute": 1, "arm_reads": {"per_second": 5}})
    found = (limits.page_size, limits.arm_bucket, limits.arm_per_second, limits.mkio_gets_per_minute)
    assert found == (7, 1, 5, 1)
    assert limits.take_mkio_get("a")
    limits.reset()
    found = (limits.page_size, limits.arm_bucket, limits.arm_per_second, limits.mkio_gets_per_minute)
    assert found == (1000, 12_000, 3.34, 2000)
    assert limits.take_mkio_get("a")


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ([], "JSON object"),
        ({"pages": 1}, "page_size"),
        ({"page_size": 0}, "'page_size'"),
        ({"page_size": True}, "'page_size'"),
        ({"page_size": 5, "arm_reads": {"bucket": 1.5}}, "'bucket'"),
        ({"arm_reads": 5}, "'arm_reads'"),
        ({"arm_reads": {"per_second": 0}}, "'per_second'"),
        ({"arm_reads": {"per_second": float("nan")}}, "'per_second'"),
        ({"mkio_gets_per_minute": "many"}, "'mkio_gets_per_minute'"),
    ],
)
def test_bad_limits_change_nothing(document: Any, what: str) -> None:
    """A limit that is none is refused with its name, and those beside it are not set either."""
    limits = Limits(Clock())
    with pytest.raises(InvalidRequest, match=what):
        limits.change(document)
    assert limits.page_size == 1000


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Jobs()", {"odata.error": {"code": "", "message": {"lang": "en-US", "value": "busy"}}}),
        ("v2/OAuth2-13", {"odata.error": {"code": "", "message": {"lang": "en-US", "value": "busy"}}}),
        ("subscriptions/x/y", {"error": {"code": "TooManyRequests", "message": "busy"}}),
        ("Subscriptions/x/y", {"error": {"code": "TooManyRequests", "message": "busy"}}),
        ("auth/token", {"error": {"code": "TooManyRequests", "message": "busy"}}),
        ("v1/projects/p/media/jobs", "mkio"),
        ("ams/p/jobs", "mkio"),
    ],
)
def test_refusals_speak_the_language_of_the_path(path: str, expected: Any) -> None:
    """An error has the body of the service that is asked."""
    body = json.loads(bytes(refusal(path, 429, "busy").body))
    if expected == "mkio":
        assert body.pop("ref")
        error = {"code": "TooManyRequests", "detail": "busy", "extraDetail": {}}
        expected = {"error": error, "status": 429}
    assert body == expected


def test_a_status_without_a_name_has_a_code() -> None:
    """Statuses that the standard does not know are possible, too."""
    body = json.loads(bytes(refusal("auth/token", 599, "x").body))
    assert body["error"]["code"] == "Status599"
