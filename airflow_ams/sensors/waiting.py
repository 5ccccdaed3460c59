"""Waiting as a task, on a worker or in the triggerer: what the sensor and the operators share."""

from __future__ import annotations

import math
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    BaseOperator,
    conf,
)

from airflow_ams.api.details import cancel, may_run_on
from airflow_ams.api.retries import Retries
from airflow_ams.api.waiting import End, Ending, wait_on
from airflow_ams.exceptions import AmsJobCanceled, AmsJobFailed, AmsJobNotFound, AmsRefused
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.links.ams import AmsJobLink
from airflow_ams.sensors.arguments import MIN_POKE_INTERVAL, check_settings, default_args
from airflow_ams.sensors.polling import Poll

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

BACKSTOP = 60.0
"""Seconds by which Airflow's own time-out of a trigger lies behind ours."""

CANCEL_SECONDS = 4.0
"""Seconds that canceling may hold up the end of a task; Airflow 3 gives a killed one five."""

DEFAULT_TIMEOUT = conf.getfloat("sensors", "default_timeout")
"""Seconds of waiting in one try, unless a task says otherwise."""

VERSION = tuple(int(part) for part in airflow_version.split(".")[:2])
"""Airflow's major and minor version."""

_CANCEL_THREADS = 4

_AIRFLOWS_TIMEOUTS = ("Trigger timeout", "Trigger/execution timeout")
"""What Airflow 3, and 2.11, call the end of a trigger's time."""

_ERRORS: dict[End, type[AirflowException]] = {
    End.FAILED: AmsJobFailed,
    End.CANCELED: AmsJobCanceled,
    End.NOT_FOUND: AmsJobNotFound,
    End.REFUSED: AmsRefused,
    End.QUEUE_TIMEOUT: AirflowSensorTimeout,
    End.TIMEOUT: AirflowSensorTimeout,
}


