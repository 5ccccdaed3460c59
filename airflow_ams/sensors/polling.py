"""Polling on a worker: reads the jobs of a wait, one poke at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_ams.api.details import DETAILS_PATIENCE, with_details, without_details
from airflow_ams.api.errors import (
    JobNotFoundError,
    RefusedError,
    ServiceError,
    SignInError,
    TransientError,
)
from airflow_ams.api.model import Job, JobState
from airflow_ams.api.retries import MAX_RETRY_AFTER, Retries
from airflow_ams.api.sweep import Sweep
from airflow_ams.api.waiting import JobWait

if TYPE_CHECKING:
    from airflow_ams.api import MediaService
    from airflow_ams.hooks.ams import AmsHook

_TOLERATED = 3
"""Failures in a row after which the rest of a list is left to the next poke."""

_T = TypeVar("_T")


class Poll:
    """What one try of a task does from poke to poke: reads the pending jobs, and tells the wait.

    :param time_left: seconds that the task has; no read takes longer
    :param is_forgetful: each poke is a process of its own, so what a finished job wrote is read only when all
        have finished, and only once
    :param has_answered: whether the service has answered in this wait before
    """

    def __init__(
        self,
        wait: JobWait,
        hook: AmsHook,
        log: Any,
        *,
        time_left: Callable[[], float],
        is_forgetful: bool = False,
        has_answered: bool = False,
    ) -> None:
        self.wait = wait
        self.quiet_until = 0.0
        """The service asked not to be called before; on the monotonic clock."""
        self._hook = hook
        self._log = log
        self._time_left = time_left
        self._is_forgetful = is_forgetful
        self._is_normalized = False
        self._answers = int(has_answered)
        # How many answers there had been when the connection was read anew.
        self._renewed_after = -1
        self._sweep = Sweep()
        self._last: Job | None = None
        self._jobs: dict[str, Job] = {}
        # Those whose last read failed have their turn after the others.
        self._failed: set[str] = set()
        # Jobs of which all but why they failed, or what they wrote, is known; and since when that fails.
        self._ended: dict[str, Job] = {}
        self._incomplete_since: dict[str, float] = {}

    def poke(self) -> None:
        """Read the pending jobs once; trouble on the way is logged, and is no end of the wait."""
        # When the time is over, where the job stands is asked once more in any case.
        is_quiet = time.monotonic() < self.quiet_until and self._time_left() > 0
        if self.wait.ending is not None or is_quiet:
            return
        try:
            self._read()
        except TransientError as exc:
            self._troubled("Where the job stands is not known now", exc)
        except (RefusedError, AirflowNotFoundException) as exc:
            self.wait.refuse(str(exc))

    def time_out(self) -> None:
        """End the wait, since its time is over; a job that is known to have ended counts all the same."""
        for job_id in list(self._ended):
            self._go_without(job_id, TransientError("There was no time left"))
        if self.wait.ending is None:
            self.wait.time_out(self._last)

    def _read(self) -> None:
        if not self._is_normalized:
            self.wait.normalize(self._hook.get_conn().job_id)
            self._is_normalized = True
        began, list_has_failed = time.monotonic(), False
        try:
            left = self._not_listed()
        except TransientError as exc:
            if exc.retry_after:
                raise
            left, list_has_failed = self._unread(), True
        seconds, answers = time.monotonic() - began, self._answers
        errors = self._each(left, self._fetch)
        if list_has_failed:
            self._sweep.failed(is_alone=self._answers > answers, seconds=seconds)
        if not any(error.retry_after for error in errors.values()):
            self._tell_ended(errors)
        if not self.wait.wants_progress:
            self._say(self.wait.line(None))
        if errors and self.wait.ending is None:
            self._warn_of(errors)

    # -- where the jobs stand

    def _unread(self) -> list[str]:
        """Return the jobs that are not known to have ended."""
        job_ids = sorted(job_id for job_id in self.wait.pending if job_id not in self._ended)
        if self._is_forgetful:
            # Nor is it known which have failed; the same few must not come first each time.
            random.shuffle(job_ids)
        return sorted(job_ids, key=self._failed.__contains__)

    def _not_listed(self) -> list[str]:
        """Sweep, if that pays; return the ids of the jobs that are still to be read."""
        unread = self._unread()
        if not self._sweep.pays(len(unread)):
            return unread
        swept = self._ask(
            lambda service: self._sweep.read(service, unread, self._is_news, first=self._retries())
        )
        self._answers += bool(swept.answered or swept.seen)
        for job in swept.news:
            self._saw(job)
        return [job_id for job_id in unread if job_id not in swept.seen]

    def _is_news(self, job_id: str, state: JobState, _: float | None) -> bool:
        # Only a wait on many jobs sweeps, which does not log percent.
        if job_id not in self.wait.pending:
            return False
        last = self._jobs.get(job_id)
        return last is None or last.state is not state or job_id in self.wait.queue_limits

    def _each(
        self, job_ids: Iterable[str], read: Callable[[str, Retries], object]
    ) -> dict[str, TransientError]:
        """Read one job after the other, whether or not those before could be read; return the errors.

        In an outage, or when the service asks to be left alone, the rest is left to the next poke.
        """
        errors: dict[str, TransientError] = {}
        in_a_row = 0
        for job_id in job_ids:
            if self.wait.ending is not None or in_a_row == _TOLERATED:
                break
            try:
                read(job_id, self._retries(tries=1 if in_a_row else Retries.tries))
            except TransientError as exc:
                errors[job_id] = exc
                self._failed.add(job_id)
                in_a_row += 1
                if exc.retry_after:
                    break
            else:
                self._failed.discard(job_id)
                in_a_row = 0
        return errors

    def _fetch(self, job_id: str, retries: Retries) -> None:
        last = self._jobs.get(job_id)
        if self.wait.wants_progress and last and last.state is JobState.PROCESSING:
            # Its state alone would not do: percent comes with the whole of it.
            last = None
        try:
            job = self._ask(lambda service: service.poll_job(job_id, last, retries=retries))
        except JobNotFoundError as exc:
            self._answers += 1
            self._say(self.wait.miss(job_id, exc.message))
            return
        self._answers += 1
        if job.state is JobState.PROCESSING and self.wait.wants_progress:
            # Percent is a nicety.
            with suppress(ServiceError):
                job = self._hook.get_conn().with_tasks(job, retries=self._retries(tries=1))
        if job.state in (JobState.ERROR, JobState.FINISHED):
            self._ended[job.id] = job
        else:
            self._saw(job)
        if job.state is JobState.ERROR:
            self._complete(job.id, retries)

    # -- what else there is to know of those that have ended

    def _tell_ended(self, errors: dict[str, TransientError]) -> None:
        """Tell of the jobs that have ended, or wait a while if they cannot be read in full.

        :param errors: those of this poke so far; takes more, and loses those that are of no account any more
        """
        is_last = len(self._ended) == len(self.wait.pending)
        complete = partial(self._complete, outputs=is_last or not self._is_forgetful)
        errors |= self._each([job_id for job_id in self._ended if job_id not in errors], complete)
        now, some_error = time.monotonic(), next(iter(errors.values()), None)
        for job_id in list(self._ended):
            lasted = now - self._incomplete_since.setdefault(job_id, now)
            if some_error and (self._is_forgetful or lasted >= DETAILS_PATIENCE):
                self._go_without(job_id, errors.pop(job_id, some_error))

    def _complete(self, job_id: str, retries: Retries, *, outputs: bool = False) -> None:
        """Tell of a job that has ended, with why it failed, or what it wrote."""
        known, wants_outputs = self._ended[job_id], outputs and self.wait.wants_outputs
        try:
            job = self._ask(partial(with_details, job=known, outputs=wants_outputs, retries=retries))
        except TransientError:
            raise
        except ServiceError as exc:
            self._go_without(job_id, exc)
        else:
            self._saw(job)

    def _go_without(self, job_id: str, error: ServiceError) -> None:
        job, warning = without_details(self._ended[job_id], error)
        if warning:
            self._log.warning("%s", warning)
        self._saw(job)

    # -- trouble

    def _retries(self, tries: int = Retries.tries) -> Retries:
        return Retries(tries, within=self._time_left())

    def _ask(self, read: Callable[[MediaService], _T]) -> _T:
        """Read something; a refusal is taken for trouble that passes, if it may and there were answers."""
        try:
            return self._ask_twice_if_renewed(read)
        except RefusedError as exc:
            if not exc.may_pass or not self._answers:
                raise
            raise exc.passing() from exc

    def _ask_twice_if_renewed(self, read: Callable[[MediaService], _T]) -> _T:
        """Read something, and again if the token is refused and the connection has another by now."""
        try:
            return read(self._hook.get_conn())
        except RefusedError as exc:
            is_about_who_asks = isinstance(exc, SignInError) or exc.status == HTTPStatus.UNAUTHORIZED
            if not is_about_who_asks or not self._renew():
                raise
        return read(self._hook.get_conn())

    def _renew(self) -> bool:
        """Read the connection anew, once until the next answer; return whether it has changed."""
        if self._renewed_after == self._answers:
            return False
        try:
            has_changed = self._hook.renew()
        except AirflowNotFoundException as exc:
            raise RefusedError(str(exc)) from exc
        except ServiceError:
            raise
        except Exception as exc:
            raise TransientError(f"The connection could not be read anew: {exc}") from exc
        self._renewed_after = self._answers
        return has_changed

    def _warn_of(self, errors: dict[str, TransientError]) -> None:
        job_id, error = max(errors.items(), key=lambda item: item[1].retry_after or 0.0)
        more = f", and {len(errors) - 1} more," if len(errors) > 1 else ""
        is_known = job_id in self._ended
        what = "has ended, but cannot be read in full" if is_known else "cannot be read"
        self._troubled(f"Job {job_id}{more} {what}", error)

    def _troubled(self, what: str, error: TransientError) -> None:
        self._log.warning("%s; asking again later. %s", what, error)
        self.quiet_until = time.monotonic() + min(error.retry_after or 0.0, MAX_RETRY_AFTER)

    # -- telling

    def _saw(self, job: Job) -> None:
        self._last = job
        self._ended.pop(job.id, None)
        self._jobs[job.id] = job
        if failure := self.wait.see(job):
            self._log.warning("%s", failure)
        if self.wait.wants_progress:
            self._say(self.wait.line(job))

    def _say(self, line: str | None) -> None:
        if line:
            self._log.info("%s", line)
