"""The ARM surface as Azure Media Services and RMS had it, fact by fact."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests

from airflow_ams.emulator.process import Emulator
from tests.integration.client import Client
from tests.integration.client_v3 import (
    Arm,
    account_url,
    asset_input,
    built_in,
    entra_token,
    job_output,
    rms_token,
    scripted,
)

ENUM = "Microsoft.Media.JobState"
JOBS = "/transforms/Scripted/jobs"
RUNNING = {"states": ["Queued", {"state": "Processing", "seconds": 60}, "Finished"]}


@pytest.fixture
def arm(ams_emulator: Emulator) -> Arm:
    """Return a client of the ARM surface."""
    return Arm(ams_emulator)


def error_of(answer: requests.Response) -> tuple[int, str]:
    """Return status and code of a refusal."""
    return answer.status_code, answer.json()["error"]["code"]


def stop_clock(ams: Emulator, fraction: float) -> None:
    """Stop the emulator's clock at so many parts of a second."""
    ams.freeze()
    now = requests.get(f"{ams.url}_emulator/health", timeout=30).json()["now"]
    ams.advance(1 - now % 1 + fraction)


def test_the_dress_of_answers(arm: Arm, ams_emulator: Emulator) -> None:
    """Success is indented JSON with CRLF and OData's headers; an error is the ARM body."""
    ams_emulator.submit_scripted(transform="encode", job_name="job")
    good = arm.send("GET", "/transforms/encode/jobs/job")
    assert good.headers["Content-Type"] == "application/json; odata.metadata=minimal"
    assert good.headers["odata-version"] == "4.0"
    assert b'{\r\n  "name": "job",\r\n' in good.content
    absent = arm.send("GET", "/transforms/encode/jobs/other")
    assert absent.status_code == 404
    assert absent.headers["Content-Type"] == "application/json; charset=utf-8"
    expected = {"code": "NotFound", "message": "The requested resource was not found."}
    assert absent.json() == {"error": expected}
    assert arm.send("GET", "/transforms/other/jobs").json() == {"error": expected}


def test_create_and_read(arm: Arm, ams_emulator: Emulator) -> None:
    """The answer to PUT has seven digits and the bare input, a read three and the input in JobInputs."""
    stop_clock(ams_emulator, 0.1275)
    created = arm.put_job("Scripted/job", asset_input("film"), scripted("out", **RUNNING))
    properties = created["properties"]
    assert created["name"] == "job"
    assert created["type"] == "Microsoft.Media/mediaservices/transforms/jobs"
    assert (
        created["id"].lower()
        == account_url(ams_emulator).removeprefix(ams_emulator.url.rstrip("/")).lower()
        + "/transforms/scripted/jobs/job"
    )
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{7}Z", properties["created"])
    assert properties["input"]["@odata.type"] == "#Microsoft.Media.JobInputAsset"
    assert (properties["state"], properties["priority"]) == ("Queued", "Normal")
    (output,) = properties["outputs"]
    assert (output["state"], output["progress"], output["label"]) == ("Queued", 0, "ScriptedPreset_0")
    assert not {"description", "correlationData", "startTime", "endTime"} & set(properties)
    assert not {"error", "startTime", "endTime"} & set(output)
    read = arm.job("Scripted/job")
    assert read["created"] == properties["created"][:23] + "Z"
    assert read["created"].endswith(".127Z")
    assert read["input"] == {
        "@odata.type": "#Microsoft.Media.JobInputs",
        "inputs": [properties["input"]],
    }


def test_whole_seconds_have_no_fraction(arm: Arm, ams_emulator: Emulator) -> None:
    """Times are written in several ways."""
    stop_clock(ams_emulator, 0.0)
    arm.put_job("Scripted/job", asset_input("film"), scripted("out"))
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}Z", arm.job("Scripted/job")["created"])


