"""What one wait knows and says, without a watch or a sensor."""

from __future__ import annotations

import pytest

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
