"""How a job's priority is changed on the v3 dialects, and what MK.IO is sent besides."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_ams.api.errors import RefusedError, TransientError
from airflow_ams.api.retries import Retries
from tests.unit.v3_stub import JOB, PATH, Dialect, Wire, answer, each_dialect, each_mkio, job


@each_dialect
@pytest.mark.parametrize(
    ("given", "sent"),
    [("Low", "Low"), ("Normal", "Normal"), ("High", "High"), (0, "Normal"), (7, "High"), (-1, "Low")],
)
def test_the_priority_is_patched(dialect: Dialect, given: Any, sent: str) -> None:
    """A word of the service's, or a number as on v2; MK.IO wants input and outputs again, as created."""
    created: dict[str, Any] = {
        "input": {"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": "in", "files": ["a.mp4"]},
        "outputs": [{"@odata.type": "#Microsoft.Media.JobOutputAsset", "assetName": "out", "label": "720p"}],
    }
    added = {"state": "Queued", "progress": 0, "error": None, "startTime": None, "endTime": None}
    outputs = [{**output, **added} for output in created["outputs"]]
    properties = {**created, "outputs": outputs, "created": "2020-01-01"}
    service, wire = dialect.speak(answer(document=job(**properties)))
    service.set_priority(JOB, given)
    kept = {} if dialect.is_arm else created
    assert wire.requests[-1] == ("PATCH", dialect.url(PATH))
    assert wire.body() == {"properties": {**kept, "priority": sent}}
    assert wire.sent[-1]["headers"]["Content-Type"] == "application/json"


@each_dialect
@pytest.mark.parametrize("given", ["high", "", None, 1.5, [], {}])
def test_a_priority_that_is_none_is_refused_before_any_request(dialect: Dialect, given: Any) -> None:
    """The message has the three words."""
    service, wire = dialect.speak(answer(document=job()))
    with pytest.raises(RefusedError, match="Low, Normal and High"):
        service.set_priority(JOB, given)
    assert wire.sent == []


@each_mkio
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_job_that_reads_from_an_address_is_not_changed(dialect: Dialect, is_wrapped: bool) -> None:
    """Its signature is not in the answers, so the job would lose its input."""
    source: dict[str, Any] = {"@odata.type": "#Microsoft.Media.JobInputHttp", "files": ["https://a.test/x"]}
    if is_wrapped:
        source = {"@odata.type": "#Microsoft.Media.JobInputs", "inputs": [{"assetName": "a"}, source]}
    service, wire = dialect.speak(answer(document=job("clip-7", "Queued", input=source)))
    with pytest.raises(RefusedError, match=rf"{JOB} cannot be changed.*http address.*signature"):
        service.set_priority(JOB, "High")
    assert wire.requests == [("GET", dialect.url(PATH))]


@each_mkio
@pytest.mark.parametrize(
    "odd", [{"outputs": None}, {"outputs": [5, {}]}, {"input": [1]}, {"input": {"inputs": 5}}]
)
def test_a_change_of_an_odd_job_is_the_services_affair(dialect: Dialect, odd: dict[str, Any]) -> None:
    """No answer makes it crash."""
    service, wire = dialect.speak(answer(document=job("clip-7", "Queued", **odd)))
    service.set_priority(JOB, "High")
    assert wire.body()["properties"]["priority"] == "High"


@each_mkio
def test_a_change_reads_the_job_as_often_as_it_is_tried(dialect: Dialect) -> None:
    """And no oftener: trouble with the reading is not repeated for each try of the change."""
    wire = Wire(answer(503))
    service = dialect.open(wire, Retries(tries=3, first_wait=0, max_wait=0))
    with pytest.raises(TransientError):
        service.set_priority(JOB, 1)
    assert wire.requests == [("GET", dialect.url(PATH))] * 3