def test_times_come_as_they_are_known(arm: Arm, ams_emulator: Emulator) -> None:
    """A start is there from Processing on, an end at the end; only a PATCH moves lastModified."""
    created = arm.put_job("Scripted/job", asset_input("film"), scripted("out", **RUNNING))["properties"]
    ams_emulator.advance(1.5)
    running = arm.job("Scripted/job")
    assert (running["state"], "startTime" in running, "endTime" in running) == ("Processing", True, False)
    assert ("startTime" in running["outputs"][0], "endTime" in running["outputs"][0]) == (True, False)
    ams_emulator.advance(30)
    assert 40 < arm.job("Scripted/job")["outputs"][0]["progress"] < 60
    ams_emulator.advance(40)
    ended = arm.job("Scripted/job")
    assert (ended["state"], ended["outputs"][0]["progress"]) == ("Finished", 100)
    assert ended["startTime"] < ended["endTime"]
    assert ended["lastModified"] == created["lastModified"][:23] + "Z"
    changed = arm.send("PATCH", f"{JOBS}/job", {"description": "text", "priority": "Low"}).json()
    assert (changed["properties"]["description"], changed["properties"]["priority"]) == ("text", "Low")
    assert changed["properties"]["lastModified"] > ended["lastModified"]
    assert arm.job("Scripted/job") == changed["properties"]


def test_what_the_caller_sent_comes_back(arm: Arm) -> None:
    """Description, correlation data, priority, label and presetOverride are kept."""
    output = scripted("out", tasks=1) | {"label": "mine"}
    more = {"description": "text", "correlationData": {"run": "1"}, "priority": "High"}
    arm.put_job("Scripted/job", asset_input("film"), output, **more)
    read = arm.job("Scripted/job")
    assert {name: read[name] for name in more} == more
    assert (read["outputs"][0]["label"], read["outputs"][0]["assetName"]) == ("mine", "out")
    assert read["outputs"][0]["presetOverride"] == output["presetOverride"]


def test_cancel_and_delete(arm: Arm) -> None:
    """Cancel is an empty 200; what is not final cannot be deleted, what is absent is 204."""
    arm.put_job("Scripted/job", asset_input("film"), scripted("out", canceling=60, **RUNNING))
    assert error_of(arm.send("DELETE", f"{JOBS}/job")) == (400, "BadRequest")
    canceled = arm.send("POST", f"{JOBS}/job/cancelJob")
    assert (canceled.status_code, canceled.headers["Content-Length"]) == (200, "0")
    assert arm.job("Scripted/job")["state"] == "Canceling"
    refused = arm.send("DELETE", f"{JOBS}/job")
    assert error_of(refused) == (400, "BadRequest")
    assert "the 'Canceling' state" in refused.json()["error"]["message"]
    assert arm.send("DELETE", f"{JOBS}/none").status_code == 204
    assert error_of(arm.send("POST", f"{JOBS}/none/cancelJob")) == (404, "NotFound")


def test_final_and_existing_jobs_refuse(arm: Arm) -> None:
    """A final job cannot be canceled, a name not be given twice; a final job can be deleted."""
    document = arm.put_job("Scripted/job", asset_input("film"), scripted("out", states=["Finished"]))
    assert error_of(arm.send("POST", f"{JOBS}/job/cancelJob")) == (400, "BadRequest")
    assert error_of(arm.send("PUT", f"{JOBS}/JOB", document["properties"])) == (409, "Conflict")
    assert arm.send("DELETE", f"{JOBS}/job").status_code == 200
    assert arm.send("DELETE", f"{JOBS}/job").status_code == 204


def test_names_and_segments_have_no_case(arm: Arm, ams_emulator: Emulator) -> None:
    """Ids come back in another case than paths, so both must lead to the same job."""
    created = arm.put_job("Scripted/Job-1", asset_input("film"), scripted("out"))
    for path in (created["id"], created["id"].upper(), created["id"].lower()):
        answer = requests.get(
            ams_emulator.url.rstrip("/") + path, params=arm.query, headers=arm.headers, timeout=30
        )
        assert (answer.status_code, answer.json()["name"]) == (200, "Job-1")


@pytest.mark.parametrize("version", ["2018-07-01", "2020-05-01", "2021-06-01", "2021-11-01", "2022-07-01"])
def test_versions(ams_emulator: Emulator, version: str) -> None:
    """All versions are answered; the oldest has no systemData."""
    ams_emulator.submit_scripted(transform="encode", job_name="job")
    arm = Arm(ams_emulator, version=version)
    one, (listed,) = arm.get("/transforms/encode/jobs/job"), arm.get("/transforms/encode/jobs")["value"]
    assert ("systemData" in one, "systemData" in listed) == (version != "2018-07-01",) * 2


def test_a_version_is_needed(ams_emulator: Emulator) -> None:
    """A request without a version, or with one that there never was, is 400."""
    arm = Arm(ams_emulator, version="2019-01-01")
    assert error_of(arm.send("GET", JOBS)) == (400, "InvalidResourceType")
    arm.query = {}
    assert error_of(arm.send("GET", JOBS)) == (400, "MissingApiVersionParameter")


