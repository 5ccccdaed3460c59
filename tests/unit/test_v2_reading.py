"""What is read out of the v2 service's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_ams.api.errors import JobNotFoundError, ServiceError, TransientError, UncertainError
from airflow_ams.api.model import Job, JobState, describe, document, verdict
from airflow_ams.api.retries import NO_RETRIES, Retries
from airflow_ams.api.times import parse_time
from airflow_ams.api.tokens import StaticToken
from airflow_ams.api.transport import Transport
from airflow_ams.api.v2 import V2Service, request_headers
from airflow_ams.api.wire import Answer
from tests.unit.stub_wire import StubWire

ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
BASE = "https://media.windows.net/api/"
FOUNDING: dict[str, Any] = {
    "Id": ID,
    "Name": "Encoding BigBuckBunny into to H264 Adaptive Bitrate MP4 Set 720p",
    "Created": "2015-02-11T01:46:08.897",
    "LastModified": "2015-02-11T01:46:08.897",
    "EndTime": None,
    "Priority": 0,
    "RunningDuration": 0.0,
    "StartTime": "2015-02-11T01:46:16.58",
    "State": 2,
    "TemplateId": None,
    "JobNotificationSubscriptions": [],
}


class Wire(StubWire):
    """Gives the answers one after another."""

    def __init__(self, *documents: Any) -> None:
        super().__init__()
        self.documents = list(documents)

    def answer(self, method: str, url: str) -> Answer:
        """Give the next answer; the last one is given for ever."""
        document = self.documents.pop(0) if len(self.documents) > 1 else self.documents[0]
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return Answer(200, "OK", {"Content-Type": "application/json"}, body)


def open_service(*documents: Any) -> tuple[V2Service, Wire]:
    """Open a service whose network is a list of answers."""
    wire = Wire(*documents)
    transport = Transport(BASE, StaticToken("t"), wire, headers=request_headers(), retries=NO_RETRIES)
    return V2Service(transport), wire


def light(*rows: Any) -> dict[str, Any]:
    """A list as light JSON has it."""
    return {"odata.metadata": f"{BASE}$metadata#Jobs", "value": list(rows)}


SHAPES: list[Callable[[Any], Any]] = [
    light,
    lambda row: {"odata.metadata": f"{BASE}$metadata#Jobs/@Element", **row},
    lambda row: {"d": {"results": [row]}},
    lambda row: {"d": row},
    lambda row: {"d": [row]},
]
UTC = timezone.utc


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2015-02-11T01:46:08.897", datetime(2015, 2, 11, 1, 46, 8, 897000, UTC)),
        ("2015-02-11T01:46:16.58", datetime(2015, 2, 11, 1, 46, 16, 580000, UTC)),
        ("2015-02-11T01:46:16", datetime(2015, 2, 11, 1, 46, 16, 0, UTC)),
        ("2015-02-11T01:46:16Z", datetime(2015, 2, 11, 1, 46, 16, 0, UTC)),
        ("2015-01-19T08:04:34.3287057Z", datetime(2015, 1, 19, 8, 4, 34, 328705, UTC)),
        ("2015-01-19T08:04:34.3287057", datetime(2015, 1, 19, 8, 4, 34, 328705, UTC)),
        ("2015-01-19T09:04:34.5+01:00", datetime(2015, 1, 19, 8, 4, 34, 500000, UTC)),
        ("2015-01-19T02:34:34-05:30", datetime(2015, 1, 19, 8, 4, 34, 0, UTC)),
        ("/Date(1587097903363)/", datetime(2020, 4, 17, 4, 31, 43, 363000, UTC)),
        ("/Date(1587097903363+0120)/", datetime(2020, 4, 17, 4, 31, 43, 363000, UTC)),
        ("/Date(-1000)/", datetime(1969, 12, 31, 23, 59, 59, 0, UTC)),
        ("0001-01-01T00:00:00", None),
        ("0001-01-01T00:00:00Z", None),
        ("/Date(-62135596800000)/", None),
        (None, None),
    ],
)
def test_every_form_of_a_time_is_read(text: str | None, moment: datetime | None) -> None:
    """Zone or none, 0 to 7 digits, ticks: aware UTC; null and the year 1 mean unset."""
    read = parse_time(text)
    assert read == moment
    assert read is None or read.utcoffset() == timedelta(0)


@given(
    moment=st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1)),
    digits=st.integers(0, 7),
    zone=st.sampled_from(["", "Z", "z", "+00:00", "+05:30", "-11:00"]),
)
def test_any_instant_survives_being_written(moment: datetime, digits: int, zone: str) -> None:
    """However many digits and whichever zone an instant is written with, the same one is read."""
    fraction = f"{moment.microsecond:06d}0"[:digits]
    text = f"{moment:%Y-%m-%dT%H:%M:%S}" + (f".{fraction}" if fraction else "") + zone
    micro = int(fraction.ljust(6, "0")[:6])
    sign = -1 if zone.startswith("-") else 1
    offset = timedelta() if len(zone) < 2 else sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
    assert parse_time(text) == moment.replace(microsecond=micro, tzinfo=UTC) - offset


@given(st.text() | st.integers() | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?|/Date\(\d+\)/"))
@example("2015-13-45T99:99:99")
@example("/Date(99999999999999999999)/")
@example("9999-12-31T23:59:59-11:00")
@example("0000-01-01T00:00:00")
def test_what_is_no_time_is_told(text: Any) -> None:
    """Garbage where a time belongs is a ValueError, never a crash of another kind or a naive time."""
    read = None
    with suppress(ValueError):
        read = parse_time(text)
    assert read is None or read.tzinfo is UTC


@pytest.mark.parametrize("key", ["Created", "LastModified", "StartTime", "EndTime", "RunningDuration"])
def test_no_wait_hangs_on_a_time_that_cannot_be_read(key: str) -> None:
    """A job that has finished has finished, whatever the service says of when."""
    service, _ = open_service(light({**FOUNDING, "State": 3, key: "yesterday"}))
    assert service.get_job(ID).state is JobState.FINISHED


def test_another_jobs_end_is_not_taken_for_this_ones() -> None:
    """A gateway that drops the query answers with any job; that is trouble, not news."""
    other = {**FOUNDING, "Id": ID.replace("f3c43f94", "00000000"), "State": 3}
    service, _ = open_service(light(other))
    with pytest.raises(TransientError, match="another job"):
        service.get_job(ID)
    service, _ = open_service(light({**FOUNDING, "Id": ID.upper()}))
    assert service.get_job(ID).state is JobState.PROCESSING


@pytest.mark.parametrize("shape", SHAPES)
def test_a_job_is_read_from_every_shape(shape: Callable[[Any], Any]) -> None:
    """Light and verbose, a list of one and a single entity: the same job."""
    service, _ = open_service(shape(FOUNDING))
    job = service.get_job(ID)
    assert job == Job(
        id=ID,
        name="Encoding BigBuckBunny into to H264 Adaptive Bitrate MP4 Set 720p",
        state=JobState.PROCESSING,
        progress=None,
        created=datetime(2015, 2, 11, 1, 46, 8, 897000, UTC),
        modified=datetime(2015, 2, 11, 1, 46, 8, 897000, UTC),
        started=datetime(2015, 2, 11, 1, 46, 16, 580000, UTC),
        ended=None,
        duration=0.0,
        priority=0,
    )
    assert job.raw["JobNotificationSubscriptions"] == []


@pytest.mark.parametrize(
    "subscriptions",
    [
        [],
        [{"NotificationEndPointId": "nb:nepid:UUID:1", "TargetJobState": 2}],
        {"__metadata": {"type": "Collection(…)"}, "results": []},
        {"__metadata": {}, "results": [{"NotificationEndPointId": "nb:nepid:UUID:1", "TargetJobState": 1}]},
        None,
    ],
)
def test_subscriptions_in_any_shape_do_no_harm(subscriptions: Any) -> None:
    """A bare array in light JSON, an object in verbose: kept as they are in `raw`."""
    service, _ = open_service(light({**FOUNDING, "JobNotificationSubscriptions": subscriptions}))
    assert service.get_job(ID).raw["JobNotificationSubscriptions"] == subscriptions


@pytest.mark.parametrize("empty", [light(), {"d": {"results": []}}, {"d": []}])
def test_an_empty_answer_is_no_such_job(empty: Any) -> None:
    """The filter form never answers 404: an unknown id gives an empty list."""
    service, _ = open_service(empty)
    with pytest.raises(JobNotFoundError, match=ID):
        service.get_job(ID)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), (0.0, 0), (39605, 39.605), (39605.0, 39.605), ("39605", 39.605), ("39605.0", 39.605), (None, 0)],
)
def test_running_duration_is_milliseconds_in_any_form(value: Any, seconds: float) -> None:
    """0, 0.0, 39605, 39605.0, and as text: seconds come out."""
    service, _ = open_service(light({**FOUNDING, "RunningDuration": value}))
    assert service.get_job(ID).duration == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (0, JobState.QUEUED),
        (1, JobState.SCHEDULED),
        (2, JobState.PROCESSING),
        (3, JobState.FINISHED),
        (4, JobState.ERROR),
        (5, JobState.CANCELED),
        (6, JobState.CANCELING),
        ("3", JobState.FINISHED),
        (7, JobState.UNKNOWN),
        (99, JobState.UNKNOWN),
        (-1, JobState.UNKNOWN),
        ("-1", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
        ("Nonsense", JobState.UNKNOWN),
        (None, JobState.UNKNOWN),
        ({}, JobState.UNKNOWN),
        (1e400, JobState.UNKNOWN),
    ],
)
def test_states_are_numbers_and_strange_ones_are_unknown(value: Any, state: JobState) -> None:
    """0 to 6 have names; whatever else comes is unknown, and is waited through."""
    service, _ = open_service(light({**FOUNDING, "State": value}))
    assert service.get_job(ID).state is state


@pytest.mark.parametrize(
    "collection",
    [
        lambda rows: rows,
        lambda rows: {"__metadata": {"type": "Collection(…ErrorDetail)"}, "results": rows},
    ],
)
def test_tasks_bring_percent_errors_and_history(collection: Callable[[Any], Any]) -> None:
    """Percent is the tasks' mean; each ErrorDetail becomes an error that names its task."""
    rows = [
        {
            "Id": "nb:tid:UUID:1",
            "Name": "video",
            "State": 4,
            "Progress": 30.0,
            "StartTime": "2015-02-11T01:46:16.58",
            "EndTime": "2015-02-11T01:47:16Z",
            "ErrorDetails": collection([{"Code": "E1", "Message": "one"}, {"Code": "E2", "Message": None}]),
            "HistoricalEvents": collection([{"Code": "Scheduled", "Message": "", "TimeStamp": "…"}]),
        },
        {"Id": "nb:tid:UUID:2", "Name": None, "State": 0, "Progress": 0, "ErrorDetails": collection([])},
    ]
    service, wire = open_service(light(*rows))
    job = service.with_tasks(Job(ID, "x", JobState.ERROR))
    assert wire.sent[0]["url"] == f"{BASE}Jobs('nb%3Ajid%3AUUID%3A{ID[12:]}')/Tasks"
    assert job.progress == 15.0
    assert [str(error) for error in job.errors] == ["video: E1: one", "video: E2"]
    assert [task.name for task in job.tasks] == ["video", "task 2"]
    assert job.tasks[0].history[0]["Code"] == "Scheduled"
    assert job.tasks[0].ended == datetime(2015, 2, 11, 1, 47, 16, 0, UTC)


