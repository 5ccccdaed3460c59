"""Who waits for which job in a `JobWatch`, and what they are told; does no I/O."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Set
from typing import TypeVar

from airflow_ams.api.details import without_details
from airflow_ams.api.errors import ServiceError, TransientError
from airflow_ams.api.model import Job, JobState
from airflow_ams.api.sweep import Swept
from airflow_ams.api.waiting import JobWait
from airflow_ams.triggers.alarms import SLICE, Alarm, Alarms
from airflow_ams.triggers.reading import slim
from airflow_ams.triggers.schedule import EARLY, NEVER, Schedule, Watched, jittered

HEARTBEAT = 60.0
"""Seconds between two looks at whether a task's log has been silent for too long."""

LAST_LOOK = 2.0
"""Seconds before its deadline at which a wait has its jobs read once more."""

_FEW = 50

_T = TypeVar("_T")


class Waiter:
    """One waiting task.

    :param wait: what the task knows of its jobs
    :param interval: seconds between two readings of a job
    :param deadline: when the wait ends, in epoch seconds
    :param say: writes to the task's own log, given a level and a line
    """

    __slots__ = ("alarm", "context", "deadline", "done", "interval", "say", "told_of", "wait")

    def __init__(
        self, wait: JobWait, interval: float, deadline: float, say: Callable[[int, str], None]
    ) -> None:
        self.wait = wait
        self.interval = interval
        self.deadline = deadline
        self.say = say
        # The task's log is found by context variables, which the watch's own task does not have.
        self.context = contextvars.copy_context()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.alarm: Alarm[Waiter] | None = None
        self.told_of: float | None = None
        """The outage that the task's log speaks of, by when it began."""

    def log(self, line: str | None, level: int = logging.INFO) -> None:
        """Write a line to the task's log, if there is one to write."""
        if line:
            self.context.run(self.say, level, line)