@pytest.mark.parametrize(
    ("part", "other", "code"),
    [
        ("00000000-0000-4000-8000-0000000000a5", "another", "SubscriptionNotFound"),
        ("resourceGroups/emulator", "resourceGroups/another", "ResourceGroupNotFound"),
        ("mediaServices/emulator", "mediaServices/another", "ResourceNotFound"),
    ],
)
def test_a_path_that_leads_elsewhere(arm: Arm, part: str, other: str, code: str) -> None:
    """Each part of the path that is wrong has a code of its own."""
    arm.base = arm.base.replace(part, other)
    assert error_of(arm.send("GET", JOBS)) == (404, code)


def test_another_account_is_not_there() -> None:
    """A token of one account does not open another's."""
    with Emulator(other_accounts={"second": "key"}) as ams:
        arm = Arm(ams)
        arm.base = arm.base.replace(f"mediaServices/{ams.account}", "mediaServices/second")
        assert error_of(arm.send("GET", JOBS)) == (404, "ResourceNotFound")


@pytest.mark.parametrize(
    "audience",
    [
        "https://management.azure.com",
        "https://management.azure.com/",
        "https://management.core.windows.net/",
        "https://management.usgovcloudapi.net",
        "https://management.chinacloudapi.cn",
    ],
)
def test_management_tokens_are_taken(ams_emulator: Emulator, audience: str) -> None:
    """The clouds have audiences of their own."""
    assert Arm(ams_emulator, entra_token(ams_emulator, audience)).get("")["name"] == ams_emulator.account


def test_other_tokens_are_not(ams_emulator: Emulator, client: Client) -> None:
    """Tokens of v2, of MK.IO, for another audience or for nothing are 401; that of RMS is good."""
    wrong = [
        client.token,
        ams_emulator.personal_token(),
        entra_token(ams_emulator, "https://rest.media.azure.net"),
        entra_token(ams_emulator, "https://management.azure.com.example.org"),
        "none",
    ]
    for token in wrong:
        answer = Arm(ams_emulator, token).send("GET", JOBS)
        assert error_of(answer)[0] == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert Arm(ams_emulator, rms_token(ams_emulator)).get(JOBS)["value"] == []
    v2 = requests.get(
        f"{ams_emulator.base_url}Jobs",
        headers={"Authorization": f"Bearer {rms_token(ams_emulator)}", "x-ms-version": "2.19"},
        timeout=30,
    )
    assert v2.status_code == 401


def names(document: Any) -> list[str]:
    """Return the names in a list."""
    return [entry["name"] for entry in document["value"]]


def test_filters(arm: Arm, ams_emulator: Emulator) -> None:
    """States are enumerations, times are bare, and they combine."""
    ams_emulator.freeze()
    for name, state in (("b", "Processing"), ("a", "Finished"), ("c", "Queued")):
        ams_emulator.submit_scripted(transform="encode", job_name=name, states=[state])
        ams_emulator.advance(10)
    middle = arm.job("encode/a")["created"]
    for condition, expected in {
        f"properties/state eq {ENUM}'Processing'": ["b"],
        f"properties/state eq {ENUM}'finished'": ["a"],
        f"properties/state ne {ENUM}'Finished'": ["b", "c"],
        f"properties/state eq {ENUM}'Queued' or properties/state eq {ENUM}'Processing'": ["b", "c"],
        f"properties/created ge {middle}": ["a", "c"],
        f"properties/created lt {middle} and properties/state eq {ENUM}'Processing'": ["b"],
        f"properties/lastModified gt {middle}": ["c"],
        "name eq 'c'": ["c"],
    }.items():
        assert names(arm.get("/transforms/encode/jobs", filter_=condition)) == expected, condition
    for condition in (
        "properties/state eq 'Processing'",
        f"properties/state eq {ENUM}'Cancelled'",
        "properties/created ge '2020-01-01T00:00:00Z'",
        "state eq 'x'",
        "transform eq 'encode'",
    ):
        answer = arm.send("GET", "/transforms/encode/jobs", filter_=condition)
        assert error_of(answer) == (400, "BadRequest"), condition


