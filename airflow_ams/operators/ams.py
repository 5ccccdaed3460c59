"""The operators: a task that submits a media job and waits for it, and one that cancels one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowException, AssetAlias, conf, mask_secret

from airflow_ams.api.details import cancel_unless_ended
from airflow_ams.api.errors import JobNotFoundError, ServiceError, TransientError
from airflow_ams.api.ids import read_ids
from airflow_ams.api.model import Job, document, signatures_in
from airflow_ams.api.submission import may_be_resubmitted, number_in
from airflow_ams.api.waiting import End, Ending
from airflow_ams.exceptions import AmsJobFailedRetryable
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.links.ams import AmsJobLink
from airflow_ams.operators.arguments import (
    check_arguments,
    check_choice,
    check_partial_arguments,
    named,
    spec_of,
    texts_in,
)
from airflow_ams.operators.memory import Memory
from airflow_ams.operators.outlets import emit_outputs
from airflow_ams.operators.submission import Submission
from airflow_ams.operators.trouble import patient, telling
from airflow_ams.sensors.arguments import check_ids, check_settings, seconds
from airflow_ams.sensors.waiting import CANCEL_SECONDS, DEFAULT_TIMEOUT, WaitsForJobs

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

RESUBMIT = ("auto", "always", "never")
_DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class AmsSubmitJobOperator(WaitsForJobs):
    """Submits a media job, waits until it has finished, and returns a small document of it; never twice.

    What is to be encoded is said in the service's own terms: on the v2 API by ``name``, ``input_asset_ids``
    and ``tasks``, on the others by ``transform_name``, ``job_name``, ``inputs``, ``outputs`` and
    ``correlation_data``; for all else by ``job``, the service's own document. The connection says which API
    it is. Output assets that the service wants to be there before are made.

    A submission is known by DAG, task, run and map index; the job's name ends in a mark of these, and in a
    number. Whenever the task starts it looks for its jobs first:

    ===================================== ==========================================================
    its last job is                       what a new try does
    ===================================== ==========================================================
    Queued, Scheduled or Processing       waits for it
    Finished, and no try has reported it  takes it for its own, and succeeds
    Finished, and reported (the task was  submits another, under the next number
    cleared after it had succeeded)
    Canceling, Canceled, Error, or        submits another, under the next number; with
    Finished with a failed output         ``resubmit="never"`` a failure that no try has told is told
    running, of before the task was       submits another, too: it was the clear that canceled it
    cleared, and is canceled meanwhile
    ===================================== ==========================================================

    A busy or unreachable service is asked again for ``timeout`` seconds, with a look before each create. A
    create without an answer, or with 500, 502 or 504, is looked for before it is repeated, which is done
    once.

    The name tells one encode from another within a task: what a try takes up is not compared with what it
    would submit. So it should say what is encoded, and must be the same in all tries; one that a template
    makes of the time of day is not.

    What remains possible: on v2, another job if a creation is answered by nothing, or by an error that
    passes, and shows up in the service's list more than a quarter of a minute later; a job that runs on,
    unwaited for, if the worker dies, the trigger breaks, the service is out of reach, or refuses to tell of
    the job, and the task has no more tries; the same if a task is marked failed in the last seconds before
    its deferral or end, since Airflow 3 tells it by its next heartbeat (five seconds), when it has gone; a
    job that is canceled, and a task that fails, if Airflow takes a worker for dead that lives, since it kills
    it later, while the next try waits for the same job; a second encode if Airflow could not store a result
    any more that the task had reported, and the task is cleared then; the same on Airflow 3.1 and 3.2, where
    a task cannot know how the tries before a clear have ended, if a failed task is cleared whose job has
    finished since. Two deployments of Airflow that share an account, and whose DAG, task and run ids are
    alike, share the job, too: give them different names. So does a run that was deleted and made again under
    its old id: clear it instead.

    :param job: the service's own document of the job: on v2 with ``Tasks``, elsewhere
        ``{"properties": …}``; or anything that `AmsHook.submit_job` takes (templated, as are all
        parameters of what to encode)
    :param name: v2: the job's name; DAG and task unless given. 234 characters at most: a mark follows
    :param input_asset_ids: v2: one id, or a list
    :param tasks: v2: a list of dicts with ``processor`` (name or id), ``configuration`` (a preset's name, or
        a dict or text), ``outputs`` (names of assets to make), and if you like ``name`` and ``inputs``
        (indexes of input assets, names of other tasks' outputs)
    :param priority: v2: a number, larger runs first; elsewhere ``Low``, ``Normal`` or ``High``
    :param transform_name: the transform
    :param job_name: the job's name; DAG and task unless given. 238 characters at most: a mark follows
    :param inputs: names of assets, or http(s) URLs
    :param outputs: names of assets, one for each output of the transform
    :param correlation_data: texts by names, which the service gives back with the job
    :param ams_conn_id: the connection (templated); ``ams_default`` unless given
    :param wait_for_completion: whether to wait; if not, the document is that of the job as it was created
    :param deferrable: wait in the triggerer; ``[operators] default_deferrable`` unless given
    :param poke_interval: seconds between two readings of the job; 60 unless given
    :param timeout: seconds of waiting in one try, and of asking a service that has trouble before that;
        ``[sensors] default_timeout`` unless given
    :param queue_timeout: seconds that the job may be Queued or Scheduled; as long as it likes unless given
    :param resubmit: when the job fails: ``"auto"`` lets the next try submit it again if the service advises
        so (``MayRetry``) or the error is transient, ``"always"`` in any case, ``"never"`` in none. If it may,
        and a try is left, `AmsJobFailedRetryable` is raised, else `AmsJobFailed`, which ends the task
    :param cancel_on_kill: cancel the job when the task is killed, cleared or marked by a user; while it is
        deferred that needs Airflow 3.3
    :param cancel_on_timeout: cancel the job when the wait has run out of time
    """

    template_fields: Sequence[str] = (
        *("job", "name", "input_asset_ids", "tasks", "priority"),
        *("transform_name", "job_name", "inputs", "outputs", "correlation_data", "ams_conn_id"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "job": "json",
        "tasks": "json",
        "correlation_data": "json",
    }

    not_found_grace = 60.0

    def __init__(
        self,
        *,
        job: Mapping[str, Any] | str | XComArg | None = None,
        name: str | None = None,
        input_asset_ids: str | Sequence[str] | XComArg | None = None,
        tasks: Sequence[Mapping[str, Any]] | str | XComArg | None = None,
        priority: int | str | None = None,
        transform_name: str | None = None,
        job_name: str | None = None,
        inputs: str | Sequence[str] | XComArg | None = None,
        outputs: str | Sequence[str] | XComArg | None = None,
        correlation_data: Mapping[str, str] | str | XComArg | None = None,
        ams_conn_id: str = AmsHook.default_conn_name,
        wait_for_completion: bool = True,
        deferrable: bool = _DEFERRABLE,
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        queue_timeout: timedelta | float | None = None,
        resubmit: str = "auto",
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.name = name
        self.input_asset_ids = input_asset_ids
        self.tasks = tasks
        self.priority = priority
        self.transform_name = transform_name
        self.job_name = job_name
        self.inputs = inputs
        self.outputs = outputs
        self.correlation_data = correlation_data
        self.ams_conn_id = ams_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poke_interval = seconds(poke_interval, "poke_interval", self.task_id)
        self.timeout = seconds(timeout, "timeout", self.task_id)
        self.queue_timeout = seconds(queue_timeout, "queue_timeout", self.task_id)
        self.resubmit = resubmit
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self._job_id = ""
        self._submission: Submission | None = None
        check_settings(vars(self), self.task_id, self.timeout)
        check_choice("resubmit", resubmit, RESUBMIT, self.task_id)
        if not wait_for_completion and any(isinstance(outlet, AssetAlias) for outlet in self.outlets):
            raise ValueError(
                f"Task '{self.task_id}' has wait_for_completion=False and an AssetAlias among its outlets, "
                "which is told when the job has finished: leave one of them out"
            )
        check_arguments(vars(self), self.task_id)

    @classmethod
    def _check_partial(cls, given: Mapping[str, Any], task_id: Any) -> None:
        super()._check_partial(given, task_id)
        check_choice("resubmit", given.get("resubmit", "auto"), RESUBMIT, task_id)
        check_partial_arguments(given, task_id)

    def __setattr__(self, key: str, value: Any) -> None:
        """Set an attribute; the signatures of input URLs are masked wherever Airflow shows them.

        Whichever way Airflow renders a template, of a mapped task, too, this is where it ends.
        """
        super().__setattr__(key, value)
        if key in self.template_fields:
            _mask_signatures(value)

    # -- submitting

    def execute(self, context: Context) -> Any:
        """Submit the job, or find the one that was; wait for it; return its document."""
        self._try_began = time.time()
        return self._submit_and_wait(context)

    def _submit_and_wait(self, context: Context) -> Any:
        self._poll, self._job_id = None, ""
        memory = Memory(context, self.retries, self.log)
        try:
            with self.hook, self._in_time():
                job, is_new = self._submitted(context, memory)
                self._tell(context, job)
                if self.wait_for_completion:
                    return self._wait_for(job, is_new, context)
                AmsJobLink.show(context, self.hook, job.id)
                if self._was_stopped:
                    raise AirflowException(f"The task was killed after it had submitted job {job.id}")
                memory.report(job.id)
                return document(job)
        finally:
            # A worker that is shut down now has nothing to cancel any more.
            self._poll, self._job_id, self._submission = None, "", None

    def _wait_for(self, job: Job, is_new: bool, context: Context) -> Any:
        poll = self._poll = self._begin(context)
        if is_new and not job.state.is_final:
            poll.wait.see(job)
        elif (ending := self._look(poll)) is not None:
            return self._result(ending, context)
        if self.deferrable:
            return self._go_on_in_triggerer(poll, context)
        time.sleep(self._next_look(self.poke_interval))
        return self._result(self._wait(poll), context)

    def _submitted(self, context: Context, memory: Memory) -> tuple[Job, bool]:
        """Return the job, and whether it was submitted just now."""
        self._started_at = time.time()
        with telling("The job could not be submitted; a new try looks for it first."):
            service = self.hook.get_conn()
            self._submission = self._submission_of(context, memory)
            job, is_new = self._submission.job(service, lambda: 0.0 if self._is_killed else self._time_left())
        if self._is_killed:
            if self.cancel_on_kill:
                self._cancel([job.id])
            raise AirflowException(f"The task was killed while it submitted job {job.id}")
        return job, is_new

    def _submission_of(self, context: Context, memory: Memory) -> Submission:
        return Submission(
            self._spec(context),
            memory,
            is_retold=self.resubmit == "never",
            is_killed=lambda: self._is_killed,
            log=self.log,
        )

    def _spec(self, context: Context) -> dict[str, Any]:
        """Return what the job is to be made of, by what the templates have made of the arguments."""
        ti: Any = context.get("ti")
        spec = named(spec_of(vars(self)), f"{ti.dag_id}-{ti.task_id}" if ti is not None else self.task_id)
        # Also those in the outputs of a mapped task, which were not read until now.
        _mask_signatures(spec)
        return spec

    def _tell(self, context: Context, job: Job) -> None:
        """Let everybody know of the job's id, before it is waited for."""
        self._job_id, self._submission = job.id, None
        ti: Any = context.get("ti")
        if ti is None or not self.do_xcom_push:
            return
        try:
            ti.xcom_push(key="job_id", value=job.id)
        except Exception as exc:
            # The job runs, and is found again by its name.
            self.log.warning("The job's id could not be pushed as an XCom: %s", exc)

    # -- waiting

    def _job_ids(self, context: Context) -> str | list[str]:
        if self._job_id:
            return self._job_id
        # Resumed, in another process.
        ti: Any = context["ti"]
        memory = Memory(context, self.retries, self.log)
        pulled = ti.xcom_pull(task_ids=self.task_id, key="job_id", map_indexes=ti.map_index)
        kept = pulled or memory.job_id
        return read_ids(kept) if kept else self._found(context, memory)

    def _found(self, context: Context, memory: Memory) -> list[str]:
        """Look for the job that runs by its name, since nobody has kept its id."""
        try:
            with self.hook:
                found = self._submission_of(context, memory).running(self.hook.get_conn())
        except Exception as exc:
            self.log.warning("The task's job may run on; it could not be looked for: %s", exc)
            return []
        return [found] if found is not None else []

    def _result(self, ending: Ending, context: Context) -> Any:
        memory = Memory(context, self.retries, self.log)
        if ending.how is End.FAILED and memory.has_tries_left and self._is_resubmitted(ending.jobs):
            raise AmsJobFailedRetryable(ending.text)
        if ending.how is End.CANCELED and not self._was_stopped and _was_given_up(ending.jobs, memory):
            self.log.info("%s, because the task was cleared: submitting another", ending.text)
            return self._submit_and_wait(context)
        job = self._documents(ending)
        emit_outputs(context, self.outlets, job, self.ams_conn_id)
        memory.report(job["id"])
        return job

    def _is_resubmitted(self, job: Any) -> bool:
        """Whether the next try submits a job again that has failed now."""
        return self.resubmit == "always" or (self.resubmit == "auto" and may_be_resubmitted(job))

    # -- the end

    def _stop(self) -> None:
        super()._stop()
        if self._submission is not None:
            thread = threading.Thread(target=self._stop_submitted, args=(self._submission,), daemon=True)
            thread.start()
            thread.join(CANCEL_SECONDS)

    def _stop_submitted(self, submission: Submission) -> None:
        """Cancel what earlier tries have submitted, or this one without having been told."""
        with suppress(Exception), AmsHook(self.ams_conn_id) as hook:
            if (job_id := submission.running(hook.get_conn())) is not None:
                self.log.info("Canceling %s, as was asked for", job_id)
                self._cancel_some(deque([job_id]))

    def _pending(self) -> Collection[str]:
        if self._poll is None and self._job_id:
            return (self._job_id,)
        return super()._pending()


def _mask_signatures(value: Any) -> None:
    for signature in {found for text in texts_in(value) for found in signatures_in(text)}:
        mask_secret(signature)


def _was_given_up(job: Any, memory: Memory) -> bool:
    """Whether a canceled job is of a try before the clear, which may cancel it just when this try looks."""
    number = number_in(str((job or {}).get("name")), memory.mark)
    return number is not None and not memory.is_of_this_round(number, job["id"])


class AmsCancelJobOperator(WaitsForJobs):
    """Cancels a media job, waits until it is, and returns the job's document.

    A job that has ended already, in whichever way, is left as it is: that is success, with a line in the log.

    :param job_id: the job's id, in the form that `AmsJobSensor` takes (templated)
    :param ams_conn_id: the connection (templated); ``ams_default`` unless given
    :param wait_for_completion: whether to wait until the job is Canceled, or has ended otherwise meanwhile
    :param deferrable: wait in the triggerer; ``[operators] default_deferrable`` unless given
    :param poke_interval: seconds between two readings of the job; 10 unless given
    :param timeout: seconds of waiting in one try; an hour unless given
    """

    template_fields: Sequence[str] = ("job_id", "ams_conn_id")

    not_found_grace = 60.0
    queue_timeout = None
    cancel_on_kill = False
    cancel_on_timeout = False

    def __init__(
        self,
        *,
        job_id: str | XComArg,
        ams_conn_id: str = AmsHook.default_conn_name,
        wait_for_completion: bool = True,
        deferrable: bool = _DEFERRABLE,
        poke_interval: timedelta | float = 10,
        timeout: timedelta | float = 3600,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.ams_conn_id = ams_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poke_interval = seconds(poke_interval, "poke_interval", self.task_id)
        self.timeout = seconds(timeout, "timeout", self.task_id)
        check_settings(vars(self), self.task_id, self.timeout)
        check_ids(job_id, self.task_id)
        if isinstance(job_id, list | tuple):
            raise TypeError(
                f"job_id of task '{self.task_id}' is {job_id!r}; give one job id, or map the task"
            )

    def execute(self, context: Context) -> Any:
        """Ask for the job to be canceled; wait for it; return its document."""
        self._try_began = time.time()
        with self.hook, self._in_time():
            job = self._asked_for(context)
            if not self.wait_for_completion:
                with suppress(ServiceError):
                    job = self.hook.get_job(job.id)
                return document(job)
            poll = self._poll = self._begin(context)
            if not self.deferrable:
                return self._result(self._wait(poll), context)
            if (ending := self._look(poll)) is not None:
                return self._result(ending, context)
            return self._go_on_in_triggerer(poll, context)

    def _asked_for(self, context: Context) -> Job:
        """Ask for the job to be canceled, unless it has ended; return it."""
        self._started_at = time.time()
        with telling("The job could not be canceled."):
            service = self.hook.get_conn()
            job_id = service.job_id(self._job_ids(context))
            job = patient(self._goes_on, self._time_left, self.log)(cancel_unless_ended, service, job_id)
        what = "already, and left as it is" if job.state.is_final else "and is being canceled"
        self.log.info("Job %s is %s %s", job_id, job.state, what)
        return job

    def _goes_on(self, exc: BaseException) -> bool:
        # A job that was created just now may not be there to be seen yet.
        is_young = time.time() < self._started_at + self.not_found_grace
        return isinstance(exc, TransientError) or (isinstance(exc, JobNotFoundError) and is_young)

    def _job_ids(self, context: Context) -> str:
        ids = read_ids(self.job_id)
        if isinstance(ids, str):
            return ids
        if len(ids) != 1:
            raise ValueError(f"job_id holds {len(ids)} ids; a task cancels one job, so map it over them")
        return ids[0]

    def _result(self, ending: Ending, context: Context) -> Any:
        if ending.how in (End.SUCCEEDED, End.FAILED, End.CANCELED):
            if ending.text:
                self.log.info("%s", ending.text)
            return ending.jobs
        return self._documents(ending)
