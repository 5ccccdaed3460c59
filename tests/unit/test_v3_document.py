"""What is read out of a v3 job document, however odd it is."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_ams.api.model import Job, JobError, JobState, Outcome, describe, document, verdict
from airflow_ams.api.v3_document import job_of, progress_of, state_of
from tests.unit.v3_stub import JOB, RESOURCE, job

UTC = timezone.utc
CREATED: dict[str, Any] = {
    "name": "clip-7",
    "id": f"{RESOURCE}/transforms/t/jobs/clip-7",
    "type": "Microsoft.Media/mediaservices/transforms/jobs",
    "properties": {
        "created": "2020-07-20T05:46:31.1276056Z",
        "state": "Queued",
        "input": {"@odata.type": "#Microsoft.Media.JobInputAsset", "files": [], "assetName": "source"},
        "lastModified": "2020-07-20T05:46:31.1276056Z",
        "outputs": [
            {
                "@odata.type": "#Microsoft.Media.JobOutputAsset",
                "state": "Queued",
                "progress": 0,
                "label": "BuiltInStandardEncoderPreset_0",
                "assetName": "clip-7-720p",
            }
        ],
        "priority": "Normal",
        "correlationData": {"order": "17"},
    },
}
"""As the service answers a create: no start, no description, seven digits."""
ERROR: dict[str, Any] = {
    "code": "ContentMalformed",
    "message": "The input cannot be read.",
    "category": "Content",
    "retry": "DoNotRetry",
    "details": [
        {"code": "NoVideo", "message": "no video track"},
        {"code": "NoAudio", "message": "no audio track"},
    ],
}


def read(state: Any = "Processing", *outputs: Any, **properties: Any) -> Job:
    """Read a job with these outputs."""
    return job_of(job("clip-7", state, outputs=list(outputs), **properties), JOB)


def output(state: Any = "Processing", progress: Any = 0, number: int = 1, **fields: Any) -> dict[str, Any]:
    """Write an output as the services do."""
    return {
        "assetName": f"asset-{number}",
        "label": f"label-{number}",
        "state": state,
        "progress": progress,
        **fields,
    }


def test_a_job_that_was_just_created() -> None:
    """Times to the microsecond, no percent yet, the document itself in `raw`."""
    read = job_of(CREATED, "t/clip-7")
    at = datetime(2020, 7, 20, 5, 46, 31, 127605, UTC)
    assert (read.id, read.name, read.state, read.progress) == ("t/clip-7", "clip-7", JobState.QUEUED, None)
    assert (read.created, read.modified, read.started, read.ended, read.duration) == (
        at,
        at,
        None,
        None,
        None,
    )
    assert read.priority == "Normal"
    assert read.errors == ()
    assert read.outputs is not None
    (only,) = read.outputs
    assert (only.asset_id, only.name, only.label) == (
        "clip-7-720p",
        "clip-7-720p",
        "BuiltInStandardEncoderPreset_0",
    )
    assert (only.state, only.progress, only.error) == (JobState.QUEUED, 0, None)
    assert read.raw["properties"]["correlationData"] == {"order": "17"}


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.UNKNOWN])
@pytest.mark.parametrize("spelling", [str, str.lower, str.upper])
def test_states_are_known_in_any_case(state: JobState, spelling: Any) -> None:
    """The seven of the reference; an example of its own writes one in lower case."""
    assert state_of(job("x", spelling(state.value))) is state


@pytest.mark.parametrize(
    "state", [None, "", "Unknown", "Paused", 7, True, [], {}, ["Finished"], {"state": "Finished"}]
)
def test_a_state_without_a_name_here_is_waited_through(state: Any) -> None:
    """The enumeration is open, so another value is no end; the line shows what was said."""
    read = job_of(job("x", state), "t/x")
    assert read.state is JobState.UNKNOWN
    assert verdict(read).outcome is Outcome.WAITING
    assert state is None or repr(state) in describe(read)


def test_a_state_that_is_left_out_is_unknown() -> None:
    """A document without it is a job all the same."""
    assert job_of({"name": "x", "properties": {}}, "t/x").state is JobState.UNKNOWN


@pytest.mark.parametrize("digits", range(8))
@pytest.mark.parametrize("field", ["created", "lastModified", "startTime", "endTime"])
def test_times_have_any_number_of_digits(field: str, digits: int) -> None:
    """None to seven, as the recordings have them, and the one instant is read."""
    fraction = "1276056"[:digits]
    read = job_of(job("x", **{field: f"2020-07-20T05:46:31{'.' if digits else ''}{fraction}Z"}), "t/x")
    at = datetime(2020, 7, 20, 5, 46, 31, int(fraction[:6].ljust(6, "0")), UTC)
    names = {
        "created": read.created,
        "lastModified": read.modified,
        "startTime": read.started,
        "endTime": read.ended,
    }
    assert names == {**dict.fromkeys(names), field: at}


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00", None, "", "yesterday", 7, {}, True]
)
def test_a_time_that_is_none_is_unset(text: Any) -> None:
    """The year 1 of an old example, null, and what is no time: how a job ended counts, not when."""
    read = job_of(job("x", "Finished", created=text, lastModified=text, startTime=text, endTime=text), "t/x")
    assert (read.created, read.modified, read.started, read.ended, read.duration) == (None,) * 5
    assert verdict(read).outcome is Outcome.SUCCEEDED


def test_the_duration_is_from_start_to_end() -> None:
    """In seconds, when both are told; the forms of the two times may differ."""
    read = job_of(job("x", startTime="2020-07-20T05:46:31Z", endTime="2020-07-20T05:47:01.5000000Z"), "t/x")
    assert read.duration == timedelta(seconds=30.5).total_seconds()
    assert job_of(job("x", endTime="2020-07-20T05:47:01Z"), "t/x").duration is None


@pytest.mark.parametrize(
    ("progress", "mean"),
    [
        ([40], 40),
        ([0, 50], 25),
        ([100, 50, 0], 50),
        ([100, None], 50),
        ([None], 0),
        ([33, 34], 33.5),
        ([], None),
    ],
)
def test_percent_is_the_mean_of_the_outputs(progress: list[Any], mean: float | None) -> None:
    """There is none at the job itself; an output that does not tell has not begun."""
    outputs = [output("Processing", percent) for percent in progress]
    for state in ("Processing", "Canceling"):
        assert progress_of(job("x", state, outputs=outputs), JobState(state)) == mean
        assert read(state, *outputs).progress == mean


@pytest.mark.parametrize("state", ["Queued", "Scheduled", None])
def test_there_is_no_percent_before_a_job_runs(state: Any) -> None:
    """Its zeros mean nothing then."""
    assert read(state, output(state, 0)).progress is None


def test_percent_of_what_has_ended() -> None:
    """A finished job is at a hundred, whatever its outputs forgot; another stays where it got to."""
    assert read("Finished", output("Finished", 0)).progress == 100
    assert read("Finished").progress == 100
    assert read("Error", output("Error", 30), output("Error", 50)).progress == 40
    assert read("Canceled", output("Canceled", 30)).progress == 30
    assert read("Canceled").progress is None


@pytest.mark.parametrize(
    "progress", [101, 1e9, -1, "5", "", None, [], {}, True, float("nan"), float("inf"), 10**400]
)
def test_an_odd_percent_stays_within_bounds(progress: Any) -> None:
    """No log shows 101 % or nan, and nothing crashes."""
    for state in ("Processing", "Error", "Finished"):
        read_job = read(state, output(state, progress), output(state, 0))
        assert read_job.progress is not None
        assert 0 <= read_job.progress <= 100
        json.dumps(document(read_job), allow_nan=False)
        assert describe(read_job)


@pytest.mark.parametrize("outputs", [None, {}, "outputs", 5, [], [None], [5, "x", []]])
def test_outputs_that_are_none(outputs: Any) -> None:
    """Null and other types where the list belongs: a job without outputs, which are known to be none."""
    read = job_of(job("x", outputs=outputs), "t/x")
    assert read.outputs == ()
    assert read.progress is None
    assert read.errors == ()


def test_an_output_without_names_has_a_number() -> None:
    """There is always something to call it by; its state, if not told, is no guess."""
    (only,) = read("Processing", {}).outputs or ()
    assert (only.asset_id, only.name, only.label, only.state, only.progress) == (
        "",
        "output 0",
        None,
        None,
        None,
    )


def test_an_error_is_read_whole() -> None:
    """Code, text, category, retry advice and details, under the output's label."""
    (error,) = read("Error", output("Error", 30, error=ERROR)).errors
    assert error == JobError(
        code="ContentMalformed",
        message="The input cannot be read.",
        task="label-1",
        category="Content",
        retry="DoNotRetry",
        details=(("NoVideo", "no video track"), ("NoAudio", "no audio track")),
    )


