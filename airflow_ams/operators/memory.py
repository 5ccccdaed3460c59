"""What one try of a task can know of the tries before it, on each version of Airflow."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from airflow_ams.api.errors import JobNotFoundError
from airflow_ams.api.submission import Attempt, mark_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_ams.api import MediaService

KEY = "ams_job"
"""Under which the task state store (Airflow 3.3) has the last job."""


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
        # Outside a running task nothing tells one submission from the next.
        identity = (uuid.uuid4().hex,) if ti is None else (ti.dag_id, ti.task_id, ti.run_id, ti.map_index)
        self.mark = mark_of(*identity)
        self.try_number: int = ti.try_number if ti is not None else 1
        # A task that is cleared gets as many tries again; so Airflow counts, too.
        self._first_try: int = (ti.max_tries or 0) - (retries or 0) + 1 if ti is not None else 1

    @property
    def has_tries_left(self) -> bool:
        """Whether there will be another try if this one fails."""
        return self._ti is not None and self.try_number <= (self._ti.max_tries or 0)

    def last(self, service: MediaService) -> Attempt | None:
        """Return the last job that the task state store knows of, as it is now."""
        stored = self._read()
        if not stored:
            return None
        try:
            return Attempt(int(stored["number"]), service.get_job(str(stored["job_id"])))
        except JobNotFoundError:
            # The service deletes old records.
            return None

    def keep(self, attempt: Attempt, *, is_reported: bool = False) -> None:
        """Let later tries know of a job."""
        self._write({"job_id": attempt.job.id, "number": attempt.number, "is_reported": is_reported})

    def report(self, job_id: str) -> None:
        """Let later tries know that the task ends well with this job."""
        if (stored := self._read()) and stored["job_id"] == job_id:
            self._write({**stored, "is_reported": True})

    def is_of_this_round(self, number: int) -> bool:
        """Whether a job is of a try since the task was cleared last; none of these has reported success."""
        return number >= self._first_try

    def is_reported(self, attempt: Attempt) -> bool:
        """Whether a try before the clear has ended well with a job; if that cannot be known, yes."""
        if self._store is not None:
            stored = self._read()
            is_known = bool(stored) and stored["job_id"] == attempt.job.id
            return stored["is_reported"] if is_known else True
        if hasattr(self._ti, "refresh_from_db"):
            return _has_succeeded(self._ti, attempt.number)  # Airflow 2.11
        return True

    def _read(self) -> dict[str, Any]:
        if self._store is None:
            return {}
        try:
            stored = self._store.get(KEY)
        except Exception as exc:
            self._log.warning("The task state store cannot be read; the job is looked for by name. %s", exc)
            return {}
        return stored if isinstance(stored, dict) and {"job_id", "number", "is_reported"} <= {*stored} else {}

    def _write(self, value: dict[str, Any]) -> None:
        if self._store is None:
            return
        try:
            self._store.set(KEY, value)
        except Exception as exc:
            # Its name tells as much.
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
