"""Scripted jobs are a pure function of their script and the time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.records import Job, Task
from airflow_ams.emulator.script import read_script


def scripted(document: dict[str, Any], age: float, canceled: float | None = None) -> tuple[Job, list[Task]]:
    """Return a job of *age* seconds and its tasks."""
    script = read_script(document)
    job = Job("j", "a", 1000.0, "job", 1000.0, canceled_at=None if canceled is None else 1000.0 + canceled)
    tasks = [Task(str(n), "a", 1000.0, "j", n, "", "", "", "") for n in range(script.tasks)]
    now = 1000.0 + age
    return script.job_at(job, now), [script.task_at(job, task, now) for task in tasks]


@pytest.mark.parametrize(
    ("age", "state", "progress"),
    [(0, 0, 0), (0.9, 0, 0), (1, 2, 0), (3.5, 2, 50), (6, 3, 100), (999, 3, 100)],
)
def test_default_script(age: float, state: int, progress: float) -> None:
    """Without any key a job is queued for one second, works for five, and finishes."""
    job, (task,) = scripted({}, age)
    assert (job.state, task.progress) == (state, progress)


def test_times_follow_the_states() -> None:
    """StartTime is when work began, EndTime when the final state was reached, and neither moves later."""
    for age in (6, 60):
        job, (task,) = scripted({}, age)
        assert (job.started, job.ended, job.modified) == (1001, 1006, 1006)
        assert (task.started, task.ended) == (1001, 1006)
    job, _ = scripted({}, 0.5)
    assert (job.started, job.ended) == (None, None)


def test_an_error_has_code_and_message() -> None:
    """A script with an error ends in Error, with the error on the first task."""
    document = {"tasks": 2, "error": {"code": "ErrorDownloadingInputAsset", "message": "gone"}}
    job, (first, second) = scripted(document, 60)
    assert (job.state, first.state, second.state) == (4, 4, 5)
    assert first.failures == [{"code": "ErrorDownloadingInputAsset", "message": "gone"}]
    assert second.failures == []
    assert first.events[-1]["code"] == "ErrorDownloadingInputAsset"


def test_an_error_state_has_a_default_error() -> None:
    """A script that ends in Error without saying why gets a reason all the same."""
    _, (task,) = scripted({"states": ["Error"]}, 0)
    assert task.failures[0]["code"] == "ErrorProcessingTask"


def test_an_error_may_say_what_v3_says() -> None:
    """Category, retry advice and details are kept as they are written."""
    error = {
        "code": "DownloadNotAccessible",
        "message": "gone",
        "category": "Download",
        "retry": "DoNotRetry",
        "details": [{"code": "Inner", "message": "403"}],
    }
    _, (task,) = scripted({"error": error}, 60)
    assert task.failures == [error]


def test_a_job_can_finish_although_a_task_fails() -> None:
    """With ContinueJob tasks that have an error end in Error when their turn is over, the job Finished."""
    document = {
        "on_error": "ContinueJob",
        "error": {"code": "E"},
        "tasks": 2,
        "states": [{"state": "Processing", "seconds": 10}, "Finished"],
    }
    job, (first, second) = scripted(document, 7.5)
    assert (job.state, first.state, first.ended, second.state) == (2, 4, 1005, 2)
    assert (second.failures, second.progress) == ([], 50)
    job, (first, second) = scripted(document, 60)
    assert (job.state, job.ended, first.state, second.state) == (3, 1010, 4, 3)
    assert (first.failures[0]["code"], first.ended) == ("E", 1005)
    assert first.events[-1]["code"] == "E"
    assert second.events[-1]["code"] == "TaskBillingInformationAdded"


def test_a_cancel_wins_over_a_failure_to_come() -> None:
    """A task that would have failed is Canceled when the job is, at that time."""
    job, (task,) = scripted({"on_error": "ContinueJob", "error": {}}, 60, canceled=3.5)
    assert (job.state, task.state, task.ended, task.failures) == (5, 5, 1003.5, [])


def test_tasks_run_one_after_another() -> None:
    """The tasks share the progress, so that their mean is the script's."""
    document = {"tasks": 2, "states": [{"state": "Processing", "seconds": 10}, "Finished"]}
    job, tasks = scripted(document, 7.5)
    assert [(task.state, task.progress) for task in tasks] == [(3, 100), (2, 50)]
    assert [task.started for task in tasks] == [1000, 1005]
    assert (tasks[0].ended, tasks[1].ended, job.ended) == (1005, None, None)


