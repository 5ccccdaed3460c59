"""The v3 family in the emulator: times, filters, pages, presets and downloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ams.emulator import download
from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.filters import parse_filter, version_4
from airflow_ams.emulator.jobs import check_name
from airflow_ams.emulator.odata import DATETIME, STRING, as_datetime
from airflow_ams.emulator.presets import BUILT_IN, fit
from airflow_ams.emulator.v3.arm_calls import created_time, read_time
from airflow_ams.emulator.v3.documents import cut, seconds_text, state_name
from airflow_ams.emulator.v3.lists import ListKind, page_of
from airflow_ams.emulator.v3.mkio_calls import write_time

FIELDS = {"name": STRING, "properties/state": "Some.State", "properties/created": DATETIME}
ROW = {"name": "a", "properties/state": "queued", "properties/created": as_datetime(1_600_000_000.5)}


@pytest.mark.parametrize(
    ("seconds", "created", "read", "mkio"),
    [
        (1595203200.0, "00:00:00.0000000Z", "00:00:00Z", "00:00:00.000000Z"),
        (1595203200.1275, "00:00:00.1275000Z", "00:00:00.127Z", "00:00:00.127500Z"),
        (1595203200.0009, "00:00:00.0009000Z", "00:00:00Z", "00:00:00.000900Z"),
    ],
)
def test_times(seconds: float, created: str, read: str, mkio: str) -> None:
    """Each answer has its own number of digits, cut and not rounded."""
    day = "2020-07-20T"
    assert created_time(seconds) == day + created
    assert read_time(seconds) == day + read
    assert write_time(seconds) == day + mkio


@given(seconds=st.floats(0, 4e9), digits=st.sampled_from([3, 6]))
def test_a_time_that_was_shown_is_found(seconds: float, digits: int) -> None:
    """A filter with a time from an answer compares equal to what the answer was made from."""
    shown = seconds_text(seconds, digits)
    passes = parse_filter(f"created eq {shown}", {"created": DATETIME}, "Job", version_4({}))
    assert passes({"created": as_datetime(cut(seconds, digits))})


@pytest.mark.parametrize(("state", "name"), [(0, "Queued"), (6, "Canceling"), (7, "State7"), (-1, "State-1")])
def test_states(state: int, name: str) -> None:
    """An integer that is no state is one that no client knows."""
    assert state_name(state) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name eq 'a'", True),
        ("properties/state eq Some.State'QUEUED'", True),
        ("properties/state ne Some.State'Queued'", False),
        ("not (properties/state eq Some.State'Queued')", False),
        ("properties/created gt 2020-09-13T12:26:40.4999999Z", True),
        ("properties/created lt 2020-09-13T12:26:40Z", False),
        ("properties/created lt 2020-09-13T12:26:40Z or name eq 'a'", True),
        ("name eq 'b' and name eq 'b' or name eq 'a'", True),
    ],
)
def test_filters(text: str, expected: bool) -> None:
    """Paths, enumerations and bare times."""
    assert parse_filter(text, FIELDS, "Job", version_4({"Some.State": {"queued"}}))(ROW) == expected


@pytest.mark.parametrize(
    "text",
    [
        "properties/state eq 'Queued'",
        "properties/state eq Some.State'Lost'",
        "properties/state eq Other.State'Queued'",
        "properties/state gt Some.State'Queued'",
        "properties/created eq '2020-09-13T12:26:40Z'",
        "properties/created eq datetime'2020-09-13T12:26:40Z'",
        "properties/created eq 2020-13-13T12:26:40Z",
        "startswith(name, 'a')",
        "name",
        "other eq 'a'",
        "properties/ eq 'a'",
    ],
)
def test_bad_filters(text: str) -> None:
    """What the service would not understand is refused."""
    with pytest.raises(InvalidRequest):
        parse_filter(text, FIELDS, "Job", version_4({"Some.State": {"queued"}}))


def page(states: dict[str, str], token: str | None, **options: str) -> tuple[list[str], str | None]:
    """Return the names on a page of two, and the token of the next."""
    kind = ListKind("Job", {"name": STRING, "state": STRING}, ("name",))
    query = {f"${name}": text for name, text in options.items()} | ({"$skiptoken": token} if token else {})
    found = page_of((({"name": n, "state": s}, n) for n, s in states.items()), query, kind, 2)
    return found.items, found.next


def test_pages_of_a_list_that_changes() -> None:
    """An entity that ceases to match between two pages hides no other one."""
    states = dict.fromkeys("abcdef", "Queued")
    names, token = page(states, None, filter="state eq 'Queued'")
    assert names == ["a", "b"]
    states["a"] = states["b"] = "Finished"
    names, token = page(states, token, filter="state eq 'Queued'")
    assert names == ["c", "d"]
    assert page(states, token, filter="state eq 'Queued'") == (["e", "f"], None)


@given(names=st.lists(st.text("abc", min_size=1, max_size=3), unique=True), descending=st.booleans())
def test_pages_have_all_once(names: list[str], descending: bool) -> None:
    """Pages put together are the whole list, in order."""
    states, seen, token = dict.fromkeys(names, "Queued"), list[str](), None
    for _ in range(len(names) + 1):
        part, token = page(states, token, orderby="name desc" if descending else "name")
        seen += part
        if token is None:
            break
    assert seen == sorted(names, reverse=descending)


@pytest.mark.parametrize(
    "options",
    [{"skiptoken": "x"}, {"expand": "a"}, {"top": "1"}, {"orderby": "state"}, {"orderby": "name up"}],
)
def test_bad_options(options: dict[str, str]) -> None:
    """What a list does not take is refused."""
    with pytest.raises(InvalidRequest):
        page({}, None, **options)


@pytest.mark.parametrize(
    ("kbps", "expected"),
    [
        (9000, [(1280, 720, 3400), (960, 540, 2250), (640, 360, 1000), (320, 180, 400)]),
        (2500, [(1280, 720, 2500), (960, 540, 2250), (640, 360, 1000), (320, 180, 400)]),
        (900, [(1280, 720, 900), (320, 180, 400)]),
        (0, [(1280, 720, 1)]),
        (None, [(1280, 720, 3400), (960, 540, 2250), (640, 360, 1000), (320, 180, 400)]),
    ],
)
def test_a_ladder_below_the_source(kbps: int | None, expected: list[tuple[int, int, int]]) -> None:
    """It begins at the source's size and bitrate, and each step down has fewer bits."""
    rungs = fit(BUILT_IN["AdaptiveStreaming"], 1280, 720, kbps)
    assert [(rung.width, rung.height, rung.kbps) for rung in rungs] == expected
    single = fit(BUILT_IN["H264SingleBitrate720p"], 1280, 720, kbps)
    assert [rung.kbps for rung in single] == [4500]


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a?b", "a#b", "a%b", "a\nb", ".", "..", "x" * 261])
def test_bad_names(name: str) -> None:
    """A name must be able to be in a path."""
    with pytest.raises(InvalidRequest):
        check_name(name)


