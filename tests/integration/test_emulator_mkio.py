"""MK.IO at its current and its older URLs, fact by fact."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
import requests

from airflow_ams.emulator.process import Emulator
from tests.integration.client_v3 import (
    LegacyMkio,
    Mkio,
    asset_input,
    built_in,
    entra_token,
    job_output,
    rms_token,
    scripted,
)

JOBS = "/transforms/Scripted/jobs"
RUNNING = {"states": ["Queued", {"state": "Processing", "seconds": 60}, "Finished"]}


@pytest.fixture
def mkio(ams_emulator: Emulator) -> Mkio:
    """Return a client of MK.IO."""
    return Mkio(ams_emulator)


def names(document: Any) -> list[str]:
    """Return the names in a list."""
    return [entry["name"] for entry in document["value"]]


def check_error(answer: requests.Response, status: int, part: str = "") -> None:
    """Check that an answer is a refusal in the service's form, with *part* in its text."""
    document = answer.json()
    assert (answer.status_code, document["status"]) == (status, status)
    assert set(document) == {"error", "status", "ref"}
    assert set(document["error"]) == {"code", "detail", "extraDetail"}
    assert part in document["error"]["detail"]
    assert document["ref"]


def test_create_and_read(mkio: Mkio, ams_emulator: Emulator) -> None:
    """Six digits, the bare input, an ARM-like id, and an output asset that the job has made."""
    document = {"input": asset_input("film"), "outputs": [scripted("out", **RUNNING)]}
    created = mkio.put(f"{JOBS}/job", document)
    assert created["id"].endswith(
        f"/resourceGroups/default/providers/Microsoft.Media/mediaservices/{ams_emulator.account}"
        "/transforms/Scripted/jobs/job"
    )
    assert created["supplemental"]["operation"] == "create"
    properties = created["properties"]
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{6}Z", properties["created"])
    read = mkio.get(f"{JOBS}/job")
    assert read["properties"]["created"] == properties["created"]
    assert read["properties"]["input"]["@odata.type"] == "#Microsoft.Media.JobInputAsset"
    (output,) = read["properties"]["outputs"]
    assert (output["assetName"], "presetOverride" in output) == ("out", False)
    assert (read["supplemental"]["operation"], "systemData" in read) == ("get", True)
    assert mkio.get("/assets/out")["name"] == "out"


def test_an_input_in_job_inputs_is_unwrapped(mkio: Mkio) -> None:
    """Recorded answers have the input bare, however it was sent."""
    wrapped = {"@odata.type": "#Microsoft.Media.JobInputs", "inputs": [asset_input("film")]}
    mkio.put_job("Scripted/job", wrapped, scripted("out"))
    assert mkio.job("Scripted/job")["input"]["@odata.type"] == "#Microsoft.Media.JobInputAsset"


def test_the_state_alone(mkio: Mkio, ams_emulator: Emulator) -> None:
    """The cheap request has the state, and nothing else."""
    mkio.put_job("Scripted/job", asset_input("film"), scripted("out", **RUNNING))
    ams_emulator.advance(2)
    assert mkio.get(f"{JOBS}/job/state") == {"status": {"state": "Processing"}}
    check_error(mkio.send("GET", f"{JOBS}/none/state"), 404)


@pytest.mark.parametrize(("seconds", "known"), [(0, False), (5, True)])
def test_a_start_may_be_unknown(mkio: Mkio, ams_emulator: Emulator, seconds: int, known: bool) -> None:
    """Some jobs that have finished have no startTime."""
    states = [{"state": "Processing", "seconds": seconds}, "Finished"]
    mkio.put_job("Scripted/job", asset_input("film"), scripted("out", states=states))
    ams_emulator.advance(10)
    job = mkio.job("Scripted/job")
    assert (job["state"], "endTime" in job, "startTime" in job) == ("Finished", True, known)


def test_errors_have_no_details(mkio: Mkio) -> None:
    """The rest of an output's error is that of AMS."""
    error = {"code": "ContentMalformed", "message": "No film.", "details": [{"code": "X", "message": "y"}]}
    mkio.put_job("Scripted/job", asset_input("film"), scripted("out", states=["Error"], error=error))
    assert mkio.job("Scripted/job")["outputs"][0]["error"] == {
        "code": "ContentMalformed",
        "message": "No film.",
        "category": "Content",
        "retry": "DoNotRetry",
    }