def test_every_output_may_have_an_error_of_its_own() -> None:
    """None is left out, not only the first is read."""
    errors = read(
        "Error",
        output("Error", 30, 1, error={"code": "A", "message": "a"}),
        output("Finished", 100, 2, error=None),
        output("Error", 30, 3, error={"code": "C", "message": "c"}, label=None),
    ).errors
    assert [str(error) for error in errors] == ["label-1: A: a", "asset-3: C: c"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("It broke.", "label-1: Unknown: It broke."),
        ({"code": "X", "message": "x", "details": None}, "label-1: X: x"),
        ({"code": "X", "message": "x", "details": "none"}, "label-1: X: x"),
        ({"code": "X", "message": "x", "details": [None, 5, {}]}, "label-1: X: x ()"),
        ({"code": "X", "message": None}, "label-1: X"),
        ({"code": None, "message": "x"}, "label-1: Unknown: x"),
        ({"message": "x", "category": "Content"}, "label-1: Unknown: x [Content]"),
        ({"code": 5, "message": {"value": "x"}, "retry": 7}, "label-1: 5: {'value': 'x'} [7]"),
        (["X"], "label-1: Unknown: ['X']"),
        (7, "label-1: Unknown: 7"),
    ],
)
def test_an_odd_error_is_told_as_well_as_it_can_be(error: Any, text: str) -> None:
    """A bare text, as the older MK.IO has it, no details, as MK.IO has it, and whatever else."""
    assert [str(error) for error in read("Error", output("Error", 0, error=error)).errors] == [text]


