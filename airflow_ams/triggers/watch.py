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
from collections.abc import Callable, Iterable, Set
from functools import partial
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import Stats

from airflow_ams.api.details import cancel, may_run_on
from airflow_ams.api.errors import RefusedError, TransientError
from airflow_ams.api.job_list import JOBS_PER_PAGE
from airflow_ams.api.retries import Retries
from airflow_ams.api.sweep import Sweep
from airflow_ams.triggers.fetches import OUTAGE_NOTICE, Fetches
from airflow_ams.triggers.pool import CANCELING, POLLING, ServicePool
from airflow_ams.triggers.reading import normalize, read_list
from airflow_ams.triggers.schedule import Watched
from airflow_ams.triggers.trouble import Trouble
from airflow_ams.triggers.waiters import Waiter, Waiters, sliced

log = logging.getLogger(__name__)

_LIST_PATIENCE = 1.0
"""Seconds that a round waits for the list."""

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
        self._pool = ServicePool(conn_id, POLLING)
        # Cancels do not wait behind polls that hang.
        self._cancel_pool = ServicePool(conn_id, CANCELING)
        self._trouble = Trouble()
        self._fetches = Fetches(self._pool, self._waiters, self._trouble)
        self._sweep = Sweep()
        self._listing: asyncio.Task[Set[str]] | None = None
        self._listed_since = 0.0
        self._tries_one_first = False
        self._counted_requests = 0

    def join(self, waiter: Waiter, *, at_once: bool, by: float = math.inf) -> None:
        """Let a task wait; its `done` is set when its wait has an ending.

        :param at_once: read its jobs now, and not one jittered interval later
        :param by: read its jobs by then in any case, in epoch seconds
        """
        self._users += 1
        # Else a worker has read the jobs.
        self._trouble.has_answered |= not at_once
        self._waiters.join(waiter, at_once=at_once, by=by)
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
        calls = {
            job_id: asyncio.ensure_future(
                self._cancel_pool.call(partial(cancel, job_id=job_id, retries=policy))
            )
            for job_id in job_ids
        }
        try:
            if calls:
                await asyncio.wait(calls.values(), timeout=seconds)
            return [_canceled(job_id, call) for job_id, call in calls.items()]
        finally:
            # Who asked waits no longer; a cancel that comes late is better than none.
            late = asyncio.gather(*calls.values(), return_exceptions=True)
            late.add_done_callback(lambda _: self._release())

    def _release(self) -> None:
        self._users -= 1
        if self._users > 0:
            return
        self._on_close(self)
        for task in (self._task, self._listing):
            if task is not None:
                task.cancel()
        self._fetches.close()
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
            delay = self._next_due() - time.monotonic()
            if delay <= 0:
                return
            timer = None if math.isinf(delay) else loop.call_later(delay, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _next_due(self) -> float:
        is_news = self._trouble.tally.errors or (self._listing is not None and self._listing.done())
        due = -math.inf if is_news else max(self._waiters.next_due(), self._fetches.not_before)
        return max(due, self._trouble.quiet_until)

    async def _round(self) -> None:
        # What an earlier round did not wait for.
        self._judge()
        now = time.monotonic()
        is_listed = self._listing is not None and self._listing.done()
        if now < self._fetches.not_before and not is_listed:
            return
        await self._admit()
        due = self._waiters.schedule.due(now) if self._listing is None else []
        is_many = self._listing is not None or len(due) > JOBS_PER_PAGE
        if is_many and self._listing is None and self._sweep.pays(len(due)):
            if self._tries_one_first:
                # The list has asked us to stay away: is it the service that does, or the list alone?
                self._tries_one_first = False
                await self._fetches.read(due[:1], with_percent=False)
            self._listed_since = now
            self._listing = asyncio.ensure_future(self._read_list(due))
            self._listing.add_done_callback(self._listed)
        if self._listing is not None:
            due = await self._await_list(self._listing)
        await self._fetches.read(due, with_percent=not is_many)
        self._judge()
        if is_many and self._listing is None:
            self._fetches.read_percent()

    async def _await_list(self, listing: asyncio.Task[Set[str]]) -> list[Watched]:
        """Wait for the list for a while; return the jobs that are to be fetched singly nevertheless."""
        await asyncio.wait([listing], timeout=_LIST_PATIENCE)
        if not listing.done():
            return self._waiters.hurried
        self._listing = None
        now = time.monotonic()
        error = listing.exception()
        if error is None and not listing.result():
            return self._waiters.hurried
        due = self._waiters.schedule.due(now)
        if error is None:
            # What a list takes care of is due again by now if that took long; the next one reads it.
            left = {*listing.result(), *(job.id for job in self._waiters.hurried)}
            return [job for job in due if job.id in left]
        if not isinstance(error, TransientError):
            raise error
        self._tries_one_first = error.retry_after is not None
        self._trouble.tally.failed(error, self._listed_since)
        # One fetch at least, to find out whether it is the list alone that fails.
        await self._fetches.read(due[:1], with_percent=False)
        tally = self._trouble.take()
        self._sweep.failed(is_alone=tally.answers > 0, seconds=now - self._listed_since)
        raise tally.worst

    def _judge(self) -> None:
        """Raise what is wrong with the service, or with us; what is wrong with single jobs is only noted."""
        tally = self._trouble.take()
        if not tally.errors:
            return
        if tally.is_general or tally.is_hopeless():
            raise tally.worst
        count = len(tally.errors)
        self._note(f"{count} of {count + tally.answers} requests failed. {tally.worst}", count)

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

    async def _read_list(self, due: list[Watched]) -> Set[str]:
        """Sweep; return the ids of the jobs that were not looked for."""
        waiters = self._waiters
        wanted = frozenset(job.id for job in waiters.schedule)
        swept = await self._pool.call(
            partial(
                read_list,
                sweep=self._sweep,
                wanted=wanted,
                due=frozenset(job.id for job in due),
                is_news=waiters.is_news,
            )
        )
        if swept.answered or swept.seen:
            self._trouble.answered(time.monotonic())
        async for job in sliced(swept.news):
            await waiters.listed(job, swept.began)
        await waiters.swept(swept, wanted)
        if swept.trouble is not None:
            self._note(f"One of several lists could not be read. {swept.trouble}")
            if swept.trouble.retry_after:
                self._trouble.came(time.monotonic(), swept.trouble.retry_after)
        return wanted - swept.answered

    def _listed(self, listing: asyncio.Task[Set[str]]) -> None:
        if not listing.cancelled():
            # Or it would be said that nobody has looked at it, when the last wait ends before the next round.
            listing.exception()
        self._wake.set()

    # -- trouble

    async def _refused(self, exc: RefusedError) -> None:
        """End all waits, unless the connection has been changed meanwhile: a key may have been rotated."""
        try:
            if not self._trouble.has_renewed and await self._pool.renew():
                self._trouble.has_renewed = True
                # What was refused meanwhile was so by the old one.
                self._trouble.take()
                if self._listing is not None and self._listing.done():
                    self._listing = None
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
        requests = self._pool.requests + self._cancel_pool.requests
        Stats.incr("ams.watch.requests", requests - self._counted_requests, tags=tags)
        self._counted_requests = requests
        Stats.gauge("ams.watch.waits", len(self._waiters), tags=tags)
        Stats.gauge("ams.watch.outage_seconds", self._trouble.lasted(time.monotonic()), tags=tags)


def _canceled(job_id: str, call: asyncio.Future[tuple[int, str]]) -> tuple[int, str]:
    if not call.done():
        return may_run_on(job_id, "there was no answer in time")
    if exc := call.exception():
        return may_run_on(job_id, exc)
    return call.result()
