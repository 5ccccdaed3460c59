"""The jobs that `JobWatch` reads one by one: those that have left the list, and all when there is no list."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from airflow_ams.api.details import DETAILS_PATIENCE
from airflow_ams.api.errors import JobNotFoundError, RefusedError, ServiceError, TransientError
from airflow_ams.api.model import JobState
from airflow_ams.triggers.pool import POLLING
from airflow_ams.triggers.reading import is_about_all, read_details, read_job, read_percent
from airflow_ams.triggers.trouble import back_off

if TYPE_CHECKING:
    from airflow_ams.api.model import Job
    from airflow_ams.triggers.pool import ServicePool
    from airflow_ams.triggers.schedule import Watched
    from airflow_ams.triggers.trouble import Trouble
    from airflow_ams.triggers.waiters import Waiters

FETCHES_PER_SECOND = 20.0
"""Single fetches a second at most of jobs that are merely due, when sweeps are refused or do not pay."""

PATIENCE = 2.0
"""Seconds that a round waits for single fetches."""

OUTAGE_NOTICE = 600.0
"""Seconds after which a task's log says that its job, or nothing at all, can be read."""

_FETCHERS = POLLING - 2
"""The list, and a percent, have a thread each."""


class Fetches:
    """Fetches jobs one by one, and tells those who wait for them.

    What takes longer than `PATIENCE` goes on beside the next rounds, so that it holds up nobody else; what
    goes wrong with it then counts in the next one.
    """

    def __init__(self, pool: ServicePool, waiters: Waiters, trouble: Trouble) -> None:
        self._pool = pool
        self._waiters = waiters
        self._trouble = trouble
        self._tasks: set[asyncio.Task[None]] = set()
        self._percent: asyncio.Task[None] | None = None
        self.not_before = -math.inf
        """When more can be fetched."""

    def close(self) -> None:
        """Wait for nothing any more."""
        for task in (*self._tasks, self._percent):
            if task is not None:
                task.cancel()

    async def read(self, due: list[Watched], *, with_percent: bool) -> None:
        """Fetch the jobs that have left the list, and of those that are due as many as a second allows."""
        queue = deque(self._choose(due))
        is_outage = self._trouble.is_outage
        # In an outage, no more than it takes to see that it goes on.
        fetchers = min(1 if is_outage else _FETCHERS, _FETCHERS - len(self._tasks), len(queue))
        spare = len(self._trouble.tally.errors) + (0 if is_outage else _FETCHERS)
        tasks = [
            asyncio.ensure_future(self._fetch_all(queue, spare, with_percent=with_percent))
            for _ in range(fetchers)
        ]
        for task in tasks:
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)
        queue.clear()

    def _choose(self, due: list[Watched]) -> list[Watched]:
        now = time.monotonic()
        gone = self._waiters.to_fetch(now)
        batch: list[Watched] = []
        for job in due:
            if job.is_being_read or job.id in self._waiters.gone:
                # It is seen to; or it would be due all the time.
                self._waiters.schedule.read(job, now)
            elif len(batch) < FETCHES_PER_SECOND:
                batch.append(job)
        is_busy = len(self._tasks) >= _FETCHERS
        if batch or (gone and is_busy):
            self.not_before = now + max(1.0 if is_busy else 0.0, len(batch) / FETCHES_PER_SECOND)
        return [*gone, *batch]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._trouble.tally.errors:
            self._waiters.wake()

    async def _fetch_all(self, queue: deque[Watched], spare: int, *, with_percent: bool) -> None:
        while queue and not self._trouble.tally.is_hopeless(spare):
            job, began = queue.popleft(), time.monotonic()
            try:
                await self._fetch(job, with_percent=with_percent)
            except Exception as exc:
                self._trouble.tally.failed(exc, began)

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
            found = await self._read_job(job, with_percent=with_percent)
            if found is None or self._waiters.jobs.get(job.id) is not job:
                return
            if not found.state.is_final:
                if with_percent and found.state is JobState.PROCESSING:
                    found = await self._with_percent(job, found)
                await self._waiters.saw(found, is_single=True)
                return
            job.job = found
            job.forget_failures()
        await self._read_details(job, job.job)

    async def _read_job(self, job: Watched, *, with_percent: bool) -> Job | None:
        """Fetch a job; tell of one that is not there, or that we must not read, and return None."""
        # One that has just left the list has ended, mostly, so all of it is wanted; and so is the percent.
        has_left = job.id in self._waiters.gone and not job.is_off_list
        is_running = job.job is not None and job.job.state is JobState.PROCESSING
        last = None if has_left or (with_percent and is_running and job.wants_progress) else job.job
        is_urgent = self._waiters.is_hurried(job)
        try:
            found = await self._pool.call(partial(read_job, job_id=job.id, last=last, is_urgent=is_urgent))
        except JobNotFoundError as exc:
            self._trouble.answered(time.monotonic())
            await self._waiters.missed(job, exc.message)
            return None
        except RefusedError as exc:
            if is_about_all(exc):
                raise
            if self._trouble.has_answered and exc.may_pass:
                raise exc.passing() from exc
            await self._waiters.refuse(job.waiters, str(exc))
            return None
        self._trouble.answered(time.monotonic())
        return found

    async def _read_details(self, job: Watched, found: Job) -> None:
        """Read why a job failed, or what it wrote; for a while, for how it ended counts in any case."""
        outputs = any(waiter.wait.wants_outputs for waiter in job.waiters)
        try:
            detailed = await self._pool.call(partial(read_details, job=found, outputs=outputs))
        except ServiceError as exc:
            if is_about_all(exc):
                raise
            if time.monotonic() - job.failing_since < DETAILS_PATIENCE:
                if isinstance(exc, TransientError):
                    raise
                if isinstance(exc, RefusedError) and exc.may_pass:
                    raise exc.passing() from exc
            elif self._trouble.is_outage:
                # As long as nothing at all is answered it is too early to go on without them.
                with suppress(JobNotFoundError, RefusedError):
                    await self._pool.call(partial(read_job, job_id=job.id, last=found))
                self._trouble.answered(time.monotonic())
            await self._waiters.saw_without_details(job, found, exc)
            return
        self._trouble.answered(time.monotonic())
        await self._waiters.saw(detailed)

    def read_percent(self) -> None:
        """Read the percent of one job, each in its turn, beside all else: one request, however many wait."""
        running = self._waiters.running
        job = next(iter(running.values()), None)
        if job is not None and (self._percent is None or self._percent.done()):
            running[job.id] = running.pop(job.id)
            self._percent = asyncio.ensure_future(self._read_percent(job))

    async def _read_percent(self, job: Watched) -> None:
        before = job.job
        if before is None:
            return
        asked = before
        if self._waiters.has_old_percent(job):
            # What is known of it came with an earlier reading, and is not taken for an answer.
            asked = replace(before, progress=None, outputs=None)
        found = await self._with_percent(job, asked)
        if job.job is before and found is not asked:
            await self._waiters.saw(found, is_single=job.is_off_list)

    async def _with_percent(self, job: Watched, found: Job) -> Job:
        """Read how far a job is, if somebody wants to know; a nicety, so errors are ignored."""
        if not job.wants_progress:
            return found
        try:
            return await self._pool.call(partial(read_percent, job=found))
        except ServiceError:
            return found