@pytest.mark.parametrize("error", [None, "", {}, []])
def test_no_error_is_none(error: Any) -> None:
    """Services write null, or leave it out."""
    assert read("Finished", output("Finished", 100, error=error)).errors == ()


def test_a_finished_job_with_a_failed_output_has_failed() -> None:
    """`onError: ContinueJob` does not show in the job's state; the line tells all that is known."""
    found = verdict(read("Finished", output("Finished", 100, 1), output("Error", 30, 2, error=ERROR)))
    assert found.outcome is Outcome.FAILED
    for word in (
        JOB,
        "label-2",
        "asset-2",
        "ContentMalformed",
        "Content",
        "DoNotRetry",
        "The input cannot be read.",
    ):
        assert word in found.text
    for word in ("NoVideo", "no video track", "NoAudio", "no audio track"):
        assert word in found.text
    assert "label-1" not in found.text
    assert "asset-1" not in found.text


def test_a_failed_output_without_an_error_fails_its_job_too() -> None:
    """The service gave no reason, which is said."""
    found = verdict(read("Finished", output("Error", 30)))
    assert found.outcome is Outcome.FAILED
    assert "asset-1" in found.text
    assert "no reason" in found.text


@pytest.mark.parametrize("state", ["Finished", "Processing", "Queued", None])
def test_a_finished_job_with_no_output_in_error_has_succeeded(state: Any) -> None:
    """Outputs have states of their own, which may lag behind the job's; those that are final count."""
    assert verdict(read("Finished", output(state, 30))).outcome is Outcome.SUCCEEDED


def test_a_job_with_a_failed_output_that_runs_on_is_waited_for() -> None:
    """It is not over yet."""
    assert verdict(read("Processing", output("Error", 30, error=ERROR), output())).outcome is Outcome.WAITING


def test_outputs_in_the_job_document() -> None:
    """XCom has asset names and labels, and errors with advice and details."""
    told = document(read("Error", output("Error", 30, error=ERROR)))
    assert told["outputs"] == [{"asset_id": "asset-1", "name": "asset-1", "label": "label-1", "uri": None}]
    (error,) = told["errors"]
    assert (error["category"], error["retry"]) == ("Content", "DoNotRetry")
    assert error["details"][0] == {"code": "NoVideo", "message": "no video track"}


def test_no_signature_of_a_storage_url_is_told() -> None:
    """Services quote the URL that could not be read; line and document leave its signature out."""
    url = "https://a.blob.core.windows.net/in/clip.mp4?sv=1&sig=SEKRET%3D"
    error = {"code": "DownloadNotAccessible", "message": url, "details": [{"code": "Http", "message": url}]}
    found = read("Error", output("Error", 0, error=error, label=url))
    for shown in (verdict(found).text, describe(found), json.dumps(document(found))):
        assert "SEKRET" not in shown
