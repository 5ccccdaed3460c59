"""The emulator's wire forms: dates, bodies, paths, TaskBody, identifiers."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ams.emulator.errors import InvalidRequest, NotFound, NotOffered
from airflow_ams.emulator.ids import canonical_id, new_id
from airflow_ams.emulator.odata import BOOLEAN, DATETIME, DOUBLE, INT32, STRING
from airflow_ams.emulator.v2.bodies import read_asset_links, read_object, read_properties
from airflow_ams.emulator.v2.edm import ASSET, FILE, JOB
from airflow_ams.emulator.v2.paths import ResourcePath, read_path
from airflow_ams.emulator.v2.submission import read_task_body
from airflow_ams.emulator.v2.wire import Writer, iso_seven_digits, iso_trimmed, json_date

MOMENT = datetime(2015, 2, 11, 1, 46, 16, 580000, tzinfo=timezone.utc)


def test_date_forms() -> None:
    """Reads trim the fraction and have no zone, echoes have seven digits and Z, old entities Date(ms)."""
    assert iso_trimmed(MOMENT) == "2015-02-11T01:46:16.58"
    assert iso_trimmed(MOMENT.replace(microsecond=0)) == "2015-02-11T01:46:16"
    assert iso_seven_digits(MOMENT) == "2015-02-11T01:46:16.5800000Z"
    assert json_date(MOMENT) == "/Date(1423619176580)/"


def test_verbose_writes_dates_by_type() -> None:
    """Verbose jobs have ISO dates, verbose assets the old form; light is ISO for both."""
    part = {"Id": "nb:x", "Created": MOMENT}
    verbose, light = Writer("http://h/api/", True), Writer("http://h/api/", False)
    assert verbose.one(JOB, part, part)["d"]["Created"] == "2015-02-11T01:46:16.58Z"
    assert verbose.one(JOB, part, part, echo=True)["d"]["Created"] == "2015-02-11T01:46:16.5800000Z"
    assert verbose.one(ASSET, part, part)["d"]["Created"] == "/Date(1423619176580)/"
    assert light.one(ASSET, part, part)["Created"] == "2015-02-11T01:46:16.58"


def test_numbers_and_collections_by_form() -> None:
    """Int64 is text; a whole double is 0.0 in light and 0 in verbose; verbose collections are objects."""
    size, job = {"Id": "x", "ContentFileSize": 7}, {"Id": "x", "RunningDuration": 0.0}
    subscriptions = {"Id": "x", "JobNotificationSubscriptions": []}
    verbose, light = Writer("b/", True), Writer("b/", False)
    assert verbose.one(FILE, size, size)["d"]["ContentFileSize"] == "7"
    assert repr(verbose.one(JOB, job, job)["d"]["RunningDuration"]) == "0"
    assert repr(light.one(JOB, job, job)["RunningDuration"]) == "0.0"
    assert light.one(JOB, subscriptions, subscriptions)["JobNotificationSubscriptions"] == []
    written = verbose.one(JOB, subscriptions, subscriptions)["d"]["JobNotificationSubscriptions"]
    assert written["results"] == []
    assert written["__metadata"]["type"].startswith("Collection(Microsoft.Cloud.Media.Vod.Rest.Data.Models.")


def test_body_in_single_quotes() -> None:
    """Strings in single quotes, with tabs, line ends and double quotes in them, are read."""
    body = (
        b"""{\t"a":'{"Version": 1.0}',\n "b":'it\\'s', "c":"it's \\"so\\"", "d":'a\tb\nc', "e": 'x\\\\y'}"""
    )
    expected = {"a": '{"Version": 1.0}', "b": "it's", "c": 'it\'s "so"', "d": "a\tb\nc", "e": "x\\y"}
    assert read_object(body) == expected


@given(st.binary(max_size=60))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """No body breaks the reader."""
    with contextlib.suppress(InvalidRequest):
        assert isinstance(read_object(body), dict)


def test_properties_are_converted_and_checked() -> None:
    """Numbers and booleans may be text; times have 0 to 7 digits; an unknown property is refused."""
    allowed = {"i": INT32, "d": DOUBLE, "b": BOOLEAN, "t": DATETIME, "s": STRING}
    document = {
        "i": "5",
        "d": 1,
        "b": "false",
        "t": "1970-01-01T01:00:01.5000000+01:00",
        "s": None,
        "__metadata": {},
    }
    assert read_properties(document, allowed) == {"i": 5, "d": 1.0, "b": False, "t": 1.5, "s": None}
    assert read_properties({"t": "/Date(1500)/"}, allowed) == {"t": 1.5}
    for wrong in ({"x": 1}, {"i": "five"}, {"i": 2**31}, {"b": "maybe"}, {"t": "now"}, {"s": 5}, {"i": True}):
        with pytest.raises(InvalidRequest, match="Parsing request content failed due to"):
            read_properties(wrong, allowed)


