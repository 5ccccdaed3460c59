"""What makes a submission known among all others, and what a new try makes of the job that it finds."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import permutations
from typing import Any

import pytest

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.model import Job, JobOutput, JobState
from airflow_ams.api.submission import (
    Attempt,
    is_taken_up,
    last_by_number,
    last_of,
    mark_of,
    marked,
    may_be_resubmitted,
    number_in,
)

MARK = mark_of("dag", "task", "run", -1)


def test_marks_tell_tasks_apart() -> None:
    """None is another's, however the ids are put together."""
    identities = [
        ("dag", "task", "run", -1),
        ("dag", "task", "run", 0),
        ("dag", "taskrun", -1),
        ("d", "agtask"),
    ]
    marks = {mark_of(*identity) for identity in identities}
    assert len(marks) == len(identities)
    assert all(len(mark) == 16 and mark.isalnum() for mark in marks)
    assert mark_of("dag", "task", "run", -1) == MARK


def test_a_name_ends_in_mark_and_number() -> None:
    """Both can be read back; other names hold none."""
    name = marked("clip ✓ 7", MARK, 12, 256)
    assert name == f"clip ✓ 7-{MARK}-12"
    assert number_in(name, MARK) == 12
    for other in (f"clip-{mark_of('x')}-1", f"clip-{MARK}", f"clip-{MARK}-", f"clip-{MARK}-1x", "clip"):
        assert number_in(other, MARK) is None


def test_a_name_has_room_for_its_mark() -> None:
    """What is too long for the service is refused, whatever the number may become; nothing is cut."""
    assert len(marked("x" * 234, MARK, 9999, 256)) == 256
    with pytest.raises(RefusedError, match="235 characters; give it 234 at most"):
        marked("x" * 235, MARK, 1, 256)


@pytest.mark.parametrize(
    ("state", "reported", "wanted"),
    [
        ("Queued", False, True),
        ("Scheduled", False, True),
        ("Processing", False, True),
        ("Processing", True, True),
        ("Unknown", False, True),
        ("Finished", False, True),
        ("Finished", True, False),
        ("Canceling", False, False),
        ("Canceled", False, False),
        ("Error", False, False),
    ],
)
def test_what_is_taken_up(state: str, reported: bool, wanted: bool) -> None:
    """A job that runs, or has finished unheard of; whatever else there is has a successor."""
    assert is_taken_up(Job("id", "name", JobState(state)), is_reported=reported) is wanted


def test_a_finished_job_with_a_failed_output_is_not_taken_up() -> None:
    """It has failed."""
    output = JobOutput("out", "out", state=JobState.ERROR)
    assert not is_taken_up(Job("id", "name", JobState.FINISHED, outputs=(output,)), is_reported=False)


def attempt(number: int, key: str, state: str, minute: int | None = 0) -> Attempt:
    """Make a job of a mark, created in some minute."""
    created = None if minute is None else datetime(2026, 1, 1, 0, minute, tzinfo=timezone.utc)
    return Attempt(number, Job(key, f"clip-{MARK}-{number}", JobState(state), created=created))


@pytest.mark.parametrize(
    "best_first",
    [
        [attempt(2, "a", "Error", 5), attempt(1, "b", "Finished"), attempt(1, "c", "Canceled")],
        [attempt(1, "b", "Queued", 1), attempt(1, "a", "Canceled"), attempt(1, "c", "Error", 2)],
        [attempt(1, "b", "Finished", 1), attempt(1, "a", "Processing", 2), attempt(1, "c", "Canceling")],
        [attempt(1, "a", "Queued", 1), attempt(1, "b", "Queued", 1), attempt(1, "c", "Queued", None)],
        [attempt(1, "a", "Error"), attempt(1, "b", "Canceled"), attempt(1, "c", "Error")],
    ],
)
def test_all_tries_choose_the_same_job(best_first: list[Attempt]) -> None:
    """However the service sorts them: the highest number, then what is of use, then the first."""
    for order in permutations(best_first):
        assert last_of(order) == best_first[0]
    assert last_of([]) is None


@pytest.mark.parametrize(
    ("made", "number", "last", "asked"),
    [
        ([], 1, None, [1]),
        ([], 4, None, [4, 3, 2, 1]),
        ([1], 4, 1, [4, 3, 2, 1]),
        ([1, 3], 5, 3, [5, 4, 3]),
        ([4], 4, 4, [4, 5]),
        ([2, 3, 4], 2, 4, [2, 3, 4, 5]),
    ],
)
def test_numbers_are_asked_for_upward_first(
    made: list[int], number: int, last: int | None, asked: list[int]
) -> None:
    """No job is missed for a number that a try has left out, and what is known to be older is not read."""
    read = []

    def reading(n: int) -> Attempt | None:
        read.append(n)
        return attempt(n, str(n), "Queued") if n in made else None

    found = last_by_number(reading, number)
    assert (found and found.number) == last
    assert read == asked


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ([], False),
        ([{"code": "ServiceError", "retry": "MayRetry"}], True),
        ([{"code": "ContentMalformed", "retry": "DoNotRetry"}], False),
        (
            [
                {"code": "ServiceError", "retry": "MayRetry"},
                {"code": "ContentMalformed", "retry": "DoNotRetry"},
            ],
            False,
        ),
        ([{"code": "TransientError", "retry": None}], True),
        ([{"code": "ErrorDownloadingInputAssetServiceFailure", "retry": None}], True),
        ([{"code": "ErrorParsingConfiguration", "retry": None}], False),
        ([{"code": "ServiceTransientError", "retry": "DoNotRetry"}], False),
    ],
)
def test_what_may_do_better_another_time(errors: list[dict[str, Any]], wanted: bool) -> None:
    """The service's advice counts; where it gives none, the kind of error does."""
    assert may_be_resubmitted({"errors": errors}) is wanted
    assert not may_be_resubmitted(None)