def test_change(mkio: Mkio) -> None:
    """A PATCH needs input and outputs, and may change the correlation data as well."""
    source, output = asset_input("film"), scripted("out", **RUNNING)
    mkio.put_job("Scripted/job", source, output)
    check_error(mkio.send("PATCH", f"{JOBS}/job", {"description": "text", "outputs": [output]}), 400, "input")
    check_error(mkio.send("PATCH", f"{JOBS}/job", {"description": "text", "input": source}), 400, "outputs")
    more = {"description": "text", "priority": "High", "correlationData": {"run": "2"}}
    changed = mkio.send("PATCH", f"{JOBS}/job", {**more, "input": source, "outputs": [output]})
    assert changed.status_code == 200
    read = mkio.job("Scripted/job")
    assert {name: read[name] for name in more} == more


def test_cancel_delete_and_conflict(mkio: Mkio) -> None:
    """The verbs answer as documented."""
    document = mkio.put_job("Scripted/job", asset_input("film"), scripted("out", **RUNNING))["properties"]
    check_error(mkio.send("PUT", f"{JOBS}/job", document), 409, "job")
    check_error(mkio.send("DELETE", f"{JOBS}/job"), 400, "'Queued' state")
    assert mkio.send("POST", f"{JOBS}/job/cancelJob").status_code == 200
    assert mkio.job("Scripted/job")["state"] == "Canceled"
    check_error(mkio.send("POST", f"{JOBS}/job/cancelJob"), 400)
    assert mkio.send("DELETE", f"{JOBS}/job").status_code == 200
    assert mkio.send("DELETE", f"{JOBS}/job").status_code == 204
    check_error(mkio.send("GET", f"{JOBS}/job"), 404)


@pytest.mark.parametrize("name", ["-job", "job.", "a b", "x" * 261])
def test_names(mkio: Mkio, name: str) -> None:
    """A name begins and ends with a letter or digit, and is not too long."""
    check_error(
        mkio.send("PUT", f"{JOBS}/{name}", {"input": asset_input("film"), "outputs": [scripted("out")]}),
        400,
        name[:200],
    )


def test_the_project_list(mkio: Mkio, ams_emulator: Emulator) -> None:
    """One list has the jobs of all transforms; its filter takes plain texts and knows the transform."""
    for transform, name, state in (("x", "b", "Queued"), ("y", "c", "Processing"), ("x", "a", "Processing")):
        ams_emulator.submit_scripted(transform=transform, job_name=name, states=[state])
    for condition, expected in {
        "properties/state eq 'Processing'": ["c", "a"],
        "transform eq 'x'": ["b", "a"],
        "transform eq 'x' and properties/state eq 'Processing'": ["a"],
        "properties/state eq 'Processing' or properties/state eq 'Queued'": ["b", "c", "a"],
        "created gt 2020-01-01T00:00:00Z and name ne 'b'": ["c", "a"],
    }.items():
        assert names(mkio.get("/jobs", filter_=condition)) == expected, condition
    assert names(mkio.get("/transforms/x/jobs", orderby_="name")) == ["a", "b"]
    assert names(mkio.get("/jobs", orderby_="properties/state desc", top_="2")) == ["b", "c"]
    enum = "properties/state eq Microsoft.Media.JobState'Processing'"
    check_error(mkio.send("GET", "/jobs", filter_=enum), 400)
    check_error(mkio.send("GET", "/jobs", filter_="nothing eq 'x'"), 400, "nothing")
    check_error(mkio.send("GET", "/jobs", orderby_="transform"), 400, "transform")


def test_pages(mkio: Mkio, ams_emulator: Emulator) -> None:
    """A list counts, and its link is a whole URL that keeps the filter."""
    ams_emulator.limit(page_size=3)
    for number in range(5):
        ams_emulator.submit_scripted(transform="x", job_name=f"job-{number}", states=["Processing"])
    ams_emulator.submit_scripted(transform="x", job_name="other", states=["Queued"])
    first = mkio.get("/jobs", filter_="properties/state eq 'Processing'")
    assert first["supplemental"] == {
        "count": 3,
        "kind": "Job",
        "operation": "list",
        "pagination": {"start": 0, "end": 3, "records": 3, "total": 5},
    }
    assert first["@odata.nextLink"].startswith(f"{mkio.base}/jobs?")
    second = mkio.follow(first["@odata.nextLink"]).json()
    assert (names(second), "@odata.nextLink" in second) == (["job-3", "job-4"], False)
    assert second["supplemental"]["pagination"] == {"start": 3, "end": 5, "records": 2, "total": 5}
    assert len(mkio.get("/jobs", top_="1")["value"]) == 1