class Waiters:
    """Who waits for which job; tells them of each reading, and finds out what is to be read next.

    Adding a waiter and letting one go costs the same however many there are. What goes through many of them
    is done in slices, so that the event loop is never held up.

    :param wake: called when there is something to read at once
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.schedule = Schedule()
        self._joining: list[tuple[float, int, Waiter]] = []
        self._joined = 0
        self.jobs: dict[str, Watched] = {}
        # Jobs to be fetched now.
        self.gone: dict[str, Watched] = {}
        # Since when somebody must know where a job stands, whatever holds up the list.
        self._hurried: dict[str, float] = {}
        # Jobs in Processing, of which somebody wants to know the percent; the next one first.
        self.running: dict[str, Watched] = {}
        self._waiters: dict[Waiter, None] = {}
        self._alarms = Alarms(self._ring)
        # When the last list was begun that tells percent.
        self._percent_at = NEVER
        # Those whose lists of jobs have changed, and when to look whose log is silent.
        self._touched: dict[Waiter, None] = {}
        self._heartbeats: deque[tuple[float, list[Waiter]]] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(list(self._waiters))

    def join(self, waiter: Waiter, *, at_once: bool, by: float = math.inf) -> None:
        """Take somebody in; from the next round on, the jobs are read.

        :param at_once: read them now, and not one jittered interval later
        :param by: read them by then in any case, in epoch seconds
        """
        # A wait that was taken over from another triggerer has its jobs read, however late it is.
        waiter.deadline = max(waiter.deadline, time.time() + LAST_LOOK)
        left = min(waiter.deadline - LAST_LOOK, by) - time.time()
        pause = 0.0 if at_once else max(0.0, min(jittered(waiter.interval), left))
        self._waiters[waiter] = None
        self._joined += 1
        heapq.heappush(self._joining, (time.monotonic() + pause, self._joined, waiter))
        self._set_alarm(waiter)
        self.wake()

    def next_due(self) -> float:
        """Return when there is something to read; infinity if there is nothing."""
        joining = self._joining[0][0] if self._joining else math.inf
        gone = min((job.retry_at for job in self.gone.values() if not job.is_being_read), default=math.inf)
        return min(joining, gone, self.schedule.next_due())

    def to_fetch(self, now: float) -> list[Watched]:
        """Return the jobs that have left the list and are to be fetched now."""
        return [job for job in self.gone.values() if not job.is_being_read and job.retry_at <= now]

    def take_newcomers(self, now: float) -> list[Waiter]:
        """Return those who have joined and whose jobs are to be read now, or so soon that now will do."""
        newcomers = []
        while self._joining:
            first, _, waiter = self._joining[0]
            if waiter in self._waiters:
                if first > now + EARLY * waiter.interval:
                    break
                newcomers.append(waiter)
            heapq.heappop(self._joining)
        return newcomers

    def put_back(self, newcomers: list[Waiter]) -> None:
        """Take newcomers next time."""
        for waiter in newcomers:
            self._joined += 1
            heapq.heappush(self._joining, (-math.inf, self._joined, waiter))

    async def admit(self, newcomers: list[Waiter]) -> None:
        """Begin to watch the jobs of newcomers, whose ids are written as the service does by now."""
        async for waiter in sliced(newcomers):
            if waiter in self._waiters and waiter.wait.ending is not None:
                self.finish(waiter)
            async for job_id in sliced(list(waiter.wait.pending)):
                if waiter in self._waiters:
                    self._watch(job_id, waiter)
        self._heartbeats.append((time.monotonic() + HEARTBEAT, newcomers))

    def _watch(self, job_id: str, waiter: Waiter) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            job = self.jobs[job_id] = Watched(job_id, waiter.interval)
        self.schedule.set_interval(job, min(job.interval, waiter.interval))
        self.schedule.add(job)
        job.enter(waiter)
        job.wants_progress |= waiter.wait.wants_progress
        job.is_asked_for = True

    # -- readings

    def is_news(self, job_id: str, state: JobState, progress: float | None) -> bool:
        """Tell a sweep which jobs to look at; called in its thread, for every active job of the account."""
        job = self.jobs.get(job_id)
        if job is None:
            return False
        if job.is_asked_for or job.is_off_list or job.job is None or job.job.state is not state:
            return True
        return job.wants_progress and progress is not None and job.has_moved(progress, time.monotonic())

    @property
    def hurried(self) -> list[Watched]:
        """The jobs of which somebody must know now where they stand, whatever holds up the list."""
        return [self.jobs[job_id] for job_id in self._hurried]

    def is_hurried(self, job: Watched) -> bool:
        """Whether somebody must know now where a job stands."""
        return job.id in self._hurried

    async def listed(self, found: Job, began: float) -> None:
        """Tell of a job that was listed, unless something newer is known of it, or wanted.

        :param began: when the list was begun
        """
        job = self.jobs.get(found.id)
        if job is not None and began > max(job.read_at, self._hurried.get(job.id, job.read_at)):
            await self.saw(found, at=time.time() - (time.monotonic() - began))

    async def saw(self, found: Job, *, is_single: bool = False, at: float | None = None) -> None:
        """Tell whoever waits for a job of a reading of it.

        :param is_single: it was fetched, so it may not be in the list of the active jobs
        :param at: when it was read, in epoch seconds; None: now
        """
        job = self.jobs.get(found.id)
        if job is None:
            return
        if found.progress is not None:
            job.percent_at = job.moved_at = time.monotonic()
        job.job = slim(found, job.id, job.job)
        job.forget_failures()
        job.is_off_list = is_single
        self._found(job)
        self._follow(job)
        async for waiter in sliced(list(job.waiters)):
            self._tell(waiter, job, at)

    async def warn_of(self, job: Watched, error: ServiceError) -> None:
        """Say in the logs of those who wait for a job that it cannot be read, whatever others can."""
        async for waiter in sliced(list(job.waiters)):
            waiter.log(f"Job {job.id} cannot be read; asking again. {error}", logging.WARNING)

    async def saw_without_details(self, job: Watched, found: Job, error: ServiceError) -> None:
        """Tell of a job that has ended, although not all of it could be read."""
        found, warning = without_details(found, error)
        async for waiter in sliced(list(job.waiters)):
            waiter.log(warning, logging.WARNING)
        await self.saw(found)

    async def missed(self, job: Watched, said: str) -> None:
        """Tell whoever waits for a job that the service knows none of that id, and what it said."""
        job.is_off_list = True
        self._found(job)
        async for waiter in sliced(list(job.waiters)):
            line = waiter.wait.miss(job.id, said)
            waiter.log(line, logging.INFO if job.id in waiter.wait.pending else logging.WARNING)
            self._judge(waiter, job)

    def _found(self, job: Watched) -> None:
        job.is_asked_for = False
        self.gone.pop(job.id, None)
        self._hurried.pop(job.id, None)

    async def swept(self, swept: Swept, wanted: Set[str]) -> None:
        """Draw the consequences of a sweep, besides its news.

        :param wanted: the jobs that it looked for
        """
        for job_id in swept.seen & self.gone.keys():
            # It is in the list after all.
            self.gone.pop(job_id).forget_failures()
        for job_id in swept.missing:
            self._left(job_id, swept.began)
        if len(swept.answered) == len(wanted):
            self.schedule.swept(swept.began, wanted)
            self._percent_at = swept.began if swept.lists_progress else self._percent_at
        else:
            await self._listed_some(swept)
        # Those who came to be in a hurry meanwhile.
        for job in self.hurried:
            self.schedule.add(job)

    async def _listed_some(self, swept: Swept) -> None:
        """Note of each job by itself that a sweep has read it; one that it missed is still to be read."""
        async for job_id in sliced(swept.answered - swept.missing):
            job = self.jobs.get(job_id)
            if job is not None and job.read_at < swept.began:
                self.schedule.read(job, swept.began)
                job.percent_at = swept.began if swept.lists_progress else job.percent_at

    def _left(self, job_id: str, now: float) -> None:
        """Have a job fetched that is not in the list; one that never is, only once an interval."""
        job = self.jobs.get(job_id)
        if job and (
            job.is_asked_for or not job.is_off_list or job.read_at + job.interval * (1 - EARLY) <= now
        ):
            self.gone[job_id] = job

    async def refuse(self, waiters: Iterable[Waiter], reason: str) -> None:
        """End the waits of some, since asking again would bring the same."""
        async for waiter in sliced(list(waiters)):
            waiter.wait.refuse(reason)
            self.finish(waiter)

    async def tell_of_outage(self, since: float, line: str) -> None:
        """Say in each task's log, once for each outage, that there is one."""
        async for waiter in sliced([waiter for waiter in self if waiter.told_of != since]):
            waiter.told_of = since
            waiter.log(line, logging.WARNING)

    async def report(self) -> None:
        """Say in the tasks' logs what only the end of a round knows."""
        touched, self._touched = self._touched, {}
        async for waiter in sliced(touched):
            waiter.log(waiter.wait.line(None))
            self._set_alarm(waiter)
        now = time.monotonic()
        while self._heartbeats and self._heartbeats[0][0] <= now:
            _, waiters = self._heartbeats.popleft()
            going_on = [waiter for waiter in waiters if waiter in self._waiters]
            async for waiter in sliced(going_on):
                self._beat(waiter)
            if going_on:
                self._heartbeats.append((now + HEARTBEAT, going_on))

    def _beat(self, waiter: Waiter) -> None:
        job = self.jobs.get(next(iter(waiter.wait.pending), ""))
        if job is not None and job.job is not None:
            one = job.job if waiter.wait.wants_progress else None
            waiter.log(waiter.wait.line(one, self._percent_age(job)))

    def has_old_percent(self, job: Watched) -> bool:
        """Whether the last reading of a job has not told its percent."""
        return self._percent_time(job) < job.read_at

    def _percent_age(self, job: Watched) -> float:
        """Return how many seconds ago a job's percent was read."""
        return time.monotonic() - self._percent_time(job)

    def _percent_time(self, job: Watched) -> float:
        return job.percent_at if job.is_off_list else max(job.percent_at, self._percent_at)

    def _follow(self, job: Watched) -> None:
        """Let a job have its turn in the reading of percent, if it has any and somebody wants to know."""
        if job.wants_progress and job.job is not None and job.job.state is JobState.PROCESSING:
            # However often it is read, it keeps its place.
            self.running.setdefault(job.id, job)
        else:
            self.running.pop(job.id, None)

    def _tell(self, waiter: Waiter, job: Watched, at: float | None) -> None:
        if job.job is not None and waiter in self._waiters:
            waiter.log(waiter.wait.see(job.job, at), logging.WARNING)
        self._judge(waiter, job)

    def _judge(self, waiter: Waiter, job: Watched) -> None:
        """Draw the consequences of a reading of a job for one who waits for it."""
        if not waiter.wait.wants_progress:
            self._touched[waiter] = None
        elif job.job is not None:
            waiter.log(waiter.wait.line(job.job, self._percent_age(job)))
            self._set_alarm(waiter)
        if job.id not in waiter.wait.pending:
            self._unwatch(job, waiter)
        if waiter.wait.ending is not None:
            self.finish(waiter)

    # -- endings

    def finish(self, waiter: Waiter) -> None:
        """Let a task go on whose wait has an ending."""
        if not waiter.done.done():
            waiter.done.set_result(None)
        self.drop(waiter)

    def drop(self, waiter: Waiter) -> None:
        """Forget a waiter."""
        if waiter not in self._waiters:
            return
        del self._waiters[waiter]
        self._touched.pop(waiter, None)
        self._alarms.drop(waiter, waiter.alarm)
        for job_id in waiter.wait.pending:
            if job := self.jobs.get(job_id):
                self._unwatch(job, waiter)
        if len(self._joining) > 2 * len(self._waiters) + _FEW:
            # Those who have left before their first poll.
            self._joining = [entry for entry in self._joining if entry[2] in self._waiters]
            heapq.heapify(self._joining)

    def break_off(self, exc: BaseException) -> None:
        """Let nobody wait for a watch that has broken down."""
        for waiter in self:
            if not waiter.done.done():
                waiter.done.set_exception(exc)

    def _unwatch(self, job: Watched, waiter: Waiter) -> None:
        job.quit(waiter)
        if not job.waiters and job.id in self.jobs:
            for jobs in (self.jobs, self.gone, self.running):
                jobs.pop(job.id, None)
            self._hurried.pop(job.id, None)
            self.schedule.remove(job)
        elif len(job.waiters) <= _FEW:
            self.schedule.set_interval(
                job, min((other.interval for other in job.waiters), default=job.interval)
            )

    def _set_alarm(self, waiter: Waiter) -> None:
        """Set a waiter's alarm to its last look, its deadline, or the end of a job's time in the queue."""
        if waiter not in self._waiters:
            return
        now = time.time()
        last_look = waiter.deadline - LAST_LOOK
        limits = waiter.wait.queue_limits.values()
        at = last_look if last_look > now else waiter.deadline
        waiter.alarm = self._alarms.set(
            waiter, waiter.alarm, min([at, *(limit for limit in limits if limit > now)]) if limits else at
        )

    def _ring(self, waiter: Waiter) -> None:
        if waiter not in self._waiters:
            return
        self._alarms.drop(waiter, waiter.alarm)
        waiter.alarm = None
        now = time.time()
        if now >= waiter.deadline:
            self._time_out(waiter)
            return
        # Where a job stands is asked once more before its wait, or its time in the queue, is over.
        limits = waiter.wait.queue_limits
        is_last_look = now >= waiter.deadline - LAST_LOOK
        for job_id in waiter.wait.pending if is_last_look else limits:
            job = self.jobs.get(job_id)
            if job is not None and (is_last_look or limits[job_id] <= now):
                job.is_asked_for = True
                self._hurried[job_id] = time.monotonic()
                self.schedule.add(job)
        self._set_alarm(waiter)
        self.wake()

    def _time_out(self, waiter: Waiter) -> None:
        """End a wait whose time is over; a job that is known to have ended counts all the same."""
        for job_id in list(waiter.wait.pending):
            job = self.jobs.get(job_id)
            if job is not None and job.job is not None and job.job.state.is_final:
                found, warning = without_details(job.job, TransientError("There was no time left"))
                waiter.log(warning, logging.WARNING)
                waiter.log(waiter.wait.see(found), logging.WARNING)
        if waiter.wait.ending is None:
            job = self.jobs.get(next(iter(waiter.wait.pending), ""))
            waiter.wait.time_out(job.job if job else None)
        self.finish(waiter)


async def sliced(items: Iterable[_T]) -> AsyncIterator[_T]:
    """Yield items, and let others use the event loop after each slice of time."""
    began = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - began > SLICE:
            await asyncio.sleep(0)
            began = time.monotonic()
