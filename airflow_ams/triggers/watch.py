"""One poll for all the tasks that wait on one connection in a triggerer.

A thousand waits cost one request an interval: a *sweep* lists the account's active jobs, a thousand to a
page, and answers for every waiting job that is still among them. Only a job that has left the list is fetched
by itself, to learn how it ended. With a handful of waits, or when the account is so crowded that a sweep
would read far more than it answers (`airflow_ams.api.sweep.Sweep`), jobs are fetched singly.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import Stats

from airflow_ams.api.details import cancel
from airflow_ams.api.errors import JobNotFoundError, RefusedError, ServiceError, TransientError
from airflow_ams.api.model import JobState
from airflow_ams.api.retries import Retries
from airflow_ams.api.sweep import JOBS_PER_PAGE, Sweep
from airflow_ams.triggers.pool import THREADS, ServicePool
from airflow_ams.triggers.reading import is_about_all, read_job, read_list, read_percent, urgency
from airflow_ams.triggers.schedule import Watched
from airflow_ams.triggers.trouble import Trouble
from airflow_ams.triggers.waiters import Waiter, Waiters, sliced

if TYPE_CHECKING:
    from airflow_ams.api.model import Job

log = logging.getLogger(__name__)

FETCHES_PER_SECOND = 20.0
"""Single fetches a second at most of jobs that are merely due, when sweeps are refused or do not pay."""

OUTAGE_NOTICE = 600.0
"""Seconds of outage after which every waiting task's log says so."""

_MAX_TRIES = 8
"""How often a job's errors, or outputs, are asked for before its wait ends without them."""


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, JobWatch]] = WeakKeyDictionary()


def job_watch(conn_id: str) -> JobWatch:
    """Return the watch of a connection in the running event loop; there is one while somebody uses it."""
    watches = _watches.setdefault(asyncio.get_running_loop(), {})
    if conn_id not in watches:
        watches[conn_id] = JobWatch(conn_id, on_close=lambda: watches.pop(conn_id, None))
    return watches[conn_id]