def test_a_finished_job_is_at_a_hundred() -> None:
    """Tasks that forgot their percent do not pull a finished job down."""
    service, _ = open_service(light({"Id": "nb:tid:UUID:1", "State": 3, "Progress": 0}))
    assert service.with_tasks(Job(ID, "x", JobState.FINISHED, progress=100.0)).progress == 100.0


def test_outputs_are_read_without_signature() -> None:
    """Output assets have id, name and address; one deleted since has no address; no signature is kept."""
    service, _ = open_service(
        light(
            {"Id": "nb:cid:UUID:1", "Name": "out", "Uri": "https://a.blob.core.windows.net/asset-1?sig=abc"},
            {"Id": "nb:cid:UUID:2", "Name": "Nonexistent Asset", "Uri": None, "State": 2},
        )
    )
    outputs = service.with_outputs(Job(ID, "x", JobState.FINISHED)).outputs
    assert outputs is not None
    assert [(o.asset_id, o.name, o.uri) for o in outputs] == [
        ("nb:cid:UUID:1", "out", "https://a.blob.core.windows.net/asset-1"),
        ("nb:cid:UUID:2", "Nonexistent Asset", None),
    ]


@pytest.mark.parametrize("size", [122992491, "122992491"])
def test_file_sizes_are_numbers_or_texts(size: Any) -> None:
    """Edm.Int64 is a number in light JSON and a text in verbose."""
    asset = "nb:cid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
    row = {"Id": asset, "Name": "a.mp4", "ContentFileSize": size, "MimeType": "video/mp4", "IsPrimary": True}
    service, _ = open_service(light(row))
    (file,) = service.get_output_files(asset)
    assert (file.name, file.size, file.mime_type, file.is_primary) == ("a.mp4", 122992491, "video/mp4", True)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>busy</html>",
        b'{"value": [{"Id": "nb:ji',
        b"null",
        b"7",
        b'{"odata.error": {"code": "", "message": {"value": "x"}}}',
        b'{"value": 5}',
        b'{"value": [5]}',
        b'{"value": [{"Name": "no id"}]}',
        b'{"d": null}',
        b"\xff\xfe",
    ],
)
def test_an_unusable_answer_is_trouble_to_wait_out(answer: bytes) -> None:
    """HTML, cut-off or foreign JSON with status 200 is no news about the job."""
    service, _ = open_service(answer)
    with pytest.raises(TransientError):
        service.get_job(ID)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["Name", "State", "Created", "EndTime", "StartTime", "RunningDuration", "Priority", "Progress"]
