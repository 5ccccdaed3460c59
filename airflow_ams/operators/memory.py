"""What one try of a task can know of the tries before it, on each version of Airflow."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from airflow_ams.api.errors import JobNotFoundError, MalformedIdError
from airflow_ams.api.submission import Attempt, mark_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_ams.api import MediaService

KEY = "ams_job"
"""Under which the task state store (Airflow 3.3) has the last job."""

_FIELDS = {"job_id", "number", "made_in", "reported_in"}


class Memory:
    """Tells which submission a task is, and what became of it in earlier tries.

    :param context: the running task's
    :param retries: the task's
    :param log: the task's
    """

    def __init__(self, context: Context, retries: int | None, log: Any) -> None:
        ti: Any = context.get("ti")
        self._ti = ti
        self._store: Any = context.get("task_state_store")
        self._log = log
        # Each reading is a request to Airflow's API server; nobody else writes it meanwhile.
        self._stored: dict[str, Any] | None = None
        # Outside a running task nothing tells one submission from the next.
        identity = (uuid.uuid4().hex,) if ti is None else (ti.dag_id, ti.task_id, ti.run_id, ti.map_index)
        self.mark = mark_of(*identity)
        self.try_number: int = ti.try_number if ti is not None else 1
        # Whoever clears a task gives it more tries; so each round has a number of its own.
        self._max_tries: int = (ti.max_tries or 0) if ti is not None else 0
        # At most this one: whoever lowers the DAG's `retries` leaves `max_tries` as it is. The tries before
        # look as if the task had been cleared then; their jobs are still found, by name.
        self._first_try = min(self.try_number, self._max_tries - (retries or 0) + 1)
        self._now = [self._max_tries, self.try_number]

    @property
    def has_tries_left(self) -> bool:
        """Whether there will be another try if this one fails."""
        return self._ti is not None and self.try_number <= self._max_tries

    @property
    def job_id(self) -> str | None:
        """The last job, as far as the task state store knows."""
        return self._read().get("job_id")

    def last(self, service: MediaService) -> Attempt | None:
        """Return the last job that was made since the task was cleared last, as it is now, if that is known.

        One of before is looked for by its name: the task may have other things to encode by now.
        """
        stored = self._read()
        if not stored or not self._is_since_the_clear(stored["made_in"]):
            return None
        try:
            return Attempt(int(stored["number"]), service.get_job(str(stored["job_id"])))
        except (JobNotFoundError, MalformedIdError):
            # The service deletes old records; or the connection is to another service since.
            return None

    def keep(self, attempt: Attempt) -> None:
        """Let later tries know of a job that this one has made."""
        self._write(attempt, made_in=self._now)

    def take_up(self, attempt: Attempt) -> None:
        """Let later tries know of a job that this one goes on with."""
        if self._read().get("job_id") != attempt.job.id:
            self._write(attempt, made_in=None)

    def report(self, job_id: str) -> None:
        """Let later tries know that the task ends well with this job."""
        if (stored := self._read()) and stored["job_id"] == job_id:
            self._set({**stored, "reported_in": self._now})

    def is_of_this_round(self, number: int, job_id: str) -> bool:
        """Whether a job is of a try since the task was cleared last; none of these has reported success."""
        stored = self._read()
        if stored and stored["job_id"] == job_id and stored["made_in"] is not None:
            return self._is_since_the_clear(stored["made_in"])
        return number >= self._first_try

    def is_reported(self, attempt: Attempt) -> bool:
        """Whether a try before the clear has ended well with a job; if that cannot be known, yes."""
        if hasattr(self._ti, "refresh_from_db"):
            return _has_succeeded(self._ti, attempt.number)  # Airflow 2.11
        stored = self._read()
        if stored and stored["job_id"] == attempt.job.id:
            reported_in = stored["reported_in"]
            return reported_in is not None and not self._is_since_the_clear(reported_in)
        return not self.is_of_this_round(attempt.number, attempt.job.id)

    def _read(self) -> dict[str, Any]:
        if self._stored is None:
            self._stored = self._fetched()
        return self._stored

    def _fetched(self) -> dict[str, Any]:
        if self._store is None:
            return {}
        try:
            stored = self._store.get(KEY)
        except Exception as exc:
            self._log.warning("The task state store cannot be read; the job is looked for by name. %s", exc)
            return {}
        return stored if isinstance(stored, dict) and {*stored} >= _FIELDS else {}

    def _is_since_the_clear(self, when: list[int] | None) -> bool:
        """Whether a try is of this round, by its number and what `max_tries` was then."""
        if not isinstance(when, list):
            return False
        max_tries, try_number = when
        # Either alone may be the same by chance if the DAG's `retries` were changed.
        return max_tries == self._max_tries and try_number >= self._first_try

    def _write(self, attempt: Attempt, made_in: list[int] | None) -> None:
        number, job_id = attempt.number, attempt.job.id
        self._set({"job_id": job_id, "number": number, "made_in": made_in, "reported_in": None})

    def _set(self, value: dict[str, Any]) -> None:
        if self._store is None:
            return
        try:
            self._store.set(KEY, value)
            self._stored = value
        except Exception as exc:
            # The job's name tells of it, though not whether its end was reported.
            self._log.warning("The task state store cannot be written: %s", exc)


def _has_succeeded(ti: Any, try_number: int) -> bool:
    """Ask the history of tries, which Airflow 2.11 lets a task read."""
    from airflow.models.taskinstancehistory import TaskInstanceHistory as History
    from airflow.utils.session import create_session

    with create_session() as session:
        states = session.query(History.state).filter(
            History.dag_id == ti.dag_id,
            History.task_id == ti.task_id,
            History.run_id == ti.run_id,
            History.map_index == ti.map_index,
            History.try_number >= try_number,
        )
        # A later try may have reported what an earlier one has submitted.
        return any(state == "success" for (state,) in states)
