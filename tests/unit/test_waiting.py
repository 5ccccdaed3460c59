"""What one wait knows and says, without a watch or a sensor."""

from __future__ import annotations

import pytest

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.model import Job, JobState
from airflow_ams.api.waiting import wait_on

ID = "nb:jid:UUID:00000000-0000-4000-8000-000000000001"


def test_progress_is_logged_on_change_and_after_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged job is mentioned again only after the silence; a changed one at once."""
    wait = wait_on(ID)
    for progress, now, expected in [
        (1.0, 1000, True),
        (1.0, 1005, False),
        (2.0, 1006, True),
        (2.0, 1305, False),
        (2.0, 1306, True),
        (2.0, 1307, False),
        (3.0, 1308, True),
    ]:
        # Five minutes are not to be had here.
        monkeypatch.setattr("airflow_ams.api.waiting.time.monotonic", lambda now=now: now)
        line = wait.line(Job(ID, "Encode", JobState.PROCESSING, progress))
        assert (line is not None) is expected
        assert line is None or line.endswith(f", {progress:.0f} %")


def test_ids_that_differ_in_case_are_one_job() -> None:
    """No service tells them apart, so one of them would never be seen; the message shows the first."""
    wait = wait_on(["t/j", "t/other", "T/J"])
    with pytest.raises(RefusedError, match="t/j more than once"):
        wait.normalize(lambda text: text)
    wait = wait_on(["t/j", "t/J2"])
    wait.normalize(lambda text: text)
    assert wait.ids == ["t/j", "t/J2"]


@pytest.mark.parametrize(
    "said", ["", "The service has no job t/j in project 'p' (it says 'no such project')"]
)
def test_a_job_that_is_not_there_is_told_in_the_services_words(said: str) -> None:
    """If it has any; they may say that it is something else that is missing."""
    told = said or "The service has no job t/j"
    assert wait_on("t/j").miss("t/j", said) == f"{told} yet; asking again"
    wait = wait_on("t/j", not_found_grace=0)
    wait.miss("t/j", said)
    assert wait.ending is not None
    assert wait.ending.text.startswith(f"{told} (asked for 0 s)")
