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

from airflow_ams.api.details import cancel, may_run_on
from airflow_ams.api.errors import JobNotFoundError, RefusedError, ServiceError, TransientError
from airflow_ams.api.model import JobState
from airflow_ams.api.retries import Retries
from airflow_ams.api.sweep import JOBS_PER_PAGE, Sweep
from airflow_ams.triggers.pool import THREADS, ServicePool
from airflow_ams.triggers.reading import (
    is_about_all,
    normalize,
    read_details,
    read_job,
    read_list,
    read_percent,
    urgency,
)
from airflow_ams.triggers.schedule import Watched
from airflow_ams.triggers.trouble import Trouble, back_off
from airflow_ams.triggers.waiters import Waiter, Waiters, sliced

if TYPE_CHECKING:
    from airflow_ams.api.model import Job

log = logging.getLogger(__name__)

FETCHES_PER_SECOND = 20.0
"""Single fetches a second at most of jobs that are merely due, when sweeps are refused or do not pay."""

PATIENCE = 2.0
"""Seconds that a round waits for single fetches."""

OUTAGE_NOTICE = 600.0
"""Seconds of outage after which every waiting task's log says so."""

_MAX_TRIES = 8
"""How often a job's errors, or outputs, are asked for before its wait ends without them."""


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, JobWatch]] = WeakKeyDictionary()


def job_watch(conn_id: str) -> JobWatch:
    """Return the watch of a connection in the running event loop; there is one while somebody uses it."""
    watches = _watches.setdefault(asyncio.get_running_loop(), {})

    def forget(watch: JobWatch) -> None:
        if watches.get(conn_id) is watch:
            del watches[conn_id]

    if conn_id not in watches:
        watches[conn_id] = JobWatch(conn_id, forget)
    return watches[conn_id]