def test_older_urls(ams_emulator: Emulator) -> None:
    """There the token has a header of its own, links are encoded paths, and errors plain texts."""
    ams_emulator.limit(page_size=1)
    for name in ("one", "two"):
        ams_emulator.submit_scripted(transform="x", job_name=name, states=["Processing"])
    old = LegacyMkio(ams_emulator)
    for path in ("/jobs", "/transforms/x/jobs"):
        link = old.get(path, filter_="properties/state eq 'Processing'")["@odata.nextLink"]
        assert link.startswith(f"/api/ams/{ams_emulator.account}{path}?")
        assert "%24skiptoken=" in link
        for form in (link, unquote(link)):
            assert names(old.follow(ams_emulator.url.rstrip("/") + form).json()) == ["two"]
    assert old.get("/transforms/x/jobs/one/state")["status"]["state"] == "Processing"
    absent = old.send("GET", "/transforms/x/jobs/none")
    assert (absent.status_code, type(absent.json()["error"])) == (404, str)
    old.headers = Mkio(ams_emulator).headers
    assert old.job("x/one")["state"] == "Processing"
    old.headers = {"x-mkio-token": "none"}
    assert old.send("GET", "/jobs").status_code == 401


def test_restricted_tokens(ams_emulator: Emulator) -> None:
    """Each right opens its verbs; cancel needs the right to create, and a refusal names what is missing."""
    path, document = f"{JOBS}/job", {"input": asset_input("film"), "outputs": [scripted("out", **RUNNING)]}
    needed = [
        ("PUT", path, document, "ams.job.create", 201),
        ("GET", path, None, "ams.job.get", 200),
        ("GET", f"{path}/state", None, "ams.job.get", 200),
        ("GET", "/jobs", None, "ams.job.get", 200),
        ("PATCH", path, document, "ams.job.update", 200),
        ("POST", f"{path}/cancelJob", None, "ams.job.create", 200),
        ("DELETE", path, None, "ams.job.delete", 200),
        ("GET", "/transforms", None, "ams.transform.get", 200),
        ("PUT", "/assets/film", {}, "ams.asset.create", 201),
    ]
    rights = sorted({right for *_, right, _ in needed})
    for method, where, body, right, status in needed:
        without = Mkio(ams_emulator, ams_emulator.personal_token([one for one in rights if one != right]))
        check_error(without.send(method, where, body), 403, right)
        alone = Mkio(ams_emulator, ams_emulator.personal_token([right]))
        assert alone.send(method, where, body).status_code == status, (method, where)


def test_tokens_of_others(mkio: Mkio, ams_emulator: Emulator) -> None:
    """Only a personal token counts, for its own project, until it expires."""
    for token in ("none", entra_token(ams_emulator), rms_token(ams_emulator)):
        check_error(Mkio(ams_emulator, token).send("GET", "/jobs"), 401)
    short = Mkio(ams_emulator, ams_emulator.personal_token(lifetime=60))
    assert names(short.get("/jobs")) == []
    ams_emulator.advance(61)
    check_error(short.send("GET", "/jobs"), 401, "expired")
    mkio.base = mkio.base.replace(f"projects/{ams_emulator.account}", "projects/another")
    check_error(mkio.send("GET", "/jobs"), 404, "another")


def test_transforms_and_assets(mkio: Mkio) -> None:
    """As much of them as a job needs."""
    assert mkio.put("/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")]})["name"] == "encode"
    assert mkio.send("PUT", "/transforms/encode", {"outputs": [built_in("NoSuch")]}).status_code == 400
    assert "encode" in names(mkio.get("/transforms"))
    assert mkio.get("/transforms/encode")["properties"]["outputs"][0]["onError"] == "StopProcessingJob"
    mkio.put("/assets/film", {"description": "a film"})
    assert mkio.get("/assets/film")["properties"]["description"] == "a film"
    assert names(mkio.get("/assets")) == ["film"]
    absent = {"input": asset_input("absent"), "outputs": [job_output("out")]}
    check_error(mkio.send("PUT", "/transforms/encode/jobs/job", absent), 400, "absent")
    assert names(mkio.get("/assets")) == ["film"]
    for path in ("/transforms/encode", "/assets/film"):
        assert [mkio.send("DELETE", path).status_code for _ in range(2)] == [200, 204]
        check_error(mkio.send("GET", path), 404)
    check_error(mkio.send("GET", "/liveEvents"), 501)
