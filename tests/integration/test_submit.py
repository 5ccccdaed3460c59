"""The submit operator: what it creates, waits for and returns, and that it never creates twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_ams.api.submission import mark_of
from airflow_ams.exceptions import AmsJobCanceled, AmsJobFailed, AmsJobFailedRetryable
from tests.integration.submits import MODES, RUNNING, Store, Try, creates, encode, operator
from tests.integration.waits import all_apis, in_line

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

MARK = mark_of("nightly", "encode", "manual__1", -1)


@all_apis
@MODES
def test_a_job_is_submitted_and_waited_for(ams: Emulator, deferrable: bool) -> None:
    """The document is the sensor's; the id is an XCom of its own, and the name ends in mark and number."""
    made = operator(
        encode(ams, states=[{"state": "Processing", "seconds": 0.3}, "Finished"]), deferrable=deferrable
    )
    one = Try()
    job = one.run(made)
    assert (job["state"], job["name"]) == ("Finished", f"clip-{MARK}-1")
    assert one.xcoms["job_id"] == job["id"]
    assert [output["name"] for output in job["outputs"]] == ["out"]
    assert creates(ams) == 1


RETRYABLE = {"code": "ServiceTransientError", "message": "busy", "category": "Service", "retry": "MayRetry"}


def job_of(one: Try) -> str:
    """Return the id that a try has told of."""
    return str(one.xcoms["job_id"])


# -- never twice: what a new try finds


@all_apis
@pytest.mark.parametrize("stored", [False, True], ids=["by its name", "by the state store"])
def test_a_running_job_is_waited_for(ams: Emulator, stored: bool) -> None:
    """The worker died in mid-wait, or before; the next try waits for the same job."""
    given, store = encode(ams, states=RUNNING), Store() if stored else None
    first = Try(store=store)
    assert operator(given, wait_for_completion=False).execute(first.context)["state"] in (
        "Queued",
        "Processing",
    )
    if store is not None:
        store.kept["ams_job"]["reported_in"] = None
    ams.advance(3600)
    ams.clear_requests()
    second = Try(2, store=store)
    assert second.run(operator(given))["id"] == job_of(first) == job_of(second)
    looks = [r for r in ams.requests() if "startswith" in r["query"] or r["path"].endswith(f"{MARK}-2")]
    assert bool(looks) is not stored
    assert creates(ams) == 0


@all_apis
def test_a_finished_job_that_nobody_has_reported_is_reused(ams: Emulator) -> None:
    """It has finished while no worker was there."""
    given, first = encode(ams, states=["Finished"]), Try()
    operator(given, wait_for_completion=False).execute(first.context)
    second = Try(2)
    assert second.run(operator(given))["id"] == job_of(first)
    assert creates(ams) == 1


@all_apis
@pytest.mark.parametrize("stored", [False, True], ids=["3.1", "3.3"])
def test_a_task_that_is_cleared_after_success_encodes_anew(ams: Emulator, stored: bool) -> None:
    """Whoever clears it wants that; Airflow then grants as many tries again."""
    given, store = encode(ams, states=["Finished"]), Store() if stored else None
    first = Try(store=store)
    first.run(operator(given))
    again = Try(2, max_tries=1 + 2, store=store)
    assert again.run(operator(given))["name"] == f"clip-{MARK}-2"
    third = Try(3, max_tries=1 + 2, store=store)
    assert job_of(again) != job_of(first)
    assert creates(ams) == 2
    # Should that try have died before it could report success, its job is its successor's.
    assert third.run(operator(given))["id"] == job_of(again)
    assert creates(ams) == 2


@all_apis
def test_a_task_that_is_cleared_after_a_failure_reuses_its_job(ams: Emulator) -> None:
    """By the state store it is known that nobody has reported the job that has finished since."""
    given, store = encode(ams, states=RUNNING), Store()
    first = Try(store=store)
    with pytest.raises(Exception, match="Timed out"):
        first.run(operator(given, timeout=1, cancel_on_timeout=False))
    ams.advance(3600)
    again = Try(2, max_tries=1 + 2, store=store)
    assert again.run(operator(given))["id"] == job_of(first)
    assert creates(ams) == 1


@all_apis
@pytest.mark.parametrize("state", ["Canceling", "Canceled", "Error"])
def test_a_job_that_did_not_finish_has_a_successor(ams: Emulator, state: str) -> None:
    """The next try submits another job, under the next number."""
    script = {"states": ["Error"]} if state == "Error" else {"states": RUNNING, "canceling": 3600}
    given, first = encode(ams, **script), Try()
    operator(given, wait_for_completion=False).execute(first.context)
    if state != "Error":
        with operator(given).hook as hook:
            hook.cancel_job(job_of(first))
    if state == "Canceled":
        ams.advance(3600)
    second = Try(2)
    operator(given, wait_for_completion=False).execute(second.context)
    assert job_of(second) != job_of(first)
    assert creates(ams) == 2


# -- a job that fails


@all_apis
@MODES
@pytest.mark.parametrize(
    ("resubmit", "errors", "is_retried"),
    [
        ("auto", RETRYABLE, True),
        ("auto", {"code": "ContentMalformed", "message": "bad", "retry": "DoNotRetry"}, False),
        ("always", {"code": "ContentMalformed", "message": "bad", "retry": "DoNotRetry"}, True),
        ("never", RETRYABLE, False),
    ],
)
def test_a_failed_job_is_retried_where_that_may_help(
    ams: Emulator, deferrable: bool, resubmit: str, errors: dict[str, str], is_retried: bool
) -> None:
    """The text is the same; the kind of exception tells Airflow whether to try again."""
    given = encode(ams, states=["Error"], error=errors)
    if ams.api == "v2" and resubmit == "auto" and is_retried:
        given = encode(ams, states=["Error"], error={"code": "TransientError", "message": "busy"})
    with pytest.raises((AmsJobFailed, AmsJobFailedRetryable), match=errors["message"]) as caught:
        Try().run(operator(given, resubmit=resubmit, deferrable=deferrable))
    assert isinstance(caught.value, AmsJobFailedRetryable) is is_retried
    # There is no try left.
    with pytest.raises(AmsJobFailed, match=errors["message"]):
        Try(3, run_id="manual__2").run(operator(given, resubmit=resubmit, deferrable=deferrable))


@all_apis
@MODES
def test_a_job_that_a_clear_cancels_late_has_a_successor(
    ams: Emulator, deferrable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The new try may look just before the old one's trigger has canceled the job."""
    given, first = encode(ams, states=[{"state": "Processing", "seconds": 2}, "Finished"]), Try()
    operator(given, wait_for_completion=False).execute(first.context)

    def cancel() -> None:
        with operator(given).hook as hook:
            hook.cancel_job(job_of(first))

    again = Try(2, max_tries=1 + 2)
    with caplog.at_level("INFO"), in_line(cancel):
        assert again.run(operator(given, deferrable=deferrable))["name"] == f"clip-{MARK}-2"
    assert "because the task was cleared" in caplog.text
    assert creates(ams) == 2


@all_apis
@MODES
def test_a_job_that_somebody_cancels_is_a_failure(ams: Emulator, deferrable: bool) -> None:
    """Whether this try or the one before has submitted it: nobody has cleared the task."""
    given, first = encode(ams, states=RUNNING), Try()
    operator(given, wait_for_completion=False).execute(first.context)

    def cancel() -> None:
        with operator(given).hook as hook:
            hook.cancel_job(job_of(first))

    with in_line(cancel), pytest.raises(AmsJobCanceled, match="was canceled"):
        Try(2).run(operator(given, deferrable=deferrable))
    assert creates(ams) == 1
