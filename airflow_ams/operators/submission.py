"""One task's submission: the job that it goes on with, or makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException

from airflow_ams.api.errors import TransientError, UncertainError
from airflow_ams.api.model import Job, Outcome, verdict
from airflow_ams.api.submission import Attempt, create, is_taken_up, number_in
from airflow_ams.operators.trouble import patient

if TYPE_CHECKING:
    from airflow_ams.api import MediaService
    from airflow_ams.operators.memory import Memory

MAX_UNCONFIRMED = 2
"""Creates without an answer after which a try of a task gives up; the next one looks for their jobs first."""


class Submission:
    """Finds the last job of a task, and makes another if that is none to go on with.

    :param spec: what the job is made of, with its name
    :param memory: what this try knows of those before it
    :param is_retold: whether a failure that no try has told of is told, and the job not made again
    :param is_killed: whether the task has been killed meanwhile; then nothing is made any more
    :param log: the task's
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        memory: Memory,
        *,
        is_retold: bool,
        is_killed: Callable[[], bool],
        log: Any,
    ) -> None:
        self._is_killed = is_killed
        self._spec = spec
        self._memory = memory
        self._is_retold = is_retold
        self._log = log
        self._unconfirmed = 0
        # What this try itself has tried to make.
        self._number = math.inf

    def job(self, service: MediaService, time_left: Callable[[], float]) -> tuple[Job, bool]:
        """Return the job, and whether it was made just now; an outage is waited out.

        :param time_left: seconds for which the service is asked again while it has trouble
        :raises TransientError: the trouble has outlasted that
        :raises UncertainError: creates were not confirmed, and their jobs are not to be seen
        """
        service.check_spec(self._spec)
        return patient(self._goes_on, time_left, self._log)(self._look_and_make, service)

    def running(self, service: MediaService) -> str | None:
        """Return the id of the task's job that runs, whether or not its creation was told."""
        found = service.find_attempt(self._spec, self._memory.mark, self._memory.try_number)
        return found.job.id if found is not None and not found.job.state.is_final else None

    def _look_and_make(self, service: MediaService) -> tuple[Job, bool]:
        last = self._last(service)
        if last is not None:
            goes_on = self._takes_up(last)
            what = "going on with it" if goes_on else "submitting another"
            self._log.info("Job %s was submitted before and is %s: %s", last.job.id, last.job.state, what)
            if goes_on:
                self._memory.take_up(last)
                return last.job, False
        if self._is_killed():
            raise AirflowException("The task was killed before it submitted a job")
        number = max(self._memory.try_number, last.number + 1 if last is not None else 1)
        self._number = number
        try:
            job = create(service, self._spec, self._memory.mark, number)
        except UncertainError:
            self._unconfirmed += 1
            raise
        self._log.info("Submitted job %s", job.id)
        # Another try, which runs beside this one, may have been first.
        self._memory.keep(Attempt(number_in(job.name, self._memory.mark) or number, job))
        return job, True

    def _last(self, service: MediaService) -> Attempt | None:
        """Find the last job of this task: the one that is remembered, or by its name."""
        known = self._memory.last(service)
        if known is not None and self._takes_up(known):
            return known
        found = service.find_attempt(self._spec, self._memory.mark, self._memory.try_number)
        return max(filter(None, (known, found)), key=lambda one: one.number, default=None)

    def _takes_up(self, last: Attempt) -> bool:
        if last.number >= self._number:
            return True
        is_failed = verdict(last.job).outcome is Outcome.FAILED
        if self._is_retold and is_failed and self._memory.is_of_this_round(last.number, last.job.id):
            # The wait will tell of it.
            return True
        return is_taken_up(last.job, is_reported=self._memory.is_reported(last))

    def _goes_on(self, exc: BaseException) -> bool:
        if isinstance(exc, UncertainError):
            return self._unconfirmed < MAX_UNCONFIRMED
        return isinstance(exc, TransientError)