def test_order_and_pages(arm: Arm, ams_emulator: Emulator) -> None:
    """The link to the next page is a whole URL, is there only if there is more, and keeps the options."""
    ams_emulator.limit(page_size=2)
    for name in "badc":
        ams_emulator.submit_scripted(transform="encode", job_name=name)
    ams_emulator.submit_scripted(transform="encode", job_name="e", states=["Finished"])
    asked = {"orderby_": "name desc", "filter_": f"properties/state ne {ENUM}'Finished'"}
    first = arm.get("/transforms/encode/jobs", **asked)
    assert names(first) == ["d", "c"]
    link = first["@odata.nextLink"]
    assert link.startswith(arm.base)
    assert "$skiptoken=" in link
    second = arm.follow(link).json()
    assert (names(second), "@odata.nextLink" in second) == (["b", "a"], False)
    assert error_of(arm.send("GET", "/transforms/encode/jobs", top_="1")) == (400, "BadRequest")
    assert error_of(arm.send("GET", "/transforms/encode/jobs", orderby_="properties/state")) == (
        400,
        "BadRequest",
    )


def test_the_same_job_in_v2(arm: Arm, client: Client) -> None:
    """A job made over v3 is a job in v2, and can be canceled there."""
    arm.put_job("Scripted/job", asset_input("film"), scripted("out", **RUNNING, canceling=60))
    (job,) = client.value("Jobs")
    assert (job["Name"], job["State"]) == ("job", 0)
    (output,) = client.value(f"Jobs('{job['Id']}')/OutputMediaAssets")
    assert output["Name"] == "out"
    assert client.get(f"CancelJob?jobid='{job['Id']}'").status_code == 204
    assert arm.job("Scripted/job")["state"] == "Canceling"


def test_a_job_of_v2_here(arm: Arm, ams_emulator: Emulator) -> None:
    """A job made over v2 has names as well, and an unknown state a text."""
    job_id = ams_emulator.submit_scripted(states=[42])
    (job,) = arm.get(JOBS)["value"]
    assert job["name"] == job_id.rpartition(":")[2]
    assert (job["properties"]["state"], job["properties"]["outputs"][0]["state"]) == ("State42", "State42")


@pytest.mark.parametrize(
    ("code", "category", "retry"),
    [
        ("ServiceTransientError", "Service", "MayRetry"),
        ("DownloadNotAccessible", "Download", "DoNotRetry"),
        ("ContentUnsupported", "Content", "DoNotRetry"),
        ("ErrorParsingConfiguration", "Configuration", "DoNotRetry"),
        ("Odd", None, None),
    ],
)
def test_errors_of_outputs(
    arm: Arm, client: Client, ams_emulator: Emulator, code: str, category: str | None, retry: str | None
) -> None:
    """An error has its group and its advice, and v2 shows code and message."""
    job_id = ams_emulator.submit_scripted(
        transform="encode", job_name="job", states=["Error"], error={"code": code, "message": "text"}
    )
    (output,) = arm.job("encode/job")["outputs"]
    error = output["error"]
    assert (output["state"], error["message"], error["details"]) == ("Error", "text", [])
    assert (error.get("category"), error.get("retry")) == (category, retry)
    (task,) = client.value(f"Jobs('{job_id}')/Tasks")
    assert task["ErrorDetails"] == [{"Code": code, "Message": "text"}]


def test_a_script_on_any_transform(arm: Arm) -> None:
    """An output's presetOverride makes a scripted job of one that would encode; tasks are outputs."""
    arm.put("/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")]})
    arm.put_job("encode/job", asset_input("none"), scripted("out", tasks=2, states=["Finished"]))
    read = arm.job("encode/job")
    assert [output["state"] for output in read["outputs"]] == ["Finished", "Finished"]
    assert [output["label"] for output in read["outputs"]] == ["ScriptedPreset_0", "ScriptedPreset_1"]


INPUT = asset_input("film")
OUTPUT = job_output("out")


