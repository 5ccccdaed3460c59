"""What is sent for each verb of the v3 dialects, and what is made of the answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_ams.api.errors import (
    JobNotFoundError,
    RefusedError,
    ServiceError,
    TransientError,
)
from airflow_ams.api.model import Job, JobState
from tests.unit.v3_stub import (
    ARM,
    GATEWAY,
    JOB,
    LEGACY,
    MKIO,
    PATH,
    RESOURCE,
    RMS,
    SPEC,
    TOKEN,
    Dialect,
    answer,
    each_arm,
    each_dialect,
    each_mkio,
    job,
)

LAST = Job(JOB, "clip-7", JobState.QUEUED)


# -- get and poll


@each_dialect
def test_a_job_is_read_with_one_request(dialect: Dialect) -> None:
    """At the address that the service documents."""
    service, wire = dialect.speak(answer(document=job()))
    assert service.get_job(JOB).state is JobState.PROCESSING
    assert wire.requests == [("GET", dialect.url(PATH))]
    assert service.requests == 1


@each_dialect
def test_a_full_id_is_read_as_the_job_that_it_names(dialect: Dialect) -> None:
    """The short form is what the job is known by from then on."""
    service, wire = dialect.speak(answer(document=job()))
    assert service.get_job(f"{RESOURCE}/{PATH}").id == JOB
    assert wire.requests == [("GET", dialect.url(PATH))]


@each_dialect
@pytest.mark.parametrize(
    "verb", ["get_job", "cancel_job", "delete_job", "get_outputs", "poll_job", "set_priority"]
)
def test_a_404_of_the_services_own_is_no_such_job(dialect: Dialect, verb: str) -> None:
    """Its body says so; after 90 days a job is gone, too."""
    service, _ = dialect.speak(dialect.error(404))
    arguments: dict[str, Any] = {"poll_job": [LAST], "set_priority": ["High"]}
    with pytest.raises(JobNotFoundError, match=JOB) as caught:
        getattr(service, verb)(JOB, *arguments.get(verb, []))
    assert caught.value.status == 404


@each_dialect
@pytest.mark.parametrize(
    "verb", ["get_job", "cancel_job", "delete_job", "get_outputs", "poll_job", "set_priority"]
)
@pytest.mark.parametrize("gateway", [GATEWAY, answer(404), answer(404, {"detail": "Not Found"})])
def test_a_404_of_a_gateway_says_nothing_of_the_job(dialect: Dialect, verb: str, gateway: Any) -> None:
    """HTML, or nothing, does not mean that the job is gone."""
    service, _ = dialect.speak(gateway)
    arguments: dict[str, Any] = {"poll_job": [LAST], "set_priority": ["High"]}
    with pytest.raises(RefusedError) as caught:
        getattr(service, verb)(JOB, *arguments.get(verb, []))
    assert caught.value.status == 404


@each_arm
@pytest.mark.parametrize(
    ("code", "field"),
    [
        ("SubscriptionNotFound", r"extra\.subscription_id"),
        ("InvalidSubscriptionId", r"extra\.subscription_id"),
        ("ResourceGroupNotFound", r"extra\.resource_group"),
        ("ResourceNotFound", r"extra\.account_name"),
        ("ParentResourceNotFound", r"extra\.account_name"),
    ],
)
def test_a_404_about_the_account_names_the_field(dialect: Dialect, code: str, field: str) -> None:
    """Resource Manager's own codes do not speak of the job, so no job is said to be gone."""
    service, _ = dialect.speak(dialect.error(404, code))
    for call in (lambda: service.get_job(JOB), lambda: service.cancel_job(JOB), service.check):
        with pytest.raises(RefusedError, match=field) as caught:
            call()
        assert caught.value.code == code
        assert "It is so." in str(caught.value)


@each_arm
def test_a_check_finds_the_wrong_account(dialect: Dialect) -> None:
    """A plain `NotFound` of the list of transforms is about the account."""
    service, _ = dialect.speak(dialect.error(404))
    with pytest.raises(RefusedError, match=r"extra\.account_name"):
        service.check()


