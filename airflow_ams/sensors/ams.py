"""The sensor: a task that waits for media jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseOperator,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_ams.api.ids import read_ids
from airflow_ams.api.waiting import End, Ending
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.sensors.arguments import check_ids, check_settings, seconds
from airflow_ams.sensors.waiting import BACKSTOP, VERSION, WaitsForJobs

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

_CAN_START_FROM_TRIGGER = VERSION >= (3, 3)


class AmsJobSensor(WaitsForJobs, BaseSensorOperator):
    """Waits until a media job, or each of several, has finished, and returns a small document of it.

    ===================================== ==========================================================
    the job is, or the service answers    what happens
    ===================================== ==========================================================
    Queued, Scheduled, Processing,        the wait goes on, until ``timeout``
    Canceling, or a state not known here
    Finished                              success; XCom ``return_value`` is the job's document
    Error; Finished with a failed output  `AmsJobFailed` with every task's, or output's, code and message
    Canceled                              `AmsJobCanceled`; after a kill that has canceled it, a plain
                                          ``AirflowException``
    no such job                           asked again for ``not_found_grace`` seconds, then
                                          `AmsJobNotFound`
    400, 403, a second 401; malformed id; `AmsRefused`
    bad connection
    a gateway's 404, 405, 410 and so on   `AmsRefused` in the first poll; later the wait goes on
    busy, broken or unreachable           the wait goes on, until ``timeout``
    ``timeout``, ``queue_timeout``        ``AirflowSensorTimeout``
    ===================================== ==========================================================

    The exceptions, save that of a kill, end the task without retries and are skipped under ``soft_fail`` and
    ``never_fail``, alike in every mode. The document holds id, name, state, progress (percent), created,
    started, ended, duration_seconds, errors and outputs (asset id, name, uri); outputs is null if they could
    not be read.

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
        check_ids(job_id, self.task_id)
        check_settings(vars(self), self.task_id, self.timeout)
        self.start_from_trigger = start_from_trigger and deferrable and _CAN_START_FROM_TRIGGER
        if self.start_from_trigger:
            self.start_trigger_args = self._start_trigger_args()

    @classmethod
    def _check_partial(cls, given: Mapping[str, Any], task_id: Any) -> None:
        super()._check_partial(given, task_id)
        if given.get("start_from_trigger") and _CAN_START_FROM_TRIGGER:
            raise ValueError(
                f"Task '{task_id}' cannot be mapped with start_from_trigger: Airflow drops what the trigger "
                "needs to start. end_from_trigger works with mapped tasks"
            )

    # -- on a worker

    def execute(self, context: Context) -> Any:
        """Wait for the jobs; return the document, or the list of them."""
        if "ti" not in context:
            # Outside a running task nobody would come back to a rescheduled wait.
            self.mode = "poke"
        self._poll = None
        try:
            with self.hook, self._in_time():
                result = self._poke_and_defer(context) if self.deferrable else super().execute(context)
                return self._unless_stopped(result)
        finally:
            # A worker that is shut down now has nothing to cancel any more.
            self._poll = None

    def poke(self, context: Context) -> PokeReturnValue:
        """Read the jobs once."""
        if self._poll is None:
            is_forgetful = self.reschedule and not self.deferrable
            self._poll = self._begin(context, self._first_poll(context), is_forgetful=is_forgetful)
        ending = self._look(self._poll)
        if ending is None:
            return PokeReturnValue(is_done=False)
        if self._has_canceled(ending):
            # An error here would have `silent_fail` poke on, and `never_fail` skip the task.
            return PokeReturnValue(is_done=True)
        return PokeReturnValue(is_done=True, xcom_value=self._result(ending, context))

    def _unless_stopped(self, result: Any) -> Any:
        ending = self._poll.wait.ending if self._poll is not None else None
        if ending is not None and self._has_canceled(ending):
            self._documents(ending)
        return result

    def _job_ids(self, context: Context) -> str | list[str]:
        return read_ids(self.job_id)

    def _get_next_poke_interval(self, *args: Any) -> float:
        """Come back in time for `timeout` and `queue_timeout`.

        When rescheduled, not before the service wants to be called: the next process does not know of that.
        """
        interval: float = super()._get_next_poke_interval(*args)
        if self._poll is None:
            return interval
        quiet = self._poll.quiet_until - time.monotonic() if self.reschedule else 0.0
        return self._next_look(interval, quiet)

    def _execution_limit(self) -> float:
        # In reschedule mode execution_timeout is a poke's.
        return math.inf if self.reschedule and not self.deferrable else super()._execution_limit()

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
        assert self._poll is not None  # noqa: S101  # poke() has made it
        return self._go_on_in_triggerer(self._poll, context)

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

    def _trigger_arguments(self) -> dict[str, Any]:
        return {
            **super()._trigger_arguments(),
            "end_from_trigger": self.end_from_trigger and not self._worker_is_needed_for(),
            "do_xcom_push": self.do_xcom_push,
        }

    def _start_trigger_args(self) -> Any:
        """Return what starts the wait in the triggerer; constants, or each parse would make a DAG version."""
        from airflow.triggers.base import StartTriggerArgs

        from airflow_ams.sensors.start import trigger_argument

        # Airflow's time-out for the trigger is the shorter one of execution_timeout and the one given here.
        limit = min(self.timeout + BACKSTOP, self._execution_limit())
        return StartTriggerArgs(
            trigger_cls="airflow_ams.triggers.ams.AmsJobTrigger",
            trigger_kwargs={
                **self._trigger_arguments(),
                "job_ids": trigger_argument(self.job_id, f"job_id of task '{self.task_id}'"),
                "ams_conn_id": trigger_argument(self.ams_conn_id, f"ams_conn_id of task '{self.task_id}'"),
                "backstop": limit - min(self.timeout, self._execution_limit()),
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

    def execute_complete(self, context: Context, event: Mapping[str, Any], **kwargs: Any) -> Any:
        """Take up the task where the trigger has left it; return what `execute` does."""
        is_success = event.get("outcome") == End.SUCCEEDED if isinstance(event, Mapping) else False
        if is_success and self.end_from_trigger and (reason := self._worker_is_needed_for()):
            self.log.info("The task ends on a worker, although end_from_trigger is set: it has %s", reason)
        return super().execute_complete(context, event, **kwargs)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Take up the task after its deferral; skip it as in poke mode."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except Exception as exc:
            self._skip_if_wanted(exc)
            raise

    # -- endings

    def _result(self, ending: Ending, context: Context) -> Any:
        try:
            return self._documents(ending)
        except (AirflowFailException, AirflowSensorTimeout) as exc:
            if self.soft_fail or self.never_fail:
                # The task will only say that it was skipped.
                self.log.warning("%s", exc)
            raise

    def _skip_if_wanted(self, exc: Exception) -> None:
        """Skip the task if Airflow would do so in poke mode."""
        if self.soft_fail and isinstance(exc, AirflowFailException | AirflowSensorTimeout):
            raise AirflowSkipException("Skipping due to soft_fail is set to True.") from exc
        if self.never_fail and not isinstance(exc, AirflowSkipException):
            raise AirflowSkipException("Skipping due to never_fail is set to True.") from exc