FIELDS += ["ErrorDetails", "HistoricalEvents", "Uri", "ContentFileSize", "MimeType"]


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING))
@example({"RunningDuration": "soon"})
@example({"Priority": []})
@example({"Progress": {}})
@example({"ErrorDetails": 5})
@example({"Uri": 7})
@example({"RunningDuration": float("nan"), "Progress": float("nan")})
@example({"ContentFileSize": "large"})
def test_no_answer_breaks_the_reader(row: dict[str, Any]) -> None:
    """Whatever stands in a row, a job comes out that has a line and a JSON document, or a `ServiceError`."""
    service, _ = open_service(light({"Id": ID, **row}))
    try:
        job = service.with_outputs(service.with_tasks(service.get_job(ID)))
        service.get_output_files("nb:cid:" + ID[7:])
    except ServiceError:
        return
    json.dumps(document(job), allow_nan=False)
    assert describe(job)
    assert verdict(job).text


def test_an_unusable_answer_is_read_again() -> None:
    """Reads whose answer cannot be used are retried like those that got none."""
    service, wire = open_service(b"<html>", b'{"value": [', light(FOUNDING))
    assert service.get_job(ID, retries=Retries(tries=3, first_wait=0, max_wait=0)).id == ID
    assert len(wire.sent) == 3


