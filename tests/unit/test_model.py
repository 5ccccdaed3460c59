"""What a job means, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ams.api.model import (
    MAX_ERROR_TEXT,
    Job,
    JobError,
    JobOutput,
    JobState,
    JobTask,
    Outcome,
    describe,
    document,
    mean_progress,
    verdict,
    without_query,
    without_signatures,
)

ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
SECRET = "kZ3%2Fx9Qv7abcdEFGH"
JOB = Job(id=ID, name="Encode", state=JobState.PROCESSING)
SIGNED = [
    f"https://a.blob.core.windows.net/asset-1/a.mp4?sv=2012-02-12&sr=c&se=2026-01-01&sig={SECRET}",
    f"https://a.blob.core.windows.net/c/a.mp4?sig={SECRET}&sv=2012",
    f"https://a.test/?u=https%253A%252F%252Fb.test%253Fsig%253D{SECRET}",
    f"BlobEndpoint=https://a.test/;SharedAccessSignature={SECRET}",
    f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET};EndpointSuffix=core.windows.net",
    f"?SIG={SECRET}",
    f"?sv=1&Signature={SECRET}",
    f'{{"url": "https://a.test/c?sv=1\\u0026sig={SECRET}"}}',
    f"<a href='https://a.test/c?sv=1&amp;sig={SECRET}'>",
    f"https://a.test/?next=https%3A%2F%2Fb.test%2Fc%3Fsv%3D1%26sig%3D{SECRET}",
]


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (JobState.QUEUED, Outcome.WAITING),
        (JobState.SCHEDULED, Outcome.WAITING),
        (JobState.PROCESSING, Outcome.WAITING),
        (JobState.CANCELING, Outcome.WAITING),
        (JobState.UNKNOWN, Outcome.WAITING),
        (JobState.FINISHED, Outcome.SUCCEEDED),
        (JobState.ERROR, Outcome.FAILED),
        (JobState.CANCELED, Outcome.CANCELED),
    ],
)
def test_every_state_has_its_outcome(state: JobState, outcome: Outcome) -> None:
    """Three states are final; Canceling and unknown ones are waited through."""
    assert verdict(replace(JOB, state=state)).outcome is outcome
    assert state.is_final is (outcome is not Outcome.WAITING)


def test_no_state_is_left_out_above() -> None:
    """A state that is added needs a decision of its own."""
    assert len(JobState) == 8


def test_a_failure_names_job_and_every_reason() -> None:
    """The verdict of a failed job holds name, id and each task's code and message, on one line."""
    errors = (JobError("ErrorA", "first\n  reason", "one"), JobError("ErrorB", "", "two"))
    text = verdict(replace(JOB, state=JobState.ERROR, errors=errors)).text
    assert text == f"Job 'Encode' ({ID}) failed: one: ErrorA: first reason; two: ErrorB"


def test_a_failure_without_reasons_says_so() -> None:
    """A job in Error whose tasks say nothing still gives a whole sentence."""
    assert verdict(Job(id=ID, name="", state=JobState.ERROR)).text == (
        f"Job {ID} failed; the service gave no reason"
    )


def test_a_cancellation_says_so() -> None:
    """Canceled is told apart from failed."""
    assert "was canceled" in verdict(replace(JOB, state=JobState.CANCELED)).text


def test_a_finished_job_with_a_failed_output_has_failed() -> None:
    """An output in Error spoils a Finished job, and is named with its reason."""
    bad = JobOutput("nb:cid:1", "thumbs", state=JobState.ERROR, error=JobError("E1", "disk full"))
    good = JobOutput("nb:cid:2", "video", state=JobState.FINISHED)
    found = verdict(replace(JOB, state=JobState.FINISHED, outputs=(good, bad)))
    assert found.outcome is Outcome.FAILED
    assert "thumbs" in found.text
    assert "E1: disk full" in found.text
    assert "video" not in found.text


@pytest.mark.parametrize(
    ("state", "error", "outcome"),
    [
        (JobState.ERROR, None, Outcome.FAILED),
        (JobState.CANCELED, None, Outcome.FAILED),
        (None, JobError("E1", "disk full"), Outcome.FAILED),
        (None, None, Outcome.SUCCEEDED),
        (JobState.FINISHED, JobError("E1", "disk full"), Outcome.SUCCEEDED),
        (JobState.PROCESSING, JobError("E1", "disk full"), Outcome.SUCCEEDED),
    ],
)
def test_outputs_that_a_finished_job_did_not_write(
    state: JobState | None, error: JobError | None, outcome: Outcome
) -> None:
    """By their state; by their error if they have none."""
    output = JobOutput("asset", "thumbs", state=state, error=error)
    found = verdict(replace(JOB, state=JobState.FINISHED, outputs=(output,)))
    assert found.outcome is outcome
    assert ("thumbs" in found.text) is (outcome is Outcome.FAILED)


def test_describe_says_percent_and_tasks() -> None:
    """The progress line holds state, whole percent, and each task's share."""
    tasks = (
        JobTask("t1", "video", JobState.PROCESSING, 80.4),
        JobTask("t2", "thumbs", JobState.QUEUED, None),
    )
    line = describe(replace(JOB, progress=40.2, tasks=tasks))
    assert line == f"Job 'Encode' ({ID}) is Processing, 40 % (video: Processing 80 %; thumbs: Queued 0 %)"


