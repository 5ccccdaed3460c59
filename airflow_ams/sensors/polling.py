"""Polling on a worker: reads the jobs of a wait, one poke at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_ams.api.details import with_details, without_details
from airflow_ams.api.errors import JobNotFoundError, RefusedError, ServiceError, TransientError
from airflow_ams.api.model import Job, JobState
from airflow_ams.api.retries import Retries
from airflow_ams.api.sweep import Sweep
from airflow_ams.api.waiting import JobWait

if TYPE_CHECKING:
    from airflow_ams.api import MediaService
    from airflow_ams.hooks.ams import AmsHook


class Poll:
    """What one try of a task does from poke to poke: reads the pending jobs, and tells the wait.

    :param time_left: seconds that the task has; no read takes longer
    :param is_forgetful: each poke is a process of its own, so what a finished job wrote is read only when all
        have finished
    """

    def __init__(
        self,
        wait: JobWait,
        hook: AmsHook,
        log: Any,
        *,
        time_left: Callable[[], float],
        is_forgetful: bool = False,
    ) -> None:
        self.wait = wait
        self.last: Job | None = None
        """The last reading."""
        self.quiet_until = 0.0
        """The service asked not to be called before; on the monotonic clock."""
        self._hook = hook
        self._log = log
        self._time_left = time_left
        self._is_forgetful = is_forgetful
        self._is_normalized = False
        self._sweep = Sweep()
        self._states: dict[str, JobState] = {}

    def poke(self) -> None:
        """Read the pending jobs once; trouble on the way is logged, and is no end of the wait."""
        if self.wait.ending is not None or time.monotonic() < self.quiet_until:
            return
        try:
            self._read()
        except TransientError as exc:
            self._log.warning("Where the job stands is not known now; asking again later. %s", exc)
            self.quiet_until = time.monotonic() + (exc.retry_after or 0.0)
        except (RefusedError, AirflowNotFoundException) as exc:
            self.wait.refuse(str(exc))

    def _read(self) -> None:
        service = self._hook.get_conn()
        if not self._is_normalized:
            self.wait.normalize(service.job_id)
            self._is_normalized = True
        finished = []
        list_has_failed = False
        try:
            left = self._not_listed(service)
        except TransientError as exc:
            if exc.retry_after:
                raise
            left, list_has_failed = sorted(self.wait.pending), True
        for job_id in left:
            job = self._fetch(service, job_id)
            if job is not None and job.state is JobState.FINISHED:
                finished.append(job)
            elif job is not None:
                self._saw(job)
            if self.wait.ending is not None:
                return
        if list_has_failed:
            self._sweep.failed(is_alone=True)
        is_last = len(finished) == len(self.wait.pending)
        for job in finished:
            self._saw(self._with_details(service, job, outputs=is_last or not self._is_forgetful))
        if not self.wait.wants_progress:
            self._say(self.wait.line(None))

    def _not_listed(self, service: MediaService) -> list[str]:
        """Sweep, if that pays; return the ids of the jobs that are still to be read."""
        pending = sorted(self.wait.pending)
        if not self._sweep.pays(len(pending)):
            return pending
        swept = self._sweep.read(
            service,
            pending,
            self._is_news,
            retries=Retries(within=self._time_left()),
        )
        if swept is None:
            return pending
        for job in swept.news:
            self._saw(job)
        return [job_id for job_id in pending if job_id not in swept.seen]

    def _is_news(self, job_id: str, state: JobState) -> bool:
        if job_id not in self.wait.pending:
            return False
        return self._states.get(job_id) is not state or job_id in self.wait.queue_limits

    def _fetch(self, service: MediaService, job_id: str) -> Job | None:
        try:
            job = service.get_job(job_id, retries=Retries(within=self._time_left()))
        except JobNotFoundError:
            self._say(self.wait.miss(job_id))
            return None
        if job.state is JobState.PROCESSING and self.wait.wants_progress:
            try:
                return service.with_tasks(job, retries=Retries(tries=1, within=self._time_left()))
            except ServiceError:
                # Percent is a nicety.
                return job
        return job if job.state is JobState.FINISHED else self._with_details(service, job, outputs=False)

    def _with_details(self, service: MediaService, job: Job, *, outputs: bool) -> Job:
        try:
            return with_details(
                service,
                job,
                outputs=outputs and self.wait.wants_outputs,
                retries=Retries(within=self._time_left()),
            )
        except ServiceError as exc:
            job, warning = without_details(job, exc)
            if warning:
                self._log.warning("%s", warning)
            return job

    def _saw(self, job: Job) -> None:
        self.last = job
        self._states[job.id] = job.state
        if failure := self.wait.see(job):
            self._log.warning("%s", failure)
        if self.wait.wants_progress:
            self._say(self.wait.line(job))

    def _say(self, line: str | None) -> None:
        if line:
            self._log.info("%s", line)
