"""The sensor: a task that waits for media jobs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_ams.api.details import cancel, may_run_on
from airflow_ams.api.ids import read_ids
from airflow_ams.api.retries import Retries
from airflow_ams.api.waiting import End, Ending, wait_on
from airflow_ams.exceptions import AmsJobCanceled, AmsJobFailed, AmsJobNotFound, AmsRefused
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.sensors.arguments import MIN_POKE_INTERVAL, check_ids, check_settings, default_args, seconds
from airflow_ams.sensors.polling import Poll

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

BACKSTOP = 60.0
"""Seconds by which Airflow's own time-out of a trigger lies behind ours."""

CANCEL_SECONDS = 4.0
"""Seconds that canceling may hold up the end of a task; Airflow 3 gives a killed one five."""

_CANCEL_THREADS = 4

_AIRFLOWS_TIMEOUTS = ("Trigger timeout", "Trigger/execution timeout")
"""What Airflow 3, and 2.11, call the end of a trigger's time."""

_VERSION = tuple(int(part) for part in airflow_version.split(".")[:2])
_IS_AIRFLOW_3 = _VERSION >= (3,)
_CAN_START_FROM_TRIGGER = _VERSION >= (3, 3)
_ERRORS: dict[End, type[AirflowException]] = {
    End.FAILED: AmsJobFailed,
    End.CANCELED: AmsJobCanceled,
    End.NOT_FOUND: AmsJobNotFound,
    End.REFUSED: AmsRefused,
    End.QUEUE_TIMEOUT: AirflowSensorTimeout,
    End.TIMEOUT: AirflowSensorTimeout,
}