def test_describe_tells_an_unknown_state() -> None:
    """The service's own word for a state that we do not know is shown."""
    assert "the service says 9" in describe(replace(JOB, state=JobState.UNKNOWN, raw={"State": 9}))


def test_a_name_forges_no_log_line() -> None:
    """Whatever a job, or a task, is called, what is said of it is one line."""
    task = JobTask("t", "task\nFAKE", JobState.PROCESSING)
    job = Job("nb:jid:UUID:1", "clip\nFAKE ERROR", JobState.PROCESSING, tasks=(task,))
    assert "\n" not in describe(job)
    failed = replace(job, state=JobState.ERROR, errors=(JobError("E\n", "a\nb", "t\n"),))
    assert "\n" not in verdict(failed).text


@pytest.mark.parametrize("signed", SIGNED)
def test_no_signature_is_ever_said(signed: str) -> None:
    """Whoever reads a verdict, a progress line or an XCom learns no SAS signature, wherever it stood."""
    error = JobError(f"E {signed}", f"cannot read {signed}", f"task {signed}")
    output = JobOutput("nb:cid:UUID:1", f"out {signed}", uri=signed, state=JobState.ERROR, error=error)
    task = JobTask("t", f"task {signed}", JobState.ERROR, errors=(error,))
    for state in JobState:
        job = Job(
            ID,
            f"name {signed}",
            state,
            tasks=(task,),
            errors=(error,),
            outputs=(output,),
            raw={"State": signed},
        )
        said = verdict(job).text + describe(job) + json.dumps(document(job))
        assert SECRET not in said
        assert SECRET[-10:] not in said


def test_blanking_leaves_the_rest_readable() -> None:
    """Only the signature goes: the address that an error speaks of stays."""
    assert without_signatures("see https://a.test/c?sv=1&sig=abc%3D&se=2, design=5") == (
        "see https://a.test/c?sv=1&sig=***&se=2, design=5"
    )


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        (None, None),
        ("", None),
        ("https://a.blob.core.windows.net/asset-1", "https://a.blob.core.windows.net/asset-1"),
        ("https://u:p@a.test:8443/asset-1/x?sig=1#f", "https://a.test:8443/asset-1/x"),
        ("https://[broken/asset-1?sig=1", None),
    ],
)
def test_an_uri_is_cut_to_its_address(uri: str | None, plain: str | None) -> None:
    """User info, query and fragment go; what is no URL at all is no uri, and no crash."""
    assert without_query(uri) == plain


def test_the_document_is_small_json() -> None:
    """The XCom holds exactly these keys, times in ISO 8601 with their zone, and cut texts."""
    start = datetime(2015, 2, 11, 1, 46, 16, 580000, tzinfo=timezone.utc)
    job = Job(
        ID,
        "Encode",
        JobState.FINISHED,
        progress=100.0,
        created=start,
        started=start,
        ended=None,
        duration=39.605,
        errors=(
            JobError(
                "E",
                "x" * (MAX_ERROR_TEXT + 100),
                "one",
                category="Content",
                retry="DoNotRetry",
                details=(("D", "at https://a.test/c?sig=1"),),
            ),
        ),
        outputs=(JobOutput("nb:cid:UUID:1", "out", "https://a.test/c?sig=1", label="720p"),),
    )
    assert json.loads(json.dumps(document(job))) == {
        "id": ID,
        "name": "Encode",
        "state": "Finished",
        "progress": 100.0,
        "created": "2015-02-11T01:46:16.580000+00:00",
        "started": "2015-02-11T01:46:16.580000+00:00",
        "ended": None,
        "duration_seconds": 39.605,
        "errors": [
            {
                "task": "one",
                "code": "E",
                "message": "x" * MAX_ERROR_TEXT,
                "category": "Content",
                "retry": "DoNotRetry",
                "details": [{"code": "D", "message": "at https://a.test/c?sig=***"}],
            }
        ],
        "outputs": [{"asset_id": "nb:cid:UUID:1", "name": "out", "label": "720p", "uri": "https://a.test/c"}],
    }
    assert document(replace(job, outputs=None))["outputs"] is None


@given(
    name=st.text(),
    message=st.text(max_size=2000),
    progress=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    uri=st.none() | st.text(),
)
def test_any_job_has_a_document_and_a_line(
    name: str, message: str, progress: float | None, uri: str | None
) -> None:
    """Whatever texts a service sends, there is a JSON document, a verdict and a line."""
    error = JobError("E", message)
    job = Job(ID, name, JobState.ERROR, progress, errors=(error,), outputs=(JobOutput("a", name, uri),))
    assert len(json.loads(json.dumps(document(job)))["errors"][0]["message"]) <= MAX_ERROR_TEXT
    assert "\n" not in verdict(job).text or "\n" in name
    assert describe(job)


@pytest.mark.parametrize(
    ("shares", "mean"),
    [((), None), ((None,), 0), ((50,), 50), ((100, 0, None), 100 / 3), ((-5, 300), 50)],
)
def test_percent_is_the_mean_of_the_tasks(shares: tuple[float | None, ...], mean: float | None) -> None:
    """A job's percent is its tasks' mean, each held between 0 and 100."""
    tasks = tuple(JobTask("t", "t", JobState.PROCESSING, share) for share in shares)
    assert mean_progress([task.progress for task in tasks]) == (None if mean is None else pytest.approx(mean))