def test_unknown_last_state_stays() -> None:
    """A state that no client knows is possible, and one that is not final stays for ever."""
    job, _ = scripted({"states": [{"state": "Processing", "seconds": 1}, 9]}, 10_000)
    assert (job.state, job.ended) == (9, None)


def test_cancel_goes_through_canceling() -> None:
    """A cancel stops the progress, reads Canceling for as long as the script says, then Canceled."""
    document = {"canceling": 2}
    job, (task,) = scripted(document, 4, canceled=3.5)
    assert (job.state, task.state, task.progress) == (6, 6, 50)
    job, (task,) = scripted(document, 60, canceled=3.5)
    assert (job.state, task.state, task.progress, job.ended) == (5, 5, 50, 1005.5)
    assert [event["code"] for event in task.events][-2:] == ["Canceling", "Canceled"]


def test_history_has_five_events_at_the_end() -> None:
    """A finished task that was scheduled too has at least five events; the first has no message."""
    states = ["Queued", "Scheduled", "Processing", "Finished"]
    _, (task,) = scripted({"states": states}, 60)
    codes = ["WaitingForFreeResources", "Scheduled", "Processing", "Finished", "TaskBillingInformationAdded"]
    assert [event["code"] for event in task.events] == codes
    assert task.events[0]["message"] is None


def test_appearing_and_vanishing() -> None:
    """A job is there from `appear_after` until `vanish_after`."""
    script = read_script({"appear_after": 5, "vanish_after": 10})
    job = Job("j", "a", 0.0, "job", 0.0)
    assert [script.exists(job, now) for now in (0, 4.9, 5, 9.9, 10)] == [False, False, True, True, False]


@given(
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 100)), min_size=1, max_size=5),
    st.integers(1, 4),
    st.lists(st.floats(0, 200), min_size=2, max_size=10),
)
def test_progress_never_falls(steps: list[tuple[float, float]], tasks: int, ages: list[float]) -> None:
    """Whatever the script, each task's progress only rises with time and stays within 0 and 100."""
    reached, states = 0.0, []
    for seconds, progress in steps:
        high = max(reached, progress)
        states.append({"state": "Processing", "seconds": seconds, "progress": [reached, high]})
        reached = high
    document = {"states": [*states, "Finished"], "tasks": tasks}
    for position in range(tasks):
        seen = [scripted(document, age)[1][position].progress for age in sorted(ages)]
        assert seen == sorted(seen)
        assert 0 <= seen[0] <= seen[-1] <= 100


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ([], "JSON object"),
        ({"sates": []}, "no key 'sates'"),
        ({"states": []}, "at least one"),
        ({"states": ["Done"]}, "Unknown state 'Done'"),
        ({"states": [{"state": True}]}, "Unknown state True"),
        ({"states": [{"seconds": 1}]}, "key 'state'"),
        ({"states": [{"state": "Queued", "secs": 1}]}, "no key 'secs'"),
        ({"states": [{"state": "Queued", "seconds": -1}]}, "'seconds'"),
        ({"states": ["Finished", "Processing"]}, "final"),
        ({"states": [{"state": "Processing", "progress": [50, 10]}]}, "cannot fall"),
        ({"states": [{"state": "Processing", "progress": 500}]}, "percentage"),
        ({"tasks": 0}, "'tasks'"),
        ({"error": "bad"}, "'error'"),
        ({"error": {"code": 5}}, "'error'"),
        ({"error": [{}, {}]}, "only 1 task"),
        ({"error": {"cause": "x"}}, "no key 'cause'"),
        ({"error": {"details": "x"}}, "'details'"),
        ({"error": {"details": [{"code": "x"}]}}, "'details'"),
        ({"error": {"details": [{"code": "x", "message": 5}]}}, "'details'"),
        ({"on_error": "Continue"}, "'on_error'"),
        ({"on_error": "ContinueJob", "states": ["Error"]}, "not Error"),
        ({"error": {}, "states": ["Finished"]}, "not Error"),
        ({"appear_after": "soon"}, "'appear_after'"),
        ({"outputs": [{"size": 5}]}, "output"),
        ({"outputs": [{"name": "a", "size": -5}]}, "size"),
    ],
)
def test_bad_script_says_what_is_wrong(document: Any, what: str) -> None:
    """A script that is none is refused with a text that names the fault."""
    with pytest.raises(InvalidRequest, match=what):
        read_script(document)