class AmsJobSensor(BaseSensorOperator):
    """Waits until a media job, or each of several, has finished, and returns a small document of it.

    ===================================== ==========================================================
    the job is, or the service answers    what happens
    ===================================== ==========================================================
    Queued, Scheduled, Processing,        the wait goes on, until ``timeout``
    Canceling, or a state not known here
    Finished                              success; XCom ``return_value`` is the job's document
    Error; Finished with a failed output  `AmsJobFailed` with every task's, or output's, code and message
    Canceled                              `AmsJobCanceled`
    no such job                           asked again for ``not_found_grace`` seconds, then
                                          `AmsJobNotFound`
    400, 403, a second 401; malformed id; `AmsRefused`
    bad connection
    a gateway's 404, 405, 410 and so on   `AmsRefused` in the first poll; later the wait goes on
    busy, broken or unreachable           the wait goes on, until ``timeout``
    ``timeout``, ``queue_timeout``        ``AirflowSensorTimeout``
    ===================================== ==========================================================

    The exceptions end the task without retries and are skipped under ``soft_fail`` and ``never_fail``, alike
    in every mode. The document holds id, name, state, progress (percent), created, started, ended,
    duration_seconds, errors and outputs (asset id, name, uri); outputs is null if they could not be read.

    With ``deferrable`` the jobs are read once on the worker, then in the triggerer, where all waits on a
    connection share one poll. ``timeout`` and ``execution_timeout`` then end the wait to the second, as in
    poke mode (the latter by ``AirflowTaskTimeout``, which is retried); both count from the try's beginning.

    :param job_id: the job's id, which is ``nb:jid:UUID:f3c43f94-…`` on the v2 API and ``transform/job`` (or
        the full resource id) on the others; or a list of ids, of which each must finish and which makes XCom
        a list of documents in that order (outputs is null in more than 100); or an upstream task's output
        (templated)
    :param ams_conn_id: the connection (templated); ``ams_default`` unless given
    :param not_found_grace: seconds after the wait's first poll for which an unknown id is asked for again;
        60 unless given
    :param deferrable: wait in the triggerer; ``[operators] default_deferrable`` unless given
    :param fail_fast: of several jobs, whether the first that does not finish ends the wait; if not, all are
        waited for, and all failures are reported together
    :param queue_timeout: seconds that a job may be Queued or Scheduled, counted from its creation; as long as
        it likes unless given
    :param cancel_on_kill: cancel the jobs when the task is killed, cleared or marked by a user; while it is
        deferred that needs Airflow 3.3
    :param cancel_on_timeout: cancel the jobs when the wait has ended because they ran out of time, queue time
        included
    :param end_from_trigger: when deferred, end the task in the triggerer on success, which saves its second
        start. Given up: listeners, ``post_execute``, asset events and the output's length, so a task with
        ``outlets``, ``multiple_outputs``, a ``post_execute`` or a task mapped over its output is resumed on a
        worker all the same; failures always are
    :param start_from_trigger: begin in the triggerer, which saves the first start, too (Airflow 3.3; before,
        and under ``dag.test()``, the task starts on a worker). Given up: the first look on the worker,
        ``pre_execute`` and callbacks of execution. An upstream's output must be that of an unmapped task,
        templates may use plain values only, and the sensor cannot be mapped
    """

    template_fields: Sequence[str] = ("job_id", "ams_conn_id")

    def __init__(
        self,
        *,
        job_id: str | Sequence[str] | XComArg,
        ams_conn_id: str = AmsHook.default_conn_name,
        not_found_grace: timedelta | float = 60,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        fail_fast: bool = True,
        queue_timeout: timedelta | float | None = None,
        cancel_on_kill: bool = False,
        cancel_on_timeout: bool = False,
        end_from_trigger: bool = False,
        start_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        for name in ("poke_interval", "timeout", "max_wait"):
            # Before Airflow refuses it, without saying which it is.
            seconds(kwargs.get(name), name, kwargs.get("task_id"))
        super().__init__(**kwargs)
        self.job_id = job_id
        self.ams_conn_id = ams_conn_id
        self.not_found_grace = seconds(not_found_grace, "not_found_grace", self.task_id)
        self.deferrable = deferrable
        self.fail_fast = fail_fast
        self.queue_timeout = seconds(queue_timeout, "queue_timeout", self.task_id)
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.end_from_trigger = end_from_trigger
        self._poll: Poll | None = None
        self._started_at = 0.0
        self._is_over_time = False
        check_ids(job_id, self.task_id)
        check_settings(vars(self), self.task_id, self.timeout)
        self.start_from_trigger = start_from_trigger and deferrable and _CAN_START_FROM_TRIGGER
        if self.start_from_trigger:
            self.start_trigger_args = self._start_trigger_args()

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Begin a mapped task, whose arguments are checked as those of another.

        :raises ValueError: one is wrong, or it is to start in the triggerer, which is not told a mapped
            task's arguments
        """
        partial = super().partial(**kwargs)
        given = {**default_args({**partial.kwargs, **kwargs}), **partial.kwargs}
        task_id = kwargs.get("task_id")
        check_settings(given, task_id, conf.getfloat("sensors", "default_timeout"))
        if given.get("start_from_trigger") and _CAN_START_FROM_TRIGGER:
            raise ValueError(
                f"Task '{task_id}' cannot be mapped with start_from_trigger: Airflow drops what the trigger "
                "needs to start. end_from_trigger works with mapped tasks"
            )
        return partial

    @cached_property
    def hook(self) -> AmsHook:
        """The hook that this task polls with."""
        return AmsHook(self.ams_conn_id)

    # -- on a worker

    def execute(self, context: Context) -> Any:
        """Wait for the jobs; return the document, or the list of them."""
        if "ti" not in context:
            # Outside a running task nobody would come back to a rescheduled wait.
            self.mode = "poke"
        self._poll = None
        try:
            with self.hook:
                return self._poke_and_defer(context) if self.deferrable else super().execute(context)
        except AirflowTaskTimeout:
            # Airflow calls on_kill after this, but nobody has killed the task.
            self._is_over_time = True
            if self.cancel_on_timeout and self._poll is not None:
                self._cancel(self._poll.wait.pending)
            raise

    def poke(self, context: Context) -> PokeReturnValue:
        """Read the jobs once."""
        poll = self._poll = self._poll or self._new_poll(context)
        poll.poke()
        if poll.wait.ending is None and self._started_at + self.timeout <= time.time():
            poll.time_out()
        if poll.wait.ending is None:
            return PokeReturnValue(is_done=False)
        if self.cancel_on_timeout and poll.wait.overdue:
            self._cancel(poll.wait.overdue)
        return PokeReturnValue(is_done=True, xcom_value=self._result(poll.wait.ending))

    def _new_poll(self, context: Context) -> Poll:
        self._is_over_time = False
        first_poll = self._first_poll(context)
        self._started_at = (first_poll or datetime.now(timezone.utc)).timestamp()
        try:
            wait = wait_on(
                read_ids(self.job_id),
                fail_fast=self.fail_fast,
                queue_timeout=self.queue_timeout,
                not_found_grace=self.not_found_grace,
                started_at=self._started_at,
            )
        except ValueError as exc:
            raise AmsRefused(str(exc)) from exc
        return Poll(
            wait,
            self.hook,
            self.log,
            time_left=self._time_left,
            is_forgetful=self.reschedule and not self.deferrable,
            # So it is taken to have, since a poke that is refused is the last.
            has_answered=first_poll is not None,
        )

    def _get_next_poke_interval(self, *args: Any) -> float:
        """Come back in time for `timeout` and `queue_timeout`.

        When rescheduled, not before the service wants to be called: the next process does not know of that.
        """
        interval: float = super()._get_next_poke_interval(*args)
        if self._poll is None:
            return interval
        now = time.time()
        limits = [limit - now for limit in self._poll.wait.queue_limits.values() if limit > now]
        if limits:
            interval = min(interval, max(MIN_POKE_INTERVAL, min(limits)))
        if self.reschedule:
            interval = max(interval, self._poll.quiet_until - time.monotonic())
        return min(interval, max(0.0, self._started_at + self.timeout - now))

    def _time_left(self) -> float:
        return max(0.0, self._started_at + self._limit() - time.time())

    def _limit(self) -> float:
        """Return the seconds that a try may take; in reschedule mode ``execution_timeout`` is a poke's."""
        if self.execution_timeout is None or (self.reschedule and not self.deferrable):
            return self.timeout
        return min(self.timeout, self.execution_timeout.total_seconds())

    def _first_poll(self, context: Context) -> datetime | None:
        """Find out when the wait began, as the framework counts it: earlier pokes were other processes.

        :returns: when; None: it begins now
        """
        ti: Any = context.get("ti")
        if ti is None or not self.reschedule or self.deferrable:
            return None
        if hasattr(ti, "get_first_reschedule_date"):
            first_poll: datetime | None = ti.get_first_reschedule_date(context)
        else:
            from airflow.sensors.base import _orig_start_date  # Airflow 2.11

            first_try = (ti.max_tries or 0) - (self.retries or 0) + 1
            first_poll = _orig_start_date(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_try)
        return first_poll

    # -- deferred

    def _poke_and_defer(self, context: Context) -> Any:
        poked = self._poke_once(context)
        if poked is not None and poked.is_done:
            return poked.xcom_value
        from airflow_ams.triggers.ams import AmsJobTrigger

        assert self._poll is not None  # noqa: S101  # poke() has made it
        trigger = AmsJobTrigger(
            self._poll.wait.ids,
            deadline=self._deadline(context),
            started_at=self._started_at,
            queued_until=min(self._poll.wait.queue_limits.values(), default=None),
            **self._trigger_arguments(),
        )
        timeout = timedelta(seconds=self._time_left() + BACKSTOP)
        return self.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)

    def _poke_once(self, context: Context) -> PokeReturnValue | None:
        """Poke as Airflow does in poke mode; None if there was an error that ``silent_fail`` passes over."""
        try:
            return self.poke(context)
        except Exception as exc:
            self._skip_if_wanted(exc)
            if not self.silent_fail or isinstance(exc, AirflowFailException | AirflowSensorTimeout):
                raise
            self.log.exception("Sensor poke failed")
            return None

    def _deadline(self, context: Context) -> float:
        deadline = self._started_at + self._limit()
        ti: Any = context.get("ti")
        if self.execution_timeout is not None and not _IS_AIRFLOW_3 and getattr(ti, "start_date", None):
            # 2.11 ends the task itself at that time, without a word to us, so that nothing could be canceled.
            deadline = min(deadline, (ti.start_date + self.execution_timeout).timestamp() - 2)
        return deadline

    def _trigger_arguments(self) -> dict[str, Any]:
        return {
            "ams_conn_id": self.ams_conn_id,
            "poke_interval": self.poke_interval,
            "not_found_grace": float(self.not_found_grace),
            "queue_timeout": self.queue_timeout,
            "fail_fast": self.fail_fast,
            "cancel_on_kill": self.cancel_on_kill,
            "cancel_on_timeout": self.cancel_on_timeout,
            "end_from_trigger": self.end_from_trigger and not self._worker_is_needed_for(),
            "do_xcom_push": self.do_xcom_push,
        }

    def _start_trigger_args(self) -> Any:
        """Return what starts the wait in the triggerer; constants, or each parse would make a DAG version."""
        from airflow.triggers.base import StartTriggerArgs

        from airflow_ams.sensors.start import trigger_argument

        # Airflow's time-out for the trigger is the shorter one of execution_timeout and the one given here.
        limit = self.timeout + BACKSTOP
        if self.execution_timeout is not None:
            limit = min(limit, self.execution_timeout.total_seconds())
        return StartTriggerArgs(
            trigger_cls="airflow_ams.triggers.ams.AmsJobTrigger",
            trigger_kwargs={
                **self._trigger_arguments(),
                "job_ids": trigger_argument(self.job_id, f"job_id of task '{self.task_id}'"),
                "ams_conn_id": trigger_argument(self.ams_conn_id, f"ams_conn_id of task '{self.task_id}'"),
                "backstop": limit - self._limit(),
            },
            next_method="execute_complete",
            timeout=timedelta(seconds=self.timeout + BACKSTOP),
        )

    def _worker_is_needed_for(self) -> str:
        """Say what a task that ends in the triggerer would lose."""
        if self.outlets:
            return "outlets"
        if getattr(self, "multiple_outputs", False):
            return "multiple_outputs"
        if not conf.get("core", "xcom_backend").endswith(".BaseXCom"):
            return "an XCom backend of its own"
        if self._is_mapped_over():
            return "a task mapped over its output"
        overrides = type(self).post_execute is not BaseOperator.post_execute
        return "post_execute" if overrides or getattr(self, "_post_execute_hook", None) else ""

    def _is_mapped_over(self) -> bool:
        """Say whether Airflow needs the length of the output, which only a worker stores."""
        dag = self.get_dag()
        # Of a mapped task Airflow counts the outputs instead; the DAG holds another operator in its place.
        if dag is None or not isinstance(dag.task_dict.get(self.task_id), AmsJobSensor):
            return False
        return next(self.iter_mapped_dependants(), None) is not None

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Take up the task where the trigger has left it; return what `execute` does."""
        try:
            ending = Ending.of_event(event)
        except ValueError as exc:
            raise AirflowException(f"The trigger of task '{self.task_id}' fired {exc}") from exc
        is_success = ending.how is End.SUCCEEDED
        if is_success and self.end_from_trigger and (reason := self._worker_is_needed_for()):
            self.log.info("The task ends on a worker, although end_from_trigger is set: it has %s", reason)
        return self._result(ending)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Take up the task after its deferral, as Airflow asks for.

        The sensors' own resume_execution skips and times out differently on each version of Airflow, and
        differently from poke mode, so it is left out here.
        """
        if next_method == "__fail__" and (next_kwargs or {}).get("error") in _AIRFLOWS_TIMEOUTS:
            text = "Airflow's own time-out came first: is a triggerer running?"
            next_method, next_kwargs = "execute_complete", {"event": Ending(End.TIMEOUT, text).event()}
            if self.cancel_on_timeout:
                ids = read_ids(self.job_id)
                self._cancel([ids] if isinstance(ids, str) else ids)
        try:
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
        except Exception as exc:
            self._skip_if_wanted(exc)
            raise

    # -- endings

    def _result(self, ending: Ending) -> Any:
        """Return the documents of a wait that has succeeded, or raise what another one ends in."""
        if ending.how is End.SUCCEEDED:
            return ending.jobs
        text = ending.text
        if ending.how is End.TIMEOUT:
            is_execution = self._limit() < self.timeout and self.deferrable
            text = (
                f"Timed out after {self._limit():g} s ({'execution_' if is_execution else ''}timeout). {text}"
            )
            if is_execution:
                raise AirflowTaskTimeout(text)
        if self.soft_fail or self.never_fail:
            # The task will only say that it was skipped.
            self.log.warning("%s", text)
        raise _ERRORS[ending.how](text)

    def _skip_if_wanted(self, exc: Exception) -> None:
        """Skip the task if Airflow would do so in poke mode."""
        if self.soft_fail and isinstance(exc, AirflowFailException | AirflowSensorTimeout):
            raise AirflowSkipException("Skipping due to soft_fail is set to True.") from exc
        if self.never_fail and not isinstance(exc, AirflowSkipException):
            raise AirflowSkipException("Skipping due to never_fail is set to True.") from exc

    def on_kill(self) -> None:
        """Cancel the jobs, if that was asked for."""
        if self.cancel_on_kill and self._poll is not None and not self._is_over_time:
            self._cancel(self._poll.wait.pending)

    def _cancel(self, job_ids: Collection[str]) -> None:
        """Ask for jobs to be canceled, as well as it can be done in a few seconds.

        It is done in another thread: a kill interrupts the task wherever it is, maybe while it holds a lock.
        """
        self.log.info("Canceling %s, as was asked for", ", ".join(sorted(job_ids)))
        left = deque(sorted(job_ids))
        threads = [
            threading.Thread(target=self._cancel_some, args=(left,), daemon=True)
            for _ in range(min(_CANCEL_THREADS, len(left)))
        ]
        end = time.monotonic() + CANCEL_SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            self.log.warning("Jobs may run on: canceling them took more than %g s", CANCEL_SECONDS)

    def _cancel_some(self, left: deque[str]) -> None:
        with AmsHook(self.ams_conn_id) as hook, suppress(IndexError):
            while job_id := left.popleft():
                try:
                    level, line = cancel(hook.get_conn(), job_id, retries=Retries(within=CANCEL_SECONDS))
                except Exception as exc:
                    level, line = may_run_on(job_id, exc)
                self.log.log(level, "%s", line)
