"""How a job is created on the v3 services, and what becomes of a create whose answer is lost."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_ams.api.errors import (
    RefusedError,
    UncertainError,
)
from airflow_ams.api.model import JobState
from airflow_ams.api.retries import Retries
from airflow_ams.api.wire import NoAnswerError
from tests.unit.v3_stub import (
    GATEWAY,
    JOB,
    MKIO,
    PATH,
    SPEC,
    Dialect,
    Wire,
    answer,
    each_arm,
    each_dialect,
    job,
)

LOST = NoAnswerError("no answer")


def found_by_name(**properties: Any) -> Any:
    """Answer with the job that the spec makes."""
    return answer(201, job("clip-7", "Queued", **properties))


@each_dialect
def test_a_job_is_created_with_a_put(dialect: Dialect) -> None:
    """201 and the job come back; its output asset is there first, where the service wants that."""
    service, wire = dialect.speak(*([answer(document={})] if dialect.is_arm else []), found_by_name())
    made = service.submit_job(
        {**SPEC, "priority": "High", "correlation_data": {"order": "17"}, "description": "d"}
    )
    assert (made.id, made.state) == (JOB, JobState.QUEUED)
    assert wire.requests[-1] == ("PUT", dialect.url(PATH))
    assert wire.body() == {
        "properties": {
            "input": {"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": "clip-7-source"},
            "outputs": [{"@odata.type": "#Microsoft.Media.JobOutputAsset", "assetName": "clip-7-720p"}],
            "priority": "High",
            "correlationData": {"order": "17"},
            "description": "d",
        }
    }
    assert wire.sent[-1]["headers"]["Content-Type"] == "application/json"
    assert wire.requests[:-1] == ([("GET", dialect.url("assets/clip-7-720p"))] if dialect.is_arm else [])


@each_arm
def test_an_output_asset_that_is_not_there_is_made(dialect: Dialect) -> None:
    """One that is there is left alone."""
    there = answer(document={})
    service, wire = dialect.speak(there, dialect.error(404), there, answer(201, {}), found_by_name())
    service.submit_job({**SPEC, "outputs": ["there", "not there"]})
    assert wire.requests == [
        ("GET", dialect.url("assets/there")),
        ("GET", dialect.url("assets/not%20there")),
        ("GET", dialect.url("transforms/encode-720p")),
        ("PUT", dialect.url("assets/not%20there")),
        ("PUT", dialect.url(PATH)),
    ]
    assert wire.body(3) == {"properties": {}}


@each_arm
def test_no_asset_is_made_for_a_transform_that_is_not_there(dialect: Dialect) -> None:
    """It would stay behind; the message names the transform."""
    service, wire = dialect.speak(dialect.error(404), dialect.error(404, text="No such transform."))
    with pytest.raises(RefusedError, match=r"no transform 'encode-720p'.*No such transform\."):
        service.submit_job(SPEC)
    assert [method for method, _ in wire.requests] == ["GET", "GET"]


@each_arm
def test_no_asset_is_made_on_the_word_of_a_gateway(dialect: Dialect) -> None:
    """Its 404 says nothing of the asset."""
    service, wire = dialect.speak(GATEWAY)
    with pytest.raises(RefusedError):
        service.submit_job(SPEC)
    assert len(wire.sent) == 1


def test_inputs_are_assets_or_addresses_and_several_are_wrapped() -> None:
    """As the reference has them."""
    service, wire = MKIO.speak(found_by_name())
    service.submit_job({**SPEC, "inputs": ["https://a.test/x.mp4", "asset"], "outputs": "out"})
    assert wire.body()["properties"]["input"] == {
        "@odata.type": "#Microsoft.Media.JobInputs",
        "inputs": [
            {"@odata.type": "#Microsoft.Media.JobInputHttp", "files": ["https://a.test/x.mp4"]},
            {"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": "asset"},
        ],
    }
    assert [output["assetName"] for output in wire.body()["properties"]["outputs"]] == ["out"]


@each_dialect
def test_a_document_of_the_services_own_is_sent_as_it_is(dialect: Dialect) -> None:
    """For what the short form has no words for."""
    document = {
        "input": {"@odata.type": "#x"},
        "outputs": [{"assetName": "a", "presetOverride": {}}],
        "other": 1,
    }
    service, wire = dialect.speak(*([answer(document={})] if dialect.is_arm else []), found_by_name())
    service.submit_job({"transform_name": "encode-720p", "job_name": "clip-7", "properties": document})
    assert wire.body() == {"properties": document}


IDS = {key: SPEC[key] for key in ("transform_name", "job_name")}


@each_dialect
@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (None, "None"),
        ([SPEC], "dict"),
        ({}, "transform_name and job_name"),
        ({**SPEC, "job_name": ""}, "job_name"),
        ({**SPEC, "tasks": []}, "tasks"),
        ({**SPEC, "inputs": []}, "inputs"),
        ({**SPEC, "inputs": None}, "inputs"),
        ({**SPEC, "inputs": [True]}, "inputs"),
        ({**SPEC, "outputs": [""]}, "outputs"),
        ({**SPEC, "outputs": {"a": "b"}}, "outputs"),
        ({**SPEC, "job_name": "a/b"}, "^job_name of the job spec is 'a/b'.*other than / "),
        ({**SPEC, "job_name": "a" * 261}, "^job_name.*260"),
        ({**SPEC, "job_name": ["a"]}, "^job_name.*give a text"),
        ({**SPEC, "transform_name": ".."}, r"^transform_name of the job spec is '\.\.'"),
        ({**SPEC, "transform_name": "a?b#c"}, "^transform_name"),
        ({**SPEC, "inputs": ["a", "b/c"]}, "^inputs of the job spec is 'b/c'"),
        ({**SPEC, "inputs": "ftp://a.test/x.mp4"}, "^inputs"),
        ({**SPEC, "inputs": [".."]}, "^inputs"),
        ({**SPEC, "inputs": 5.5}, "^inputs.*names of assets, or http"),
        ({**SPEC, "outputs": "https://x"}, "^outputs of the job spec is 'https://x'"),
        ({**SPEC, "outputs": ["../.."]}, "^outputs"),
        ({**SPEC, "outputs": ["a%2Fb"]}, "^outputs"),
        ({**SPEC, "outputs": 5.5}, "^outputs.*the name of an asset, or a list"),
        ({**SPEC, "outputs": "['a', b]"}, "^outputs.*looks like a list"),
        ({**SPEC, "outputs": [["x"]]}, "^outputs"),
        ({**SPEC, "priority": 5}, "^priority of the job spec is '5'; give one of Low"),
        ({**SPEC, "priority": 0}, "^priority of the job spec is '0'"),
        ({**SPEC, "priority": False}, "^priority of the job spec is 'False'"),
        ({**SPEC, "priority": "urgent"}, "^priority"),
        ({**SPEC, "priority": ["High"]}, "^priority"),
        ({**SPEC, "correlation_data": ["a"]}, "^correlation_data"),
        ({**SPEC, "correlation_data": {"a": b"1"}}, "^correlation_data"),
        ({**SPEC, "correlation_data": {"a": None}}, "^correlation_data"),
        ({**SPEC, "correlation_data": {"a": ["b"]}}, "^correlation_data"),
        ({**SPEC, "correlation_data": "x"}, "^correlation_data"),
        ({**SPEC, "description": ["d"]}, "^description"),
        ({**SPEC, "properties": {"outputs": [{"assetName": "a/b"}]}}, "inputs, outputs beside"),
        ({**IDS, "properties": {"outputs": [{"assetName": "a/b"}]}}, "^assetName of the outputs.*'a/b'"),
        ({**IDS, "properties": {"outputs": [], "x": b"1"}}, "^properties.*bytes"),
        ({**IDS, "properties": "{'outputs': 5}"}, "^properties"),
        ({**SPEC, "properties": []}, "properties"),
        ({**SPEC, "properties": {}}, "outputs"),
        ({**SPEC, "properties": {"outputs": ["asset"]}}, "outputs"),
        ({**SPEC, "properties": {"outputs": [None]}}, "outputs"),
        ({**SPEC, "properties": {"outputs": [{"assetName": 5}]}}, "outputs"),
    ],
)
def test_a_bad_spec_is_refused_before_any_request(dialect: Dialect, spec: Any, named: str) -> None:
    """The message names what is wrong."""
    service, wire = dialect.speak(found_by_name())
    for use in (service.submit_job, service.check_spec):
        with pytest.raises(RefusedError, match=named):
            use(spec)
    assert wire.sent == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [("high", "High"), (" LOW ", "Low"), ("Normal", "Normal"), ("", None), (None, None)],
)
def test_a_priority_has_the_services_spelling(given: Any, sent: str | None) -> None:
    """None at all is none."""
    service, wire = MKIO.speak(found_by_name())
    service.submit_job({**SPEC, "priority": given})
    assert wire.body()["properties"].get("priority") == sent


def test_texts_of_lists_and_dicts_are_read() -> None:
    """As templates write them; a name in brackets is a name."""
    service, wire = MKIO.speak(found_by_name())
    outputs, data = "['a', 'b']", '{"order": "17"}'
    service.submit_job(
        {**SPEC, "inputs": "[clip] a.mp4", "outputs": outputs, "correlation_data": data, "job_name": "clip-7"}
    )
    properties = wire.body()["properties"]
    assert properties["input"]["assetName"] == "[clip] a.mp4"
    assert [output["assetName"] for output in properties["outputs"]] == ["a", "b"]
    assert properties["correlationData"] == {"order": "17"}


@pytest.mark.parametrize("key", ["transform_name", "job_name", "outputs", "priority", "correlation_data"])
def test_no_refusal_tells_a_signature(key: str) -> None:
    """Whoever has one may read the input."""
    service, _ = MKIO.speak(found_by_name())
    with pytest.raises(RefusedError) as caught:
        service.submit_job({**SPEC, key: "https://a.test/7.mp4?sv=1&sig=secret%3D"})
    assert "secret" not in str(caught.value)


def creating(dialect: Dialect, *acts: Any) -> tuple[Any, Wire]:
    """Open a service whose asset is there, and whose job is created with these acts."""
    return dialect.speak(*([answer(document={})] if dialect.is_arm else []), *acts)


@each_dialect
@pytest.mark.parametrize("lost", [LOST, answer(500), answer(502), answer(201, b"<html>"), answer(201, {})])
def test_a_lost_answer_to_a_create_is_looked_after(dialect: Dialect, lost: Any) -> None:
    """The job has a name, so it can be seen whether it is there; it is not created again."""
    service, wire = creating(dialect, lost, answer(document=job("clip-7", "Queued")))
    assert service.submit_job(SPEC).id == JOB
    assert [method for method, _ in wire.requests].count("PUT") == 1
    assert wire.requests[-1] == ("GET", dialect.url(PATH))


@each_dialect
@pytest.mark.parametrize(
    "then", ["an older job", "another job", "not there", "gateway", "trouble", "refused"]
)
def test_a_create_that_cannot_be_seen_is_uncertain(dialect: Dialect, then: str) -> None:
    """Whoever asked for it is told that it may have happened, whatever the look showed instead."""
    acts = {
        "an older job": answer(document=job("clip-7", "Finished")),
        "another job": answer(document=job("clip-7", outputs=[{"assetName": "elsewhere"}])),
        "not there": dialect.error(404),
        "gateway": GATEWAY,
        "trouble": answer(503),
        "refused": dialect.error(403, "Forbidden"),
    }
    service, wire = creating(dialect, LOST, acts[then])
    with pytest.raises(UncertainError):
        service.submit_job(SPEC)
    assert [method for method, _ in wire.requests].count("PUT") == 1


@each_dialect
def test_a_name_that_is_taken_is_told(dialect: Dialect) -> None:
    """409: the message says that it is the name, and what the service said."""
    service, wire = creating(dialect, dialect.error(409, "Conflict", "There it is."))
    with pytest.raises(RefusedError, match=rf"a job {JOB} already.*another name.*There it is\.") as caught:
        service.submit_job(SPEC)
    assert (caught.value.status, caught.value.code) == (409, "Conflict")
    assert wire.requests[-1][0] == "PUT"


def repeating(dialect: Dialect, *acts: Any) -> tuple[Any, Wire]:
    """Open a service as `creating` does, that tries a request again while the service has trouble."""
    wire = Wire(*([answer(document={})] if dialect.is_arm else []), *acts)
    return dialect.open(wire, Retries(tries=3, first_wait=0, max_wait=0)), wire


@each_dialect
@pytest.mark.parametrize("busy", [408, 429, 503])
def test_a_conflict_with_an_earlier_try_is_looked_at(dialect: Dialect, busy: int) -> None:
    """A gateway may answer 503 to what the service has done: the job that is there is the one asked for."""
    acts = answer(busy), dialect.error(409, "Conflict", "There it is."), answer(document=job())
    service, wire = repeating(dialect, *acts)
    assert service.submit_job(SPEC).id == JOB
    assert [method for method, _ in wire.requests[-3:]] == ["PUT", "PUT", "GET"]


@each_dialect
def test_a_conflict_with_an_older_job_after_trouble_is_uncertain(dialect: Dialect) -> None:
    """One that has ended already was there before, most likely; nobody is told that it is the new one."""
    acts = answer(503), dialect.error(409, "Conflict"), answer(document=job("clip-7", "Finished"))
    service, _ = repeating(dialect, *acts)
    with pytest.raises(UncertainError):
        service.submit_job(SPEC)


@each_dialect
def test_a_conflict_after_a_try_that_reached_nobody_is_a_name_that_is_taken(dialect: Dialect) -> None:
    """That try has made nothing, so the job is another's."""
    acts = NoAnswerError("refused", sent=False), dialect.error(409, "Conflict")
    service, wire = repeating(dialect, *acts)
    with pytest.raises(RefusedError, match="another name"):
        service.submit_job(SPEC)
    assert [method for method, _ in wire.requests[-2:]] == ["PUT", "PUT"]


@each_dialect
@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_create_that_is_refused_says_why(dialect: Dialect, status: int) -> None:
    """A transform that is not there is no missing job: there was to be one."""
    service, _ = creating(dialect, dialect.error(status, "Bad", "No such transform."))
    with pytest.raises(RefusedError, match="No such transform") as caught:
        service.submit_job(SPEC)
    assert caught.value.status == status