@pytest.mark.parametrize(
    ("properties", "status"),
    [
        ({"input": INPUT}, 400),
        ({"input": INPUT, "outputs": []}, 400),
        ({"outputs": [OUTPUT]}, 400),
        ({"input": INPUT, "outputs": [OUTPUT, OUTPUT]}, 400),
        ({"input": INPUT, "outputs": [job_output("absent")]}, 400),
        ({"input": asset_input("absent"), "outputs": [OUTPUT]}, 400),
        ({"input": INPUT, "outputs": [OUTPUT], "priority": "Highest"}, 400),
        ({"input": INPUT, "outputs": [OUTPUT], "correlationData": {"a": 1}}, 400),
        ({"input": {"@odata.type": "#Microsoft.Media.JobInputs", "inputs": []}, "outputs": [OUTPUT]}, 400),
        (
            {
                "input": {"@odata.type": "#Microsoft.Media.JobInputs", "inputs": [INPUT, INPUT]},
                "outputs": [OUTPUT],
            },
            400,
        ),
        ({"input": {"@odata.type": "#Microsoft.Media.JobInputSequence"}, "outputs": [OUTPUT]}, 501),
        ({"input": INPUT, "outputs": [job_output("out", presetOverride={"@odata.type": "#Odd"})]}, 400),
    ],
)
def test_jobs_that_cannot_be(arm: Arm, properties: dict[str, Any], status: int) -> None:
    """What is no job is refused, and what the emulator leaves out says so."""
    arm.put("/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")]})
    for name in ("film", "out"):
        arm.put(f"/assets/{name}", {})
    assert arm.send("PUT", "/transforms/encode/jobs/job", properties).status_code == status
    assert arm.get("/transforms/encode/jobs")["value"] == []


@pytest.mark.parametrize(
    ("preset", "status"),
    [
        (built_in("NoSuchPreset"), 400),
        ({"preset": {"presetName": "AdaptiveStreaming"}}, 400),
        ({"preset": {"@odata.type": "#Microsoft.Media.StandardEncoderPreset"}}, 501),
        ({"preset": {"@odata.type": "#MediaKind.TrackInserterPreset"}}, 501),
        (built_in("AdaptiveStreaming", onError="Never"), 400),
    ],
)
def test_transforms_that_cannot_be(arm: Arm, preset: dict[str, Any], status: int) -> None:
    """A preset must be one that can be encoded with."""
    assert arm.send("PUT", "/transforms/encode", {"outputs": [preset]}).status_code == status
    assert arm.send("GET", "/transforms/encode").status_code == 404


def test_transforms(arm: Arm) -> None:
    """The second PUT changes and is 200; the transform for scripts is always there."""
    made = arm.put("/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")]})
    assert made["type"] == "Microsoft.Media/mediaservices/transforms"
    (output,) = made["properties"]["outputs"]
    assert (output["onError"], output["relativePriority"]) == ("StopProcessingJob", "Normal")
    changed = arm.send("PUT", "/transforms/encode", {"outputs": [built_in("ContentAwareEncoding")]})
    assert changed.status_code == 200
    assert {"encode", "Scripted"} <= set(names(arm.get("/transforms")))
    assert arm.send("DELETE", "/transforms/encode").status_code == 200
    assert arm.send("DELETE", "/transforms/encode").status_code == 204
    assert arm.send("GET", "/transforms/scripted").status_code == 200


def test_containers_open_to_signed_urls_only(arm: Arm, ams_emulator: Emulator) -> None:
    """A read URL does not write, an altered or old one does nothing."""
    arm.put("/assets/film", {})

    def url(permissions: str) -> str:
        wanted = {"permissions": permissions}
        answer = requests.post(
            f"{arm.base}/assets/film/listContainerSas",
            params=arm.query,
            json=wanted,
            headers=arm.headers,
            timeout=30,
        )
        container: str = answer.json()["assetContainerSasUrls"][0]
        return container.replace("?", "/clip.mp4?")

    def put(target: str) -> int:
        headers = {"x-ms-blob-type": "BlockBlob"}
        return requests.put(target, data=b"film", headers=headers, timeout=30).status_code

    write, read = url("ReadWrite"), url("Read")
    assert (put(read), put(write.replace("sp=", "sp=1")), put(write)) == (403, 403, 201)
    assert requests.get(read, timeout=30).content == b"film"
    ams_emulator.advance(7200)
    assert requests.get(read, timeout=30).status_code == 403


def test_what_is_left_out(arm: Arm) -> None:
    """The rest of the service says that it is not there."""
    assert error_of(arm.send("GET", "/liveEvents")) == (501, "NotImplemented")
    assert error_of(arm.send("POST", JOBS)) == (501, "NotImplemented")
    assert arm.send("GET", "").json()["type"] == "Microsoft.Media/mediaservices"


def test_bad_bodies(arm: Arm) -> None:
    """A body that is no JSON object is 400."""
    for body in (b"{", b"[]", b'{"properties": 1}'):
        answer = requests.put(
            f"{arm.base}{JOBS}/job", params=arm.query, data=body, headers=arm.headers, timeout=30
        )
        assert error_of(answer) == (400, "BadRequest")