def test_asset_links_of_both_forms() -> None:
    """Verbose links by ``__metadata.uri`` however encoded, light by ``@odata.bind``; never mixed."""
    uri = "http://h/API%2FAssets%28%27nb%3Acid%3AUUID%3A1%27%29"
    verbose = {"InputMediaAssets": [{"__metadata": {"uri": uri}}]}
    light = {"InputMediaAssets@odata.bind": ["http://h/api/Assets('nb:cid:UUID:1')"]}
    assert read_asset_links(verbose, "InputMediaAssets", verbose=True) == ["nb:cid:UUID:1"]
    assert read_asset_links(light, "InputMediaAssets", verbose=False) == ["nb:cid:UUID:1"]
    with pytest.raises(InvalidRequest, match=r"odata\.bind"):
        read_asset_links(light, "InputMediaAssets", verbose=True)
    with pytest.raises(InvalidRequest, match="not the URI of an asset"):
        read_asset_links({"X": [{"uri": "http://h"}]}, "X", verbose=True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ResourcePath("")),
        ("Jobs", ResourcePath("Jobs")),
        ("Jobs()", ResourcePath("Jobs")),
        ("/Jobs('a:b')/", ResourcePath("Jobs", "a:b")),
        ("Jobs('it''s/1')/Tasks()", ResourcePath("Jobs", "it's/1", "Tasks")),
        ("Jobs/$count", ResourcePath("Jobs", None, "$count")),
    ],
)
def test_paths(path: str, expected: ResourcePath) -> None:
    """Parentheses of a set are optional, keys are unquoted, slashes within keys are not separators."""
    assert read_path(path) == expected


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("Jobs(5)", InvalidRequest),
        ("Jobs('a", InvalidRequest),
        ("Jobs('a')/Tasks/Files", NotFound),
        ("Jobs('a')/Tasks('b')", NotFound),
        ("$batch", NotOffered),
        ("ContentKeys", NotOffered),
        ("Assets('a')/ContentKeys", NotOffered),
        ("Nonsense(5)", NotOffered),
        ("Jobs('a')/State/$value", NotOffered),
    ],
)
def test_paths_that_lead_nowhere(path: str, error: type[Exception]) -> None:
    """A path is malformed, too long, or names what is left out; each is told apart."""
    with pytest.raises(error):
        read_path(path)


def test_task_body() -> None:
    """Inputs of the job and of other tasks, and outputs with their attributes, are told apart."""
    text = (
        '<?xml version="1.0" encoding="utf-16"?><taskBody><inputAsset>JobInputAsset(0)</inputAsset>'
        "<inputAsset>JobOutputAsset(3)</inputAsset>"
        '<outputAsset assetName="n" assetCreationOptions="0">JobOutputAsset(1)</outputAsset></taskBody>'
    )
    job_inputs, chained, outputs = read_task_body(text)
    assert (job_inputs, chained) == ((0,), (3,))
    assert (outputs[0].number, outputs[0].name, outputs[0].options) == (1, "n", 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<taskBody>",
        "<job/>",
        "<!DOCTYPE x [<!ENTITY e 'x'>]><taskBody/>",
        "<taskBody><asset/></taskBody>",
        "<taskBody><inputAsset>Input(0)</inputAsset></taskBody>",
        "<taskBody><outputAsset>JobInputAsset(0)</outputAsset></taskBody>",
        "<taskBody><outputAsset assetCreationOptions='9'>JobOutputAsset(0)</outputAsset></taskBody>",
    ],
)
def test_bad_task_body_is_refused(text: str) -> None:
    """What is no TaskBody is refused."""
    with pytest.raises(InvalidRequest):
        read_task_body(text)


def test_identifiers() -> None:
    """An identifier is taken in any case and written in one; another kind's is refused."""
    identifier = new_id("jid")
    assert canonical_id(identifier.upper().replace("NB:JID", "nb:jid"), "jid") == identifier
    for wrong in ("notAValidId", identifier + "0", new_id("tid")):
        with pytest.raises(InvalidRequest, match="nb:jid:UUID"):
            canonical_id(wrong, "jid")