@each_mkio
def test_mkio_names_the_project_of_a_job_that_is_not_there(dialect: Dialect) -> None:
    """It answers the same for a project that is not there, but for its text; the reference is for support."""
    service, _ = dialect.speak(dialect.error(404, text="The project 'contoso' was not found."))
    with pytest.raises(JobNotFoundError, match=r"job encode-720p/clip-7 in project 'contoso'") as caught:
        service.get_job(JOB)
    assert "it says 'The project 'contoso' was not found.'" in str(caught.value)
    assert "extra.project" in str(caught.value)
    assert "transform" in str(caught.value)
    assert caught.value.request_id == "ref-1"


@pytest.mark.parametrize("dialect", [ARM, RMS, MKIO], ids=["arm", "rms", "mkio"])
def test_a_bare_text_is_a_gateways(dialect: Dialect) -> None:
    """Only the older MK.IO says so what is not there; many frameworks say so that they have no such path."""
    service, _ = dialect.speak(answer(404, {"status": 404, "error": "Not Found"}, reason="Not Found"))
    for call in (lambda: service.get_job(JOB), lambda: service.sweep_page("", "", None, lambda *_: True)):
        with pytest.raises(RefusedError) as caught:
            call()
        assert (caught.value.status, caught.value.code) == (404, None)


@pytest.mark.parametrize("reason", ["Not Found", ""])
def test_the_older_mkio_says_in_a_bare_text_what_is_not_there(reason: str) -> None:
    """That is a body of the service's own, whether or not the status line has a phrase."""
    service, _ = LEGACY.speak(answer(404, {"error": "Job not found"}, reason=reason))
    with pytest.raises(JobNotFoundError):
        service.get_job(JOB)


@each_dialect
def test_a_first_poll_reads_the_whole_job(dialect: Dialect) -> None:
    """There is nothing to compare with."""
    service, wire = dialect.speak(answer(document=job()))
    assert service.poll_job(JOB, None).outputs == ()
    assert wire.requests == [("GET", dialect.url(PATH))]


@pytest.mark.parametrize("dialect", [ARM, RMS, LEGACY], ids=["arm", "rms", "legacy"])
def test_where_there_is_nothing_cheaper_each_poll_reads_the_job(dialect: Dialect) -> None:
    """No `/state` is asked for that is not there."""
    service, wire = dialect.speak(answer(document=job()))
    assert service.poll_job(JOB, LAST).state is JobState.PROCESSING
    assert wire.requests == [("GET", dialect.url(PATH))]


@pytest.mark.parametrize("state", ["Queued", "Scheduled", "Processing", "Canceling", "processing"])
def test_mkio_is_asked_for_the_state_alone(state: str) -> None:
    """It tells neither percent nor errors, so these are unknown again, not those of before."""
    service, wire = MKIO.speak(answer(document={"status": {"state": state}}))
    last = replace(LAST, progress=40.0, outputs=())
    found = service.poll_job(JOB, last)
    assert (found.id, found.name, found.state.value.casefold()) == (JOB, "clip-7", state.casefold())
    assert (found.progress, found.outputs) == (None, None)
    assert wire.requests == [("GET", MKIO.url(f"{PATH}/state"))]


@pytest.mark.parametrize("state", ["Finished", "Error", "Canceled", "Paused", None, "", 7])
def test_mkio_is_asked_for_the_job_where_the_state_does_not_do(state: Any) -> None:
    """At an end for what there is to know of it, and when the state says nothing, as it may be null."""
    service, wire = MKIO.speak(
        answer(document={"status": {"state": state}}), answer(document=job("clip-7", "Finished"))
    )
    assert service.poll_job(JOB, LAST).state is JobState.FINISHED
    assert wire.requests == [("GET", MKIO.url(f"{PATH}/state")), ("GET", MKIO.url(PATH))]


@pytest.mark.parametrize(
    "document", [None, [], {}, {"status": "Processing"}, {"status": None}, {"state": "Finished"}]
)
def test_a_state_of_no_shape_tells_nothing(document: Any) -> None:
    """The job itself is asked for instead."""
    service, _ = MKIO.speak(answer(document=json.dumps(document).encode()), answer(document=job()))
    assert service.poll_job(JOB, LAST).state is JobState.PROCESSING


