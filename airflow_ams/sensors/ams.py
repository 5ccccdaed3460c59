"""The sensor: a task that waits for a media job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_ams.api.errors import JobNotFoundError, RefusedError, ServiceError, TransientError
from airflow_ams.api.model import Job, JobError, JobState, Outcome, ProgressLog, document, verdict
from airflow_ams.exceptions import AmsJobCanceled, AmsJobFailed, AmsJobNotFound, AmsRefused
from airflow_ams.hooks.ams import AmsHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg


@dataclass
class _Wait:
    """What one try of the task remembers from poll to poll.

    :param first_poll: when the wait began; in reschedule mode that was in another process
    :param quiet_until: the service asked not to be called before; on the monotonic clock
    """

    first_poll: datetime
    progress: ProgressLog = field(default_factory=ProgressLog)
    quiet_until: float = 0.0

    @property
    def age(self) -> float:
        """Seconds since the first poll."""
        return (datetime.now(timezone.utc) - self.first_poll).total_seconds()


class AmsJobSensor(BaseSensorOperator):
    """Waits until a media job has finished, and returns a small document of it.

    ===================================== ==========================================================
    the job is, or the service answers    what happens
    ===================================== ==========================================================
    Queued, Scheduled, Processing,        the wait goes on, until ``timeout``
    Canceling, or a state not known here
    Finished                              success; XCom ``return_value`` is the job's document
    Error                                 `AmsJobFailed` with every task's code and message
    Canceled                              `AmsJobCanceled`
    no such job                           asked again for ``not_found_grace`` seconds, then
                                          `AmsJobNotFound`
    400, 403, a second 401; malformed id; `AmsRefused`
    bad connection
    busy, broken or unreachable           the wait goes on, until ``timeout``
    ===================================== ==========================================================

    The exceptions end the task without retries and are skipped under ``soft_fail``. The document holds id,
    name, state, progress (percent), created, started, ended, duration_seconds, errors and outputs (asset id,
    name, uri); outputs is null if they could not be read.

    :param job_id: the job's id, e.g. ``nb:jid:UUID:f3c43f94-…``, or an upstream task's output (templated)
    :param ams_conn_id: the connection (templated); ``ams_default`` unless given
    :param not_found_grace: seconds after the wait's first poll for which an unknown id is asked for again;
        60 unless given
    """

    template_fields: Sequence[str] = ("job_id", "ams_conn_id")

    def __init__(
        self,
        *,
        job_id: str | XComArg,
        ams_conn_id: str = AmsHook.default_conn_name,
        not_found_grace: float = 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if job_id is None or isinstance(job_id, bytes | int | float | list | tuple | dict):
            raise TypeError(
                f"job_id of task '{self.task_id}' is {job_id!r}; give a string or an upstream task's output"
            )
        if not_found_grace < 0:
            raise ValueError(
                f"not_found_grace of task '{self.task_id}' is {not_found_grace}; give seconds from 0"
            )
        self.job_id = job_id
        self.ams_conn_id = ams_conn_id
        self.not_found_grace = not_found_grace
        self._wait: _Wait | None = None

    @cached_property
    def hook(self) -> AmsHook:
        """The hook that this task polls with."""
        return AmsHook(self.ams_conn_id)

    def execute(self, context: Context) -> Any:
        """Wait for the job; return its document."""
        if "ti" not in context:
            # Outside a running task nobody would come back to a rescheduled wait.
            self.mode = "poke"
        self._wait = _Wait(self._first_poll(context))
        with self.hook:
            return super().execute(context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll the job once."""
        self._wait = self._wait or _Wait(self._first_poll(context))
        try:
            return self._poll(self._wait)
        except AirflowFailException as exc:
            if self.soft_fail or self.never_fail:
                # The task will only say that it was skipped.
                self.log.warning("%s", exc)
            raise

    def _poll(self, wait: _Wait) -> PokeReturnValue:
        if time.monotonic() < wait.quiet_until:
            return PokeReturnValue(is_done=False)
        try:
            job = self._read_job(wait)
        except TransientError as exc:
            self.log.warning("Where the job stands is not known now; asking again later. %s", exc)
            wait.quiet_until = time.monotonic() + (exc.retry_after or 0.0)
            return PokeReturnValue(is_done=False)
        except JobNotFoundError as exc:
            if wait.age < self.not_found_grace:
                self.log.info("%s yet; asking again", exc)
                return PokeReturnValue(is_done=False)
            raise AmsJobNotFound(
                f"{exc} (asked for {wait.age:.0f} s). Is the id of another account? The service deletes the "
                "records of jobs after 90 days"
            ) from exc
        except (RefusedError, AirflowNotFoundException) as exc:
            raise AmsRefused(str(exc)) from exc
        return self._judge(job, wait)

    def _read_job(self, wait: _Wait) -> Job:
        from airflow_ams.api.transport import Retries

        service = self.hook.get_conn()
        job = service.get_job(str(self.job_id), retries=Retries(within=self._time_left(wait)))
        left = self._time_left(wait)
        try:
            if job.state is JobState.ERROR:
                return service.with_tasks(job, retries=Retries(within=left))
            if job.state is JobState.PROCESSING:
                return service.with_tasks(job, retries=Retries(tries=1, within=left))
            if job.state is JobState.FINISHED:
                return service.with_outputs(job, retries=Retries(within=left))
        except ServiceError as exc:
            return self._without_details(job, exc)
        return job

    def _without_details(self, job: Job, exc: ServiceError) -> Job:
        """Go on with what is known: how the job ended counts, whether or not more can be read of it."""
        if job.state is JobState.ERROR:
            return replace(job, errors=(JobError("Unknown", f"the reasons could not be read. {exc}"),))
        if job.state is JobState.FINISHED:
            self.log.warning("The job's outputs could not be read. %s", exc)
        return job

    def _judge(self, job: Job, wait: _Wait) -> PokeReturnValue:
        found = verdict(job)
        if found.outcome is Outcome.FAILED:
            raise AmsJobFailed(found.text)
        if found.outcome is Outcome.CANCELED:
            raise AmsJobCanceled(found.text)
        if line := wait.progress.line(job, time.monotonic()):
            self.log.info("%s", line)
        if found.outcome is Outcome.SUCCEEDED:
            return PokeReturnValue(is_done=True, xcom_value=document(job))
        return PokeReturnValue(is_done=False)

    def _get_next_poke_interval(self, *args: Any) -> float:
        """Stay away for as long as the service asked; in poke mode `_poll` does, to keep to `timeout`."""
        interval: float = super()._get_next_poke_interval(*args)
        if self._wait is None or not self.reschedule:
            return interval
        quiet = self._wait.quiet_until - time.monotonic()
        return max(interval, min(quiet, self._time_left(self._wait)))

    def _time_left(self, wait: _Wait) -> float:
        limits = [self.timeout - wait.age]
        if self.execution_timeout is not None and not self.reschedule:
            limits.append(self.execution_timeout.total_seconds() - wait.age)
        return max(0.0, min(limits))

    def _first_poll(self, context: Context) -> datetime:
        """Find out when the wait began, as the framework counts it: earlier pokes were other processes."""
        now = datetime.now(timezone.utc)
        ti: Any = context.get("ti")
        if ti is None or not self.reschedule:
            return now
        if hasattr(ti, "get_first_reschedule_date"):
            return ti.get_first_reschedule_date(context) or now
        from airflow.sensors.base import _orig_start_date  # Airflow 2.11

        first_try = (ti.max_tries or 0) - (self.retries or 0) + 1
        return _orig_start_date(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_try) or now