@pytest.mark.parametrize("answer", [b"<html>", b'{"Id": "nb:j', b'{"value": []}', b"{}"])
def test_a_create_with_an_unusable_answer_is_uncertain(answer: bytes) -> None:
    """A create that was answered with what cannot be read may have happened: it is not sent again."""
    service, wire = open_service(answer)
    with pytest.raises(UncertainError):
        service.submit_job({"Name": "x", "Tasks": []})
    assert len(wire.sent) == 1


def test_jobs_are_paged_past_a_thousand_and_yielded_once() -> None:
    """Full pages are followed by `$skip`; a job that moved from page to page comes once."""
    rows = [{**FOUNDING, "Id": f"nb:jid:UUID:{n}"} for n in range(2001)]
    service, wire = open_service(light(*rows[:1000]), light(*rows[999:1999]), light(*rows[1999:]))
    assert [job.id for job in service.iter_jobs()] == [row["Id"] for row in rows]
    assert [sent["url"].rpartition("$skip=")[2] for sent in wire.sent] == ["0", "1000", "2000"]


def test_an_announced_page_is_followed() -> None:
    """A short page that announces a next one is not the last."""
    first = {"d": {"results": [FOUNDING], "__next": "https://elsewhere.test/"}}
    service, wire = open_service(first, {"d": {"results": [{**FOUNDING, "Id": "nb:jid:UUID:2"}]}})
    assert len(list(service.iter_jobs())) == 2
    assert all(sent["url"].startswith(BASE) for sent in wire.sent)


def test_a_list_of_no_states_asks_nothing() -> None:
    """Jobs in none of the states: there are none, and no request is needed to know it."""
    service, wire = open_service(light(FOUNDING))
    assert list(service.iter_jobs(states=frozenset())) == []
    assert wire.sent == []


def test_a_naive_time_is_refused() -> None:
    """A filter on a time without zone would be a guess."""
    service, wire = open_service(light(FOUNDING))
    with pytest.raises(ValueError, match="no time zone"):
        list(service.iter_jobs(since=datetime(2026, 1, 1)))
    assert wire.sent == []