class WaitsForJobs(BaseOperator):
    """A task that waits for media jobs, whoever has submitted them.

    Its `__init__` sets the fields that are named here, and is where they are documented.
    """

    operator_extra_links = (AmsJobLink(),)

    ams_conn_id: str
    deferrable: bool
    poke_interval: float
    timeout: float
    queue_timeout: float | None
    not_found_grace: float
    fail_fast: bool = True
    cancel_on_kill: bool
    cancel_on_timeout: bool

    _poll: Poll | None = None
    _started_at: float = 0.0
    _try_began: float | None = None
    _ends_by_execution_timeout: bool | None = None
    _is_over_time: bool = False
    _is_killed: bool = False

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Begin a mapped task, whose arguments are checked as those of another.

        :raises ValueError: one is wrong, or none for a mapped task
        """
        partial = super().partial(**kwargs)
        given = {**default_args({**partial.kwargs, **kwargs}), **partial.kwargs}
        cls._check_partial(given, kwargs.get("task_id"))
        return partial

    @classmethod
    def _check_partial(cls, given: Mapping[str, Any], task_id: Any) -> None:
        check_settings(given, task_id, DEFAULT_TIMEOUT)

    @abstractmethod
    def _job_ids(self, context: Context) -> str | list[str]:
        """Return what is waited for; raise ValueError if it is no job id, nor a list of them."""

    @abstractmethod
    def _result(self, ending: Ending, context: Context) -> Any:
        """Return the task's output, or raise what it ends in."""

    @cached_property
    def hook(self) -> AmsHook:
        """The hook that this task asks with."""
        return AmsHook(self.ams_conn_id)

    # -- on a worker

    def _begin(self, context: Context, since: datetime | None = None, *, is_forgetful: bool = False) -> Poll:
        """Begin the wait.

        :param since: when it has begun already, in an earlier process; None: it begins now
        :param is_forgetful: each poke is a process of its own
        """
        self._is_over_time = False
        self._started_at = (since or datetime.now(timezone.utc)).timestamp()
        try:
            wait = wait_on(
                self._job_ids(context),
                fail_fast=self.fail_fast,
                queue_timeout=self.queue_timeout,
                not_found_grace=self.not_found_grace,
                started_at=self._started_at,
            )
        except ValueError as exc:
            raise AmsRefused(str(exc)) from exc
        if isinstance(wait.ids, str):
            AmsJobLink.show(context, self.hook, wait.ids)
        return Poll(
            wait,
            self.hook,
            self.log,
            time_left=self._time_left,
            is_forgetful=is_forgetful,
            # So it is taken to have, since a poke that is refused is the last.
            has_answered=since is not None,
        )

    def _look(self, poll: Poll) -> Ending | None:
        """Read the jobs once; return how the wait has ended, None if it goes on."""
        poll.poke()
        if poll.wait.ending is None and self._started_at + self.timeout <= time.time():
            poll.time_out()
        if poll.wait.ending is not None and self.cancel_on_timeout and poll.wait.overdue:
            self._cancel(poll.wait.overdue)
        return poll.wait.ending

    def _wait(self, poll: Poll) -> Ending:
        """Poke until the wait has ended."""
        while (ending := self._look(poll)) is None:
            time.sleep(self._next_look(self.poke_interval))
        return ending

    def _next_look(self, interval: float, at_least: float = 0.0) -> float:
        """Return the seconds until the next poke: an interval, or less for `timeout` and `queue_timeout`.

        :param at_least: so many seconds, unless `timeout` comes first
        """
        now = time.time()
        limits = self._poll.wait.queue_limits.values() if self._poll else ()
        if left := [limit - now for limit in limits if limit > now]:
            interval = min(interval, max(MIN_POKE_INTERVAL, min(left)))
        return min(max(interval, at_least), max(0.0, self._started_at + self.timeout - now))

    def _time_left(self) -> float:
        return max(0.0, self._end() - time.time())

    def _end(self) -> float:
        """Return when the try's time is over, in epoch seconds: `timeout` is the wait's."""
        began = self._started_at if self._try_began is None else self._try_began
        return min(self._started_at + self.timeout, began + self._execution_limit())

    def _execution_limit(self) -> float:
        return math.inf if self.execution_timeout is None else self.execution_timeout.total_seconds()

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Cancel what is waited for, if that is wanted, when ``execution_timeout`` interrupts the wait."""
        try:
            yield
        except AirflowTaskTimeout:
            # Airflow calls on_kill after this, but nobody has killed the task.
            self._is_over_time = True
            if self.cancel_on_timeout:
                self._stop()
            raise

    # -- deferred

    def _go_on_in_triggerer(self, poll: Poll, context: Context) -> Any:
        """Let the triggerer wait on."""
        if self._was_stopped:
            raise AirflowException("The task was killed before it was deferred")
        from airflow_ams.triggers.ams import AmsJobTrigger

        deadline = self._deadline(context)
        trigger = AmsJobTrigger(
            poll.wait.ids,
            deadline=deadline,
            started_at=self._started_at,
            queued_until=min(poll.wait.queue_limits.values(), default=None),
            **self._trigger_arguments(),
        )
        timeout = timedelta(seconds=self._time_left() + BACKSTOP)
        is_execution = deadline < self._started_at + self.timeout
        # From here on it is the trigger that cancels.
        self._poll = None
        return self.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={"ends_by_execution_timeout": is_execution},
            timeout=timeout,
        )

    def _deadline(self, context: Context) -> float:
        deadline = self._end()
        ti: Any = context.get("ti")
        if self.execution_timeout is not None and VERSION < (3,) and getattr(ti, "start_date", None):
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
        }

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], *, ends_by_execution_timeout: bool | None = None
    ) -> Any:
        """Take up the task where the trigger has left it; return what `execute` does.

        :param event: the trigger's
        :param ends_by_execution_timeout: whether that comes before ``timeout``; None: the wait has begun in
            the triggerer, with the try
        """
        self._ends_by_execution_timeout = ends_by_execution_timeout
        try:
            ending = Ending.of_event(event)
        except ValueError as exc:
            raise AirflowException(f"The trigger of task '{self.task_id}' fired {exc}") from exc
        return self._result(ending, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Take up the task after its deferral, as Airflow asks for.

        The sensors' own resume_execution skips and times out differently on each version of Airflow, and
        differently from poke mode, so it is left out here.
        """
        if next_method == "__fail__" and (next_kwargs or {}).get("error") in _AIRFLOWS_TIMEOUTS:
            text = "Airflow's own time-out came first: is a triggerer running?"
            next_method, next_kwargs = "execute_complete", {"event": Ending(End.TIMEOUT, text).event()}
            if self.cancel_on_timeout:
                ids = self._job_ids(context)
                self._cancel([ids] if isinstance(ids, str) else ids)
        return BaseOperator.resume_execution(self, next_method, next_kwargs, context)

    # -- endings

    def _documents(self, ending: Ending) -> Any:
        """Return the documents of a wait that has succeeded, or raise what another one ends in."""
        if ending.how is End.SUCCEEDED:
            return ending.jobs
        text = ending.text
        if self._has_canceled(ending):
            raise AirflowException(f"{text}, because the task was killed")
        if ending.how is End.TIMEOUT:
            if self._is_ended_by_execution_timeout():
                limit = self._execution_limit()
                raise AirflowTaskTimeout(f"Timed out after {limit:g} s (execution_timeout). {text}")
            text = f"Timed out after {self.timeout:g} s (timeout). {text}"
        raise _ERRORS[ending.how](text)

    def _is_ended_by_execution_timeout(self) -> bool:
        if self._ends_by_execution_timeout is not None:
            return self._ends_by_execution_timeout
        return self.deferrable and self._execution_limit() < self.timeout

    def _has_canceled(self, ending: Ending) -> bool:
        """Whether a wait has ended as it has because the task was killed."""
        return ending.how is End.CANCELED and self._was_stopped

    def on_kill(self) -> None:
        """Cancel the jobs, if that was asked for; on Airflow 3 the task goes on after that for a while."""
        self._is_killed = True
        if self._was_stopped:
            self._stop()

    @property
    def _was_stopped(self) -> bool:
        """Whether a kill has canceled what is waited for."""
        return self._is_killed and self.cancel_on_kill and not self._is_over_time

    def _stop(self) -> None:
        """Ask for all that may be running to be canceled."""
        self._cancel(self._pending())

    def _pending(self) -> Collection[str]:
        """Return the jobs that may be running."""
        return self._poll.wait.pending if self._poll is not None else ()

    def _cancel(self, job_ids: Collection[str]) -> None:
        """Ask for jobs to be canceled, as well as it can be done in a few seconds.

        It is done in another thread: a kill interrupts the task wherever it is, maybe while it holds a lock.
        """
        if not job_ids:
            return
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
