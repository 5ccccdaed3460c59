"""The trigger: a wait for media jobs in a triggerer."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_ams.api.ids import read_ids
from airflow_ams.api.waiting import End, Ending, JobWait, wait_on
from airflow_ams.triggers.supervisor import is_deferred, push_xcom
from airflow_ams.triggers.waiters import Waiter
from airflow_ams.triggers.watch import job_watch

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

CANCEL_SECONDS = 20.0
"""Seconds that asking for cancels may take; Airflow gives a killed trigger thirty."""

_ARGUMENTS = (
    "job_ids",
    "ams_conn_id",
    "poke_interval",
    "deadline",
    "started_at",
    "not_found_grace",
    "queue_timeout",
    "queued_until",
    "fail_fast",
    "cancel_on_kill",
    "cancel_on_timeout",
    "end_from_trigger",
    "do_xcom_push",
    "backstop",
)


class AmsJobTrigger(BaseTrigger):
    """Waits for media jobs; all triggers of one connection in a triggerer share one poll (`JobWatch`).

    It fires one event, whose payload is `airflow_ams.api.waiting.Ending.event`. Nothing secret is among its
    arguments: Airflow keeps them in the database as they are.

    :param job_ids: the job's id, or a list of ids
    :param ams_conn_id: the connection
    :param poke_interval: seconds between two readings of a job
    :param deadline: when the wait ends, in epoch seconds; None: `backstop` seconds before Airflow's own
        time-out for the trigger, if it has one
    :param started_at: when the wait began, in epoch seconds; the jobs have been read then, and are read next
        one jittered interval after the trigger's start. None: it begins with the trigger, and they are read
        at once
    :param not_found_grace: seconds from the wait's beginning for which an unknown id is asked for again
    :param queue_timeout: seconds that a job may be Queued or Scheduled; None: as long as it likes
    :param queued_until: when, in epoch seconds, the first of those that are queued will have been so for too
        long, as far as the worker knows
    :param fail_fast: whether the first job that does not finish ends the wait
    :param cancel_on_kill: cancel the jobs when the task is killed, cleared or marked by a user (Airflow 3.3+)
    :param cancel_on_timeout: cancel the jobs when the wait has run out of time
    :param end_from_trigger: end the task on success, without starting it on a worker again
    :param do_xcom_push: whether the task's document is stored if the task ends here
    :param backstop: see `deadline`
    """

    def __init__(
        self,
        job_ids: str | Sequence[str],
        ams_conn_id: str = "ams_default",
        poke_interval: float = 60.0,
        deadline: float | None = None,
        *,
        started_at: float | None = None,
        not_found_grace: float | None = 60.0,
        queue_timeout: float | None = None,
        queued_until: float | None = None,
        fail_fast: bool = True,
        cancel_on_kill: bool = False,
        cancel_on_timeout: bool = False,
        end_from_trigger: bool = False,
        do_xcom_push: bool = True,
        backstop: float = 0.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_ids = job_ids if isinstance(job_ids, str) else list(job_ids)
        self.ams_conn_id = ams_conn_id
        self.poke_interval = poke_interval
        self.deadline = deadline
        self.started_at = started_at
        # JSON, by which Airflow stores it, knows no infinity: that comes back as None.
        self.not_found_grace = 60.0 if not_found_grace is None else not_found_grace
        self.queue_timeout = queue_timeout
        self.queued_until = queued_until
        self.fail_fast = fail_fast
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.end_from_trigger = end_from_trigger
        self.do_xcom_push = do_xcom_push
        self.backstop = backstop
        self._wait: JobWait | None = None
        self._killing: asyncio.Task[None] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the trigger's class and arguments."""
        arguments = {name: getattr(self, name) for name in _ARGUMENTS}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the arguments that may be templates, when the task starts in the triggerer.

        Airflow itself takes those that operator and trigger have under the same name.
        """
        self.template_fields = ("job_ids", "ams_conn_id")
        super().render_template_fields(context, jinja_env)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and say how the wait ended."""
        try:
            self._wait = wait_on(
                read_ids(self.job_ids),
                fail_fast=self.fail_fast,
                queue_timeout=self.queue_timeout,
                not_found_grace=self.not_found_grace,
                started_at=self.started_at,
            )
        except ValueError as exc:
            yield await self._event(Ending(End.REFUSED, str(exc)))
            return
        if self._wait.ending is None:
            watch = job_watch(self.ams_conn_id)
            waiter = Waiter(self._wait, self.poke_interval, self._deadline(), _say)
            by = math.inf if self.queued_until is None else self.queued_until
            watch.join(waiter, at_once=self.started_at is None, by=by)
            try:
                await waiter.done
            finally:
                watch.leave(waiter)
        ending = self._wait.ending
        assert ending is not None  # noqa: S101  # that is what was waited for
        if self.cancel_on_timeout and self._wait.overdue:
            await self._cancel(self._wait.overdue)
        yield await self._event(ending)

    async def on_kill(self) -> None:
        """Cancel the jobs, if that was asked for, and if a user has ended the task.

        A restart of the triggerer does not come here. One that has been stalled for so long that another has
        taken over its triggers does: then the task waits on there, and its jobs are left alone.
        """
        if not self.cancel_on_kill or self._wait is None or not self._wait.pending:
            return
        self._killing = asyncio.ensure_future(self._cancel_if_killed(self._wait.pending))
        while not self._killing.done():
            try:
                await asyncio.wait([self._killing])
            except asyncio.CancelledError as exc:  # noqa: PERF203  # no more turns than kills
                # Airflow kills a trigger anew each second until it has ended; its shutdown says nothing.
                if not exc.args:
                    raise

    async def _cancel_if_killed(self, job_ids: Collection[str]) -> None:
        try:
            goes_on = self.task_instance is not None and await is_deferred(self.task_instance)
        except Exception as exc:
            log.warning("The jobs are not canceled: whether the task was killed is not known. %s", exc)
            return
        if goes_on:
            log.info("The jobs are not canceled: the task waits on, in another triggerer")
            return
        await self._cancel(job_ids)

    async def _cancel(self, job_ids: Collection[str]) -> None:
        for level, line in await job_watch(self.ams_conn_id).cancel(job_ids, CANCEL_SECONDS):
            _say(level, line)

    async def _event(self, ending: Ending) -> TriggerEvent:
        resuming = TriggerEvent(ending.event())  # type: ignore[no-untyped-call]
        # Under `dag.test()` there is no task instance, and nobody to end the task.
        if ending.how is not End.SUCCEEDED or not self.end_from_trigger or self.task_instance is None:
            return resuming
        try:
            if self._is_mapped_over():
                return resuming
            if not self.do_xcom_push or await push_xcom(self.task_instance, ending.jobs):
                return TaskSuccessEvent()
        except Exception as exc:
            # The jobs have finished, whatever Airflow has.
            _say(logging.WARNING, f"The task ends on a worker, because it cannot end here: {exc}")
            return resuming
        return TaskSuccessEvent(xcoms={"return_value": cast("Any", ending.jobs)})

    def _is_mapped_over(self) -> bool:
        """Say whether a worker must store the output's length; of a wait that began on one, that has said."""
        task: Any = getattr(self, "task", None)
        return task is not None and next(task.iter_mapped_dependants(), None) is not None

    def _deadline(self) -> float:
        if self.deadline is not None:
            return self.deadline
        timeout_after = getattr(self, "timeout_after", None)
        return math.inf if timeout_after is None else timeout_after.timestamp() - self.backstop


def _say(level: int, line: str) -> None:
    # Airflow takes the line to the log of the task in whose context it is written.
    log.log(level, "%s", line)
