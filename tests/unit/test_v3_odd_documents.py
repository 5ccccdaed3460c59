"""Nothing that stands in an answer of a v3 service breaks its reader."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_ams.api.errors import ServiceError, TransientError
from airflow_ams.api.model import Job, JobState, describe, document, verdict
from airflow_ams.api.v3_document import job_of
from tests.unit.v3_stub import ARM, JOB, MKIO, Dialect, answer, each_dialect, job, page

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
STATES = st.sampled_from([state.value for state in JobState]) | ANYTHING
ERRORS = ANYTHING | st.dictionaries(
    st.sampled_from(["code", "message", "category", "retry", "details"]),
    ANYTHING | st.lists(st.dictionaries(st.sampled_from(["code", "message"]), ANYTHING), max_size=2),
)
OUTPUTS = ANYTHING | st.lists(
    ANYTHING
    | st.fixed_dictionaries(
        {},
        optional={
            "state": STATES,
            "progress": ANYTHING,
            "label": ANYTHING,
            "assetName": ANYTHING,
            "error": ERRORS,
        },
    ),
    max_size=3,
)
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "state": STATES,
        "outputs": OUTPUTS,
        **dict.fromkeys(["created", "lastModified", "startTime", "endTime", "priority", "input"], ANYTHING),
        "correlationData": ANYTHING,
    },
)
DOCUMENTS = ANYTHING | st.fixed_dictionaries(
    {"name": st.just("clip-7") | ANYTHING, "properties": PROPERTIES | ANYTHING},
    optional={"id": st.just(job()["id"]) | ANYTHING, "error": ANYTHING, "systemData": ANYTHING},
)


@given(PROPERTIES)
@example({"state": "Processing", "outputs": None})
@example({"state": "Error", "outputs": [{"error": "text", "progress": 101}]})
@example({"state": "Error", "outputs": [{"error": {"details": None}, "progress": "5"}]})
@example({"state": "Finished", "startTime": "9999-12-31T23:59:59-11:00", "outputs": [{"state": []}]})
def test_no_properties_break_the_reader(properties: Any) -> None:
    """A job comes out that has a line, a verdict and a JSON document."""
    read = job_of({"name": "clip-7", "properties": properties}, JOB)
    json.dumps(document(read), allow_nan=False)
    assert describe(read)
    assert verdict(read).text
    assert read.progress is None or 0 <= read.progress <= 100


@pytest.mark.parametrize("dialect", [ARM, MKIO], ids=["arm", "mkio"])
@given(found=DOCUMENTS)
@example(found={"name": "clip-7", "properties": None})
@example(found=job("clip-7", "Error", outputs=[{"error": "text"}]))
@example(found={**job(), "name": "\ud800"})
def test_no_answer_breaks_a_service(dialect: Dialect, found: Any) -> None:
    """Whatever a service says, every way of reading it ends with a job, or with a `ServiceError`."""
    service, _ = dialect.speak(answer(document=found))
    reads: list[Any] = [
        lambda: service.get_job(JOB),
        lambda: service.poll_job(JOB, Job(JOB, "clip-7", JobState.QUEUED)),
        lambda: service.with_tasks(Job(JOB, "clip-7", JobState.ERROR)),
        lambda: service.get_outputs(JOB),
        lambda: service.set_priority(JOB, "High"),
        service.check,
    ]
    listing, _ = dialect.speak(page(found))
    scope = next(iter(listing.sweep_scopes([JOB])))
    reads += [
        lambda: list(listing.iter_jobs()),
        lambda: listing.sweep_page(scope, "", None, lambda *_: True),
        listing.check,
    ]
    for read in reads:
        with suppress(ServiceError):
            read()


ODD: tuple[Any, ...] = (None, [], "x", 5)


@each_dialect
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b'{"name": "clip',
        b"null",
        b"7",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"name": "clip-7"}',
    ]
    + [json.dumps({"name": "clip-7", "properties": odd}).encode() for odd in ODD],
)
def test_an_unusable_answer_is_trouble_to_wait_out(dialect: Dialect, body: bytes) -> None:
    """HTML, cut-off or foreign JSON with status 200 is no news about the job."""
    service, _ = dialect.speak(answer(document=body))
    with pytest.raises(TransientError):
        service.get_job(JOB)


@each_dialect
def test_another_jobs_end_is_not_taken_for_this_ones(dialect: Dialect) -> None:
    """A gateway that mixes answers up is trouble, not news; the name's case does not matter."""
    service, _ = dialect.speak(answer(document=job("clip-8", "Finished")))
    with pytest.raises(TransientError, match="another job"):
        service.get_job(JOB)
    service, _ = dialect.speak(answer(document=job("CLIP-7", "Finished")))
    assert service.get_job(JOB).id == JOB