def test_a_download_is_bounded(
    service: Callable[..., Any], reply: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is too large is given up, one that just fits is not."""
    web = service(lambda _: reply(body=b"x" * 1000))
    monkeypatch.setattr(download, "_MOST_BYTES", 999)
    with pytest.raises(download.DownloadFailed, match="too large"):
        asyncio.run(download.download(f"{web.url}film.mp4", tmp_path / "film"))
    monkeypatch.setattr(download, "_MOST_BYTES", 1000)
    asyncio.run(download.download(f"{web.url}film.mp4", tmp_path / "film"))
    assert (tmp_path / "film").stat().st_size == 1000


def test_a_download_that_is_cut_off(
    service: Callable[..., Any], reply: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that falls silent, says nothing at all, or refuses is a failure, told without the query."""
    monkeypatch.setattr(download, "_SOCKET_SECONDS", 0.2)
    silent = reply(body=b"part", headers={"Content-Length": "5000"})
    for answer in (silent, reply(cut=True), reply(status=500)):
        web = service(lambda _, answer=answer: answer)
        with pytest.raises(download.DownloadFailed) as failed:
            asyncio.run(download.download(f"{web.url}film.mp4?sig=secret", tmp_path / "film"))
        assert "secret" not in str(failed.value)


def test_only_the_web_is_downloaded_from(tmp_path: Path) -> None:
    """No file of this machine is read."""
    with pytest.raises(download.DownloadFailed, match="neither http nor https"):
        asyncio.run(download.download("file:///etc/passwd", tmp_path / "film"))
    assert not (tmp_path / "film").exists()