@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_state_that_cannot_be_asked_for_is_not_asked_for_again(status: int) -> None:
    """It is the job's document that tells then; a refusal of the state says nothing of the job."""
    service, wire = MKIO.speak(MKIO.error(status), answer(document=job()))
    for _ in range(3):
        assert service.poll_job(JOB, LAST).state is JobState.PROCESSING
    assert wire.requests == [("GET", MKIO.url(f"{PATH}/state"))] + [("GET", MKIO.url(PATH))] * 3


def test_a_job_that_has_ended_is_not_asked_for_its_state_again() -> None:
    """When it cannot be read at once, it is the whole job that is tried again; once only."""
    service, wire = MKIO.speak(
        answer(document={"status": {"state": "Error"}}),
        answer(503),
        answer(document=job("clip-7", "Processing")),
        answer(document={"status": {"state": "Processing"}}),
    )
    with pytest.raises(TransientError):
        service.poll_job(JOB, LAST)
    for _ in range(2):
        assert service.poll_job(JOB, LAST).state is JobState.PROCESSING
    whole, state = ("GET", MKIO.url(PATH)), ("GET", MKIO.url(f"{PATH}/state"))
    assert wire.requests == [state, whole, whole, state]


@pytest.mark.parametrize("status", [401, 403])
def test_who_may_not_read_a_state_is_told_so(status: int) -> None:
    """It is about who asks."""
    service, wire = MKIO.speak(MKIO.error(status))
    with pytest.raises(RefusedError):
        service.poll_job(JOB, LAST)
    assert len(wire.requests) == 1


@each_dialect
def test_what_a_reading_tells_is_not_asked_for_again(dialect: Dialect) -> None:
    """Percent, errors and outputs come with the job; only what lacks them is read once more."""
    service, wire = dialect.speak(answer(document=job("clip-7", "Error")))
    whole = service.get_job(JOB)
    assert service.with_tasks(whole) is service.with_outputs(whole) is whole
    running = replace(LAST, state=JobState.PROCESSING, progress=3.0)
    assert service.with_tasks(running) is running
    assert len(wire.sent) == 1
    assert service.with_tasks(LAST).state is JobState.ERROR
    assert service.with_outputs(LAST).outputs == ()
    assert len(wire.sent) == 3


@each_dialect
def test_the_assets_of_a_job(dialect: Dialect) -> None:
    """They are in its document; their files are not this API's."""
    service, _ = dialect.speak(answer(document=job(outputs=[{"assetName": "a"}, {"assetName": "b"}])))
    assert [found.asset_id for found in service.get_outputs(JOB)] == ["a", "b"]
    with pytest.raises(RefusedError, match="container of asset 'a'"):
        service.get_output_files("a")


# -- cancel, delete


@each_dialect
def test_a_job_is_canceled_with_a_post(dialect: Dialect) -> None:
    """The answer is empty."""
    service, wire = dialect.speak(answer(200))
    service.cancel_job(JOB)
    assert wire.requests == [("POST", dialect.url(f"{PATH}/cancelJob"))]
    assert wire.sent[0]["body"] is None


@each_dialect
@pytest.mark.parametrize("status", [400, 409])
@pytest.mark.parametrize("state", ["Canceling", "Canceled"])
def test_canceling_twice_is_no_error(dialect: Dialect, status: int, state: str) -> None:
    """What was asked for is happening, or has happened."""
    service, wire = dialect.speak(dialect.error(status, "BadRequest"), answer(document=job("clip-7", state)))
    service.cancel_job(JOB)
    assert wire.requests[-1] == ("GET", dialect.url(PATH))


@each_dialect
@pytest.mark.parametrize("status", [400, 409])
@pytest.mark.parametrize("state", ["Finished", "Error"])
def test_a_job_that_has_ended_cannot_be_canceled(dialect: Dialect, status: int, state: str) -> None:
    """The message says how it ended."""
    service, _ = dialect.speak(dialect.error(status, "BadRequest"), answer(document=job("clip-7", state)))
    with pytest.raises(RefusedError, match=f"it is {state}") as caught:
        service.cancel_job(JOB)
    assert caught.value.status == status