class JobWatch:
    """Polls for all the tasks that wait on one connection in one event loop.

    It works in rounds, each of which reads what is due. Whatever goes wrong in one is the watch's affair: it
    backs off for all, and no wait hears of it until it has lasted for `OUTAGE_NOTICE` seconds, or cannot get
    better by itself. Requests are made by the threads of a `ServicePool`.

    Counted through Airflow's Stats: ``ams.watch.requests`` and ``ams.watch.errors``, and as gauges
    ``ams.watch.waits`` and ``ams.watch.outage_seconds``; all tagged with the connection's id.

    :param conn_id: the connection
    :param on_close: called when the last user has left
    """

    def __init__(self, conn_id: str, on_close: Callable[[], object]) -> None:
        self._conn_id = conn_id
        self._on_close = on_close
        self._users = 0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiters = Waiters(self._wake.set)
        self._pool = ServicePool(conn_id)
        self._sweep = Sweep()
        self._trouble = Trouble()
        self._not_before = -math.inf
        self._has_answered = False
        self._has_renewed = False
        self._counted_requests = 0

    def join(self, waiter: Waiter, *, at_once: bool) -> None:
        """Let a task wait; its `done` is set when its wait has an ending.

        :param at_once: read its jobs now, and not one jittered interval later
        """
        self._users += 1
        self._waiters.join(waiter, at_once=at_once)
        if self._task is None:
            # An empty context: else the watch's own log lines would land in the first waiter's log.
            loop = asyncio.get_running_loop()
            self._task = contextvars.Context().run(loop.create_task, self._run())
            self._task.add_done_callback(self._ended)

    def leave(self, waiter: Waiter) -> None:
        """Let a task go, whether or not its wait has ended."""
        self._waiters.drop(waiter)
        self._release()

    async def cancel(self, job_ids: Iterable[str], seconds: float) -> list[str]:
        """Ask for jobs to be canceled, as well as it can be done in so many seconds.

        :returns: a line about each job that says how it went
        """
        policy = Retries(within=seconds)
        self._users += 1
        try:
            calls = {
                job_id: asyncio.ensure_future(self._pool.call(partial(cancel, job_id=job_id, retries=policy)))
                for job_id in job_ids
            }
            if calls:
                await asyncio.wait(calls.values(), timeout=seconds)
            return [_canceled(job_id, call) for job_id, call in calls.items()]
        finally:
            self._release()

    def _release(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._on_close()
            if self._task is not None:
                self._task.cancel()
            self._pool.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        # An error of this module's own; what goes wrong with a service does not come here.
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_close()
            self._waiters.break_off(exc)

    # -- rounds

    async def _run(self) -> None:
        while True:
            await self._rest()
            try:
                await self._round()
            except RefusedError as exc:
                await self._refused(exc)
            except TransientError as exc:
                await self._troubled(str(exc), exc.retry_after)
            except Exception as exc:
                log.exception(
                    "A poll of connection '%s' failed in a way that was not foreseen", self._conn_id
                )
                await self._troubled(f"{type(exc).__name__}: {exc}")
            self._count()

    async def _rest(self) -> None:
        while True:
            self._wake.clear()
            due = max(self._waiters.next_due(), self._trouble.quiet_until, self._not_before)
            delay = due - time.monotonic()
            if delay <= 0:
                return
            try:
                await asyncio.wait_for(self._wake.wait(), None if math.isinf(delay) else delay)
            except asyncio.TimeoutError:
                return

    async def _round(self) -> None:
        waiters = self._waiters
        await self._admit()
        due = waiters.schedule.due(time.monotonic())
        is_many = len(due) > JOBS_PER_PAGE
        errors: list[Exception] = []
        if is_many and self._sweep.pays(len(due)):
            due = await self._read_list(due, errors)
        if due or waiters.gone:
            list_has_failed = bool(errors)
            answers = await self._read_singly(due, errors, with_percent=not is_many)
            if list_has_failed:
                self._sweep.failed(is_alone=answers > 0)
        if is_many and not errors:
            await self._read_percent()
        await waiters.report()
        if errors:
            raise min(errors, key=urgency)

    async def _admit(self) -> None:
        newcomers = self._waiters.take_newcomers(time.monotonic())
        if not newcomers:
            return
        try:
            job_id = await self._pool.call(lambda service: service.job_id)
        except Exception:
            self._waiters.put_back(newcomers)
            raise
        await self._waiters.admit(newcomers, job_id)

    async def _read_list(self, due: list[Watched], errors: list[Exception]) -> list[Watched]:
        """Sweep; return those of the jobs that are due which are still to be read.

        :param errors: takes the error if it fails; one job is read then, to see whether the list alone fails
        """
        waiters, began = self._waiters, time.monotonic()
        wanted = [job.id for job in waiters.schedule]
        try:
            swept = await self._pool.call(
                partial(read_list, sweep=self._sweep, wanted=wanted, is_news=waiters.is_news)
            )
        except TransientError as exc:
            errors.append(exc)
            return due[:1]
        if swept is None:
            return due
        self._answered()
        async for job in sliced(swept.news):
            await waiters.saw(job)
        if not swept.is_complete:
            for job_id in swept.seen & waiters.jobs.keys():
                waiters.schedule.read(waiters.jobs[job_id], began)
            return [job for job in due if job.id not in swept.seen]
        for job_id in swept.missing:
            waiters.left(job_id, began)
        waiters.schedule.swept(began)
        return []

    async def _read_singly(self, due: list[Watched], errors: list[Exception], *, with_percent: bool) -> int:
        """Fetch the jobs that have left the list, and of those that are due as many as a second allows.

        :param errors: takes those that come up
        :returns: how many were read
        """
        batch = due[: int(FETCHES_PER_SECOND)]
        if batch:
            self._not_before = time.monotonic() + len(batch) / FETCHES_PER_SECOND
        gone = self._waiters.gone
        jobs = [*gone.values(), *(job for job in batch if job.id not in gone)]
        queue = iter(jobs)
        read: list[Watched] = []

        async def fetch() -> None:
            for job in queue:
                if _is_hopeless(errors, len(read)):
                    return
                try:
                    await self._fetch(job, with_percent=with_percent)
                    read.append(job)
                except Exception as exc:
                    errors.append(exc)

        await asyncio.gather(*(fetch() for _ in range(min(THREADS, len(jobs)))))
        return len(read)

    async def _fetch(self, job: Watched, *, with_percent: bool) -> None:
        percent = with_percent and any(waiter.wait.wants_progress for waiter in job.waiters)
        outputs = any(waiter.wait.wants_outputs for waiter in job.waiters)
        ended = job.job if job.tries else None
        read = partial(read_job, job_id=job.id, ended=ended, outputs=outputs, percent=percent)
        try:
            found, error = await self._pool.call(read)
        except JobNotFoundError:
            self._answered()
            await self._waiters.missed(job)
            return
        except RefusedError as exc:
            # A service that has answered well before is given the benefit of the doubt.
            if is_about_all(exc) or (self._has_answered and exc.status not in (400, 403)):
                raise
            await self._waiters.refuse(job.waiters, str(exc))
            return
        self._answered()
        await self._took(job, found, error, percent=percent)
        if error is not None and (isinstance(error, TransientError) or is_about_all(error)):
            raise error

    async def _took(self, job: Watched, found: Job, error: ServiceError | None, *, percent: bool) -> None:
        """Take a fetched job to whoever waits for it.

        :param error: what kept its errors, or outputs, from being read; that is tried a few times
        """
        if self._waiters.jobs.get(job.id) is not job:
            return
        self._waiters.schedule.read(job, time.monotonic())
        if error is None or not found.state.is_final:
            job.percent_at = time.monotonic() if percent else job.percent_at
            await self._waiters.saw(found, is_single=True)
        elif isinstance(error, TransientError) and job.tries + 1 < _MAX_TRIES:
            job.tries += 1
            job.job = found
            self._waiters.gone[job.id] = job
        else:
            await self._waiters.saw_without_details(job, found, error)

    async def _read_percent(self) -> None:
        """Read the percent of one job, each in its turn: one request a round, however many wait."""
        running = self._waiters.running
        job = next(iter(running.values()), None)
        if job is None or job.job is None:
            return
        running[job.id] = running.pop(job.id)
        try:
            found = await self._pool.call(partial(read_percent, job=job.job))
        except RefusedError as exc:
            if is_about_all(exc):
                raise
            # Percent is a nicety.
            return
        if job.waiters and job.job.state is JobState.PROCESSING:
            job.percent_at = time.monotonic()
            await self._waiters.saw(found)

    # -- trouble

    def _answered(self) -> None:
        self._trouble.passed()
        self._has_answered = True
        self._has_renewed = False

    async def _refused(self, exc: RefusedError) -> None:
        """End all waits, unless the connection has been changed meanwhile: a key may have been rotated."""
        if not is_about_all(exc) and exc.status != HTTPStatus.FORBIDDEN:
            await self._troubled(str(exc))
            return
        try:
            if not self._has_renewed and await self._pool.renew():
                self._has_renewed = True
                return
        except RefusedError as gone:
            exc = gone
        except Exception as trouble:
            await self._troubled(f"The connection could not be read anew: {trouble}")
            return
        await self._waiters.refuse(self._waiters, str(exc))

    async def _troubled(self, reason: str, retry_after: float | None = None) -> None:
        now = time.monotonic()
        self._trouble.came(now, retry_after)
        Stats.incr("ams.watch.errors", tags={"conn_id": self._conn_id})
        log.warning("Connection '%s': %s Asking again later.", self._conn_id, reason)
        lasted = self._trouble.lasted(now)
        if self._trouble.since is not None and lasted >= OUTAGE_NOTICE:
            await self._waiters.tell_of_outage(
                self._trouble.since,
                f"For {lasted / 60:.0f} minutes the service has given no usable answer; the wait goes on. "
                f"{reason}",
            )

    def _count(self) -> None:
        tags = {"conn_id": self._conn_id}
        requests = self._pool.requests
        Stats.incr("ams.watch.requests", requests - self._counted_requests, tags=tags)
        self._counted_requests = requests
        Stats.gauge("ams.watch.waits", len(self._waiters), tags=tags)
        Stats.gauge("ams.watch.outage_seconds", self._trouble.lasted(time.monotonic()), tags=tags)


def _is_hopeless(errors: list[Exception], answers: int) -> bool:
    """Whether to leave the service alone: it asks for that, refuses us, or gives more errors than answers."""
    if len(errors) > answers + THREADS:
        return True
    return any(getattr(error, "retry_after", None) or isinstance(error, RefusedError) for error in errors)


def _canceled(job_id: str, call: asyncio.Future[str]) -> str:
    if not call.done():
        call.cancel()
        return f"Job {job_id} may run on: there was no answer in time to the request to cancel it"
    if exc := call.exception():
        return f"Job {job_id} may run on, since it could not be canceled: {exc}"
    return call.result()