class JobWatch:
    """Polls for all the tasks that wait on one connection in one event loop.

    It works in rounds, each of which reads what is due. Whatever goes wrong in one is the watch's affair: it
    backs off for all, and no wait hears of it until it has lasted for `OUTAGE_NOTICE` seconds, or cannot get
    better by itself. Requests are made by the threads of a `ServicePool`.

    Counted through Airflow's Stats: ``ams.watch.requests`` and ``ams.watch.errors``, and as gauges
    ``ams.watch.waits`` and ``ams.watch.outage_seconds``; all tagged with the connection's id.

    :param conn_id: the connection
    :param on_close: called with the watch when the last user has left
    """

    def __init__(self, conn_id: str, on_close: Callable[[JobWatch], object]) -> None:
        self._conn_id = conn_id
        self._on_close = on_close
        self._users = 0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiters = Waiters(self._wake.set)
        self._pool = ServicePool(conn_id)
        # Cancels do not wait behind polls that hang.
        self._cancel_pool = ServicePool(conn_id)
        # Fetches that the round did not wait for, and the reading of a percent.
        self._stragglers: set[asyncio.Task[None]] = set()
        self._percent: asyncio.Task[None] | None = None
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

    async def cancel(self, job_ids: Iterable[str], seconds: float) -> list[tuple[int, str]]:
        """Ask for jobs to be canceled, as well as it can be done in so many seconds.

        :returns: about each job a level of logging, and a line that says how it went
        """
        policy = Retries(within=seconds)
        self._users += 1
        try:
            calls = {
                job_id: asyncio.ensure_future(
                    self._cancel_pool.call(partial(cancel, job_id=job_id, retries=policy))
                )
                for job_id in job_ids
            }
            if calls:
                await asyncio.wait(calls.values(), timeout=seconds)
            return [_canceled(job_id, call) for job_id, call in calls.items()]
        finally:
            self._release()

    def _release(self) -> None:
        self._users -= 1
        if self._users > 0:
            return
        self._on_close(self)
        for task in (self._task, self._percent, *self._stragglers):
            if task is not None:
                task.cancel()
        self._pool.close()
        self._cancel_pool.close()
        self._trouble.passed()
        self._count()

    def _ended(self, task: asyncio.Task[None]) -> None:
        # An error of this module's own; what goes wrong with a service does not come here.
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_close(self)
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
            await self._waiters.report()
            self._count()

    async def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            due = max(self._waiters.next_due(), self._trouble.quiet_until, self._not_before)
            delay = due - time.monotonic()
            if delay <= 0:
                return
            timer = None if math.isinf(delay) else loop.call_later(delay, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    async def _round(self) -> None:
        await self._admit()
        now = time.monotonic()
        due = self._waiters.schedule.due(now)
        is_many = len(due) > JOBS_PER_PAGE
        list_error: TransientError | None = None
        if is_many and self._sweep.pays(len(due)):
            try:
                due = await self._read_list(due)
            except TransientError as exc:
                # One fetch at least, to find out whether it is the list alone that fails.
                list_error, due = exc, due[:1]
        errors: list[Exception] = [list_error] if list_error else []
        answers = await self._read_singly(due, errors, with_percent=not is_many)
        if list_error is not None:
            self._sweep.failed(is_alone=answers > 0)
            raise min(errors, key=urgency)
        if errors and (answers == 0 or _is_hopeless(errors, answers + THREADS)):
            raise min(errors, key=urgency)
        if errors:
            self._note(f"{len(errors)} fetches failed, {answers} did not. {errors[0]}", len(errors))
        if is_many and (self._percent is None or self._percent.done()):
            self._percent = asyncio.ensure_future(self._read_percent())

    async def _admit(self) -> None:
        newcomers = self._waiters.take_newcomers(time.monotonic())
        if not newcomers:
            return
        try:
            await self._pool.call(partial(normalize, waits=[newcomer.wait for newcomer in newcomers]))
        except Exception:
            self._waiters.put_back(newcomers)
            raise
        await self._waiters.admit(newcomers)

    async def _read_list(self, due: list[Watched]) -> list[Watched]:
        """Sweep; return those of the jobs that are due which are still to be read."""
        waiters, began = self._waiters, time.monotonic()
        wanted = [job.id for job in waiters.schedule]
        swept = await self._pool.call(
            partial(read_list, sweep=self._sweep, wanted=wanted, is_news=waiters.is_news)
        )
        if swept is None:
            return due
        self._answered()
        async for job in sliced(swept.news):
            await waiters.saw(job)
        waiters.listed(swept.seen)
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

        What takes longer than `PATIENCE` goes on beside the next rounds, so that it holds up nobody else.

        :param errors: takes those that come up
        :returns: how many were read
        """
        now = time.monotonic()
        gone = self._waiters.to_fetch(now)
        batch = [job for job in due if job.id not in self._waiters.gone and not job.is_being_read]
        batch = batch[: int(FETCHES_PER_SECOND)]
        for job in due:
            if job.is_being_read or job.id in self._waiters.gone:
                # It is seen to; or it would be due all the time.
                self._waiters.schedule.read(job, now)
        # In an outage, no more than it takes to see that it goes on.
        fetchers = 1 if self._trouble.is_outage else THREADS
        free = THREADS - 2 - len(self._stragglers)
        if batch or (gone and free <= 0):
            self._not_before = now + max(1.0 if free <= 0 else 0.0, len(batch) / FETCHES_PER_SECOND)
        jobs = [*gone, *batch]
        queue, read, is_over = iter(jobs), list[Watched](), False
        tolerated = len(errors) + (0 if fetchers == 1 else THREADS)

        async def fetch() -> None:
            for job in queue:
                if is_over or _is_hopeless(errors, len(read) + tolerated):
                    return
                try:
                    await self._fetch(job, with_percent=with_percent)
                    read.append(job)
                except Exception as exc:
                    errors.append(exc)

        tasks = [asyncio.ensure_future(fetch()) for _ in range(min(fetchers, free, len(jobs)))]
        for task in tasks:
            self._stragglers.add(task)
            task.add_done_callback(self._stragglers.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)
        is_over = True
        return len(read)

    async def _fetch(self, job: Watched, *, with_percent: bool) -> None:
        job.is_being_read = True
        self._waiters.schedule.read(job, time.monotonic())
        try:
            await self._read(job, with_percent=with_percent)
        except ServiceError as exc:
            now = time.monotonic()
            if self._waiters.jobs.get(job.id) is job:
                self._waiters.gone[job.id] = job
            job.retry_at = now + back_off(job.tries)
            job.tries += 1
            job.failing_since = min(job.failing_since, now)
            is_alone = self._trouble.lasted(now) < OUTAGE_NOTICE / 2
            if is_alone and now - job.failing_since >= OUTAGE_NOTICE:
                job.failing_since = now
                await self._waiters.warn_of(job, exc)
            raise
        finally:
            job.is_being_read = False

    async def _read(self, job: Watched, *, with_percent: bool) -> None:
        """Fetch a job, and what the verdict on it needs, and tell whoever waits for it."""
        if job.job is None or not job.job.state.is_final:
            found = await self._read_job(job)
            if found is None or self._waiters.jobs.get(job.id) is not job:
                return
            if not found.state.is_final:
                if with_percent and found.state is JobState.PROCESSING:
                    found = await self._with_percent(job, found)
                await self._waiters.saw(found, is_single=True)
                return
            job.job, job.tries = found, 0
        await self._read_details(job, job.job)

    async def _read_job(self, job: Watched) -> Job | None:
        """Fetch a job; tell of one that is not there, or that we must not read, and return None."""
        try:
            found = await self._pool.call(partial(read_job, job_id=job.id))
        except JobNotFoundError:
            self._answered()
            await self._waiters.missed(job)
            return None
        except RefusedError as exc:
            if is_about_all(exc):
                raise
            if self._has_answered and exc.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN):
                # A service that has answered well before is given the benefit of the doubt.
                raise TransientError(exc.message, status=exc.status, request_id=exc.request_id) from exc
            await self._waiters.refuse(job.waiters, str(exc))
            return None
        self._answered()
        return found

    async def _read_details(self, job: Watched, found: Job) -> None:
        """Read why a job failed, or what it wrote; a few times, for how it ended counts in any case."""
        outputs = any(waiter.wait.wants_outputs for waiter in job.waiters)
        try:
            detailed = await self._pool.call(partial(read_details, job=found, outputs=outputs))
        except ServiceError as exc:
            is_passing = isinstance(exc, TransientError) and job.tries + 1 < _MAX_TRIES
            if is_passing or is_about_all(exc):
                raise
            await self._waiters.saw_without_details(job, found, exc)
            return
        self._answered()
        await self._waiters.saw(detailed)

    async def _read_percent(self) -> None:
        """Read the percent of one job, each in its turn: one request a round, however many wait."""
        running = self._waiters.running
        job = next(iter(running.values()), None)
        if job is None or job.job is None:
            return
        running[job.id] = running.pop(job.id)
        before = job.job
        found = await self._with_percent(job, before)
        if job.job is before and found is not before:
            await self._waiters.saw(found, is_single=job.is_off_list)

    async def _with_percent(self, job: Watched, found: Job) -> Job:
        """Read how far a job is, if somebody wants to know; a nicety, so errors are ignored."""
        if not any(waiter.wait.wants_progress for waiter in job.waiters):
            return found
        try:
            found = await self._pool.call(partial(read_percent, job=found))
        except ServiceError:
            return found
        job.percent_at = time.monotonic()
        return found

    # -- trouble

    def _answered(self) -> None:
        self._trouble.passed()
        self._has_answered = True
        self._has_renewed = False

    async def _refused(self, exc: RefusedError) -> None:
        """End all waits, unless the connection has been changed meanwhile: a key may have been rotated."""
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
        self._note(reason)
        lasted = self._trouble.lasted(now)
        if self._trouble.since is not None and lasted >= OUTAGE_NOTICE:
            await self._waiters.tell_of_outage(
                self._trouble.since,
                f"For {lasted / 60:.0f} minutes the service has given no usable answer; the wait goes on. "
                f"{reason}",
            )

    def _note(self, reason: str, errors: int = 1) -> None:
        Stats.incr("ams.watch.errors", errors, tags={"conn_id": self._conn_id})
        log.warning("Connection '%s': %s Asking again later.", self._conn_id, reason)

    def _count(self) -> None:
        tags = {"conn_id": self._conn_id}
        requests = self._pool.requests
        Stats.incr("ams.watch.requests", requests - self._counted_requests, tags=tags)
        self._counted_requests = requests
        Stats.gauge("ams.watch.waits", len(self._waiters), tags=tags)
        Stats.gauge("ams.watch.outage_seconds", self._trouble.lasted(time.monotonic()), tags=tags)


def _is_hopeless(errors: list[Exception], tolerated: int) -> bool:
    """Whether to leave the service alone: it asks for that, refuses us, or gives more errors than answers."""
    if len(errors) > tolerated:
        return True
    return any(getattr(error, "retry_after", None) or isinstance(error, RefusedError) for error in errors)


def _canceled(job_id: str, call: asyncio.Future[tuple[int, str]]) -> tuple[int, str]:
    if not call.done():
        call.cancel()
        return may_run_on(job_id, "there was no answer in time")
    if exc := call.exception():
        return may_run_on(job_id, exc)
    return call.result()