@each_dialect
def test_a_cancel_that_is_refused_otherwise_says_why(dialect: Dialect) -> None:
    """As MK.IO may refuse it for a job that runs: the service's own words, and no claim that it has ended."""
    service, _ = dialect.speak(dialect.error(400, "BadRequest", "It runs."), answer(document=job()))
    with pytest.raises(RefusedError, match=r"It runs\.") as caught:
        service.cancel_job(JOB)
    assert "any more" not in str(caught.value)
    service, wire = dialect.speak(dialect.error(403, "Forbidden"))
    with pytest.raises(RefusedError):
        service.cancel_job(JOB)
    assert len(wire.sent) == 1


@each_dialect
def test_a_job_is_deleted(dialect: Dialect) -> None:
    """200, with or without a body."""
    service, wire = dialect.speak(answer(200))
    service.delete_job(JOB)
    assert wire.requests == [("DELETE", dialect.url(PATH))]


@each_arm
def test_deleting_what_is_not_there_is_told(dialect: Dialect) -> None:
    """204 means that there was none; it is the same error as on v2."""
    service, _ = dialect.speak(answer(204))
    with pytest.raises(JobNotFoundError, match=JOB):
        service.delete_job(JOB)


@each_mkio
def test_mkio_may_answer_a_delete_with_204(dialect: Dialect) -> None:
    """What it means there is not documented, so it is no error."""
    service, wire = dialect.speak(answer(204))
    service.delete_job(JOB)
    assert len(wire.sent) == 1


@each_dialect
def test_a_job_that_is_being_canceled_is_not_deleted(dialect: Dialect) -> None:
    """400, with the service's words, which say what to do."""
    text = "The job is in the 'Canceling' state. Cancel it or retry after processing."
    service, _ = dialect.speak(dialect.error(400, "BadRequest", text))
    with pytest.raises(RefusedError, match="'Canceling' state") as caught:
        service.delete_job(JOB)
    assert caught.value.status == 400


# -- check, secrets


@pytest.mark.parametrize(
    ("dialect", "document", "said"),
    [
        (ARM, {"value": [{"name": "t", "properties": {}}]}, "'contoso' has 1 transform"),
        (RMS, {"value": []}, "'contoso' has 0 transforms"),
        (MKIO, {"value": [job()]}, "in project 'contoso' there is at least one job"),
        (LEGACY, {"value": []}, "in project 'contoso' there is no job yet"),
    ],
)
def test_a_check_is_one_read(dialect: Dialect, document: Any, said: str) -> None:
    """It says where it was, and what it saw."""
    service, wire = dialect.speak(answer(document=document))
    sentence = service.check()
    assert sentence.startswith(dialect.base)
    assert said in sentence
    expected = dialect.url("transforms") if dialect.is_arm else dialect.url("jobs", "$top=1")
    assert wire.requests == [("GET", expected)]


@each_dialect
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500, 503])
def test_no_message_holds_the_token(dialect: Dialect, status: int) -> None:
    """Whatever part of an answer quotes it: text, code, reference or the status line."""
    said = f"No, {TOKEN}, sig=SEKRET"
    document = {"error": {"code": said, "message": said, "detail": said}, "ref": said}
    acts = answer(status, document, reason=said), answer(status, {"error": said}, reason=said)
    for act in acts:
        service, _ = dialect.speak(act)
        for verb, given in (("get_job", JOB), ("cancel_job", JOB), ("delete_job", JOB), ("submit_job", SPEC)):
            with pytest.raises(ServiceError) as caught:
                getattr(service, verb)(given)
            assert TOKEN not in f"{caught.value!s}{caught.value!r}"
            assert "SEKRET" not in str(caught.value)


@each_dialect
@pytest.mark.parametrize(
    "location",
    ["https://evil.test/jobs", "/elsewhere", "http://[evil", "", "https://user:pw@evil.test/?sig=SEKRET"],
)
def test_a_redirect_is_not_followed(dialect: Dialect, location: str) -> None:
    """No token goes to where a 301 or 302 points; the message says to which host."""
    for status in (301, 302, 307):
        service, wire = dialect.speak(answer(status, headers={"Location": location}))
        with pytest.raises(RefusedError) as caught:
            service.get_job(JOB)
        assert len(wire.sent) == 1
        assert "None" not in str(caught.value)
        assert "SEKRET" not in str(caught.value)
        assert ("evil.test" in str(caught.value)) == ("evil.test" in location)
