"""Jobs: submitting, following, canceling, deleting; the rules are those of every dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from airflow_ams.emulator.assets import Assets, check_file_name
from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import InvalidRequest, NotFound
from airflow_ams.emulator.ids import new_id
from airflow_ams.emulator.records import FINAL, MEDIA_ENCODER_STANDARD, SCRIPTED, Job, State, Task
from airflow_ams.emulator.script import Script, read_script
from airflow_ams.emulator.store import Store

# Quotas and limitations (public documentation): chained tasks per job, assets per task.
_MOST_TASKS, _MOST_ASSETS = 30, 50


@dataclass(frozen=True)
class OutputRequest:
    """An asset that a task makes: its number among the job's outputs, and how it is to be made."""

    number: int
    name: str | None = None
    options: int = 1


@dataclass(frozen=True)
class TaskRequest:
    """One task of a job to be submitted; inputs are numbers of job inputs or of other tasks' outputs."""

    processor: str
    configuration: str
    outputs: tuple[OutputRequest, ...]
    job_inputs: tuple[int, ...] = ()
    chained_inputs: tuple[int, ...] = ()
    name: str = ""
    priority: int = 0
    options: int = 0
    body: str = ""


@dataclass(frozen=True)
class JobRequest:
    """A job to be submitted; `inputs` are asset identifiers."""

    name: str
    tasks: tuple[TaskRequest, ...]
    inputs: tuple[str, ...] = ()
    priority: int = 0


@dataclass
class _Draft:
    """The records of a job in the making."""

    job: Job
    outputs: dict[int, str] = field(default_factory=dict)


class Jobs:
    """All that concerns jobs, but for the work of encoding.

    :param store: holds the records.
    :param assets: where outputs go.
    :param clock: moves scripted jobs on.
    """

    def __init__(self, store: Store, assets: Assets, clock: Clock) -> None:
        self._store = store
        self._assets = assets
        self._clock = clock
        self._scripts: dict[str, Script] = {}

    def all(self, account: str) -> Iterator[Job]:
        """Yield the jobs of *account* as they are now, oldest first."""
        for job in self._store.all(Job, account):
            current = self._current(job)
            if current is not None:
                yield current

    def find(self, account: str, job_id: str) -> Job | None:
        """Return a job as it is now, or None if *account* has none of that id."""
        job = self._store.get(Job, job_id)
        return None if job is None or job.account != account else self._current(job)

    def get(self, account: str, job_id: str) -> Job:
        """Return a job as it is now, or raise `NotFound`."""
        job = self.find(account, job_id)
        if job is None:
            raise NotFound("Resource Job not found")
        return job

    def tasks(self, job: Job) -> list[Task]:
        """Return the tasks of *job* as they are now."""
        tasks = [task for task in (self._store.get(Task, task_id) for task_id in job.tasks) if task]
        if job.script is None:
            return tasks
        script, kept, now = self._script(job), self._store.get(Job, job.id) or job, self._clock.now()
        return [script.task_at(kept, task, now) for task in tasks]

    def outputs_ready(self, job_id: str) -> bool:
        """Tell whether the files that a job makes are there; those of an encode come one by one."""
        job = self._store.get(Job, job_id)
        if job is None or job.script is None:
            return True
        return self._script(job).moment(job, self._clock.now()).state == State.Finished

    def submit(self, account: str, request: JobRequest) -> Job:
        """Make a job with its tasks and output assets.

        :raises InvalidRequest: the request contradicts itself, or its script is none.
        :raises NotFound: an input asset is not there.
        """
        order = _check(request)
        for asset_id in request.inputs:
            self._assets.get(account, asset_id)
        now = self._clock.now()
        job = Job(new_id("jid"), account, now, request.name, now, request.priority)
        job.inputs = list(request.inputs)
        draft = _Draft(job)
        if order[0].processor == SCRIPTED:
            self._add_scripted(draft, order[0])
        else:
            for task in order:
                self._add_task(draft, task)
        self._store.put(job)
        return job

    def _add_scripted(self, draft: _Draft, request: TaskRequest) -> None:
        try:
            document = json.loads(request.configuration or "{}")
        except ValueError as error:
            raise InvalidRequest(f"The Configuration of a scripted task is JSON: {error}.") from None
        script = read_script(document)
        for output in script.outputs:
            check_file_name(output.name)
        draft.job.script = document
        for number in range(script.tasks):
            # Each task of the script gets outputs of its own, numbered on from those asked for.
            outputs = tuple(
                OutputRequest(output.number + number * len(request.outputs), output.name, output.options)
                for output in request.outputs
            )
            task = self._add_task(draft, request, outputs)
            for asset_id in task.outputs:
                for file in script.outputs:
                    with (self._assets.folder(asset_id) / file.name).open("wb") as stream:
                        stream.truncate(file.size)
                    self._assets.record_file(asset_id, file.name)

    def _add_task(
        self, draft: _Draft, request: TaskRequest, outputs: tuple[OutputRequest, ...] | None = None
    ) -> Task:
        job = draft.job
        task = Task(
            id=new_id("tid"),
            account=job.account,
            created=job.created,
            job=job.id,
            position=len(job.tasks),
            name=request.name,
            processor=request.processor,
            configuration=request.configuration,
            body=request.body,
            priority=request.priority or job.priority,
            options=request.options,
        )
        # A script does not read its inputs, so one that is not there does no harm.
        task.inputs = [job.inputs[number] for number in request.job_inputs if number < len(job.inputs)]
        task.inputs += [draft.outputs[number] for number in request.chained_inputs]
        for output in outputs if outputs is not None else request.outputs:
            name = output.name or f"JobOutputAsset({output.number}) of {job.name or job.id}"
            asset = self._assets.create(job.account, name, options=output.options, job=job.id)
            draft.outputs[output.number] = asset.id
            task.outputs.append(asset.id)
        if request.processor == MEDIA_ENCODER_STANDARD:
            task.events.append({"code": "WaitingForFreeResources", "message": None, "at": job.created})
        job.tasks.append(task.id)
        self._store.put(task)
        return task

    def request_cancel(self, account: str, job_id: str) -> Job:
        """Ask for a cancel; a scripted job follows its script, an encode is stopped by the runner.

        :raises InvalidRequest: the job is final or being canceled already; CancelJob (REST reference).
        """
        state = self.get(account, job_id).state
        if state in FINAL or state == State.Canceling:
            raise InvalidRequest(f"Job cannot be canceled when it is in the {State(state).name} state.")
        kept = self._kept(job_id)
        kept.canceled_at = kept.modified = self._clock.now()
        if kept.script is None:
            kept.state = State.Canceling
        self._store.put(kept)
        return kept

    def delete(self, account: str, job_id: str) -> None:
        """Delete a final job and its tasks; the output assets stay.

        :raises InvalidRequest: the job is not final.
        """
        state = self.get(account, job_id).state
        if state not in FINAL:
            raise InvalidRequest("Job can only be deleted in the Finished, Error or Canceled state.")
        kept = self._kept(job_id)
        for task_id in kept.tasks:
            if task := self._store.get(Task, task_id):
                self._store.remove(task)
        self._store.remove(kept)
        self._scripts.pop(job_id, None)

    def set_priority(self, account: str, job_id: str, priority: int) -> None:
        """Change when a queued job gets its turn.

        :raises InvalidRequest: the job is not queued any more.
        """
        if self.get(account, job_id).state != State.Queued:
            raise InvalidRequest("Job's priority can only be changed if the job is in Queued state")
        kept = self._kept(job_id)
        kept.priority, kept.modified = priority, self._clock.now()
        self._store.put(kept)

    def forget(self) -> None:
        """Forget what was kept of jobs that are gone from the store."""
        self._scripts.clear()

    def _kept(self, job_id: str) -> Job:
        job = self._store.get(Job, job_id)
        if job is None:
            raise NotFound("Resource Job not found")
        return job

    def _current(self, job: Job) -> Job | None:
        if job.script is None:
            return job
        script, now = self._script(job), self._clock.now()
        return script.job_at(job, now) if script.exists(job, now) else None

    def _script(self, job: Job) -> Script:
        if job.id not in self._scripts:
            self._scripts[job.id] = read_script(job.script)
        return self._scripts[job.id]


def _check(request: JobRequest) -> list[TaskRequest]:
    """Return the tasks in an order in which they can run."""
    tasks = request.tasks
    if not 1 <= len(tasks) <= _MOST_TASKS:
        raise InvalidRequest(f"A job has 1 to {_MOST_TASKS} tasks, not {len(tasks)}.")
    processors = {task.processor for task in tasks}
    for processor in sorted(processors - {MEDIA_ENCODER_STANDARD, SCRIPTED}):
        raise InvalidRequest(f"There is no media processor with the id '{processor}'.")
    if SCRIPTED in processors and len(tasks) > 1:
        raise InvalidRequest('A scripted job has one task; its script can say {"tasks": n}.')
    produced = [output.number for task in tasks for output in task.outputs]
    for number in sorted(set(produced)):
        if produced.count(number) > 1:
            raise InvalidRequest(f"JobOutputAsset({number}) is produced more than once.")
    for task in tasks:
        _check_task(task, len(request.inputs), produced)
    return _in_running_order(tasks)


def _check_task(task: TaskRequest, job_inputs: int, produced: list[int]) -> None:
    count = len(task.job_inputs) + len(task.chained_inputs)
    if not task.outputs:
        raise InvalidRequest("A task needs at least one outputAsset.")
    if count == 0 and task.processor != SCRIPTED:
        raise InvalidRequest("A task needs at least one inputAsset.")
    if count + len(task.outputs) > _MOST_ASSETS:
        raise InvalidRequest(f"A task has at most {_MOST_ASSETS} assets.")
    for number in task.job_inputs:
        if number >= job_inputs and task.processor != SCRIPTED:
            raise InvalidRequest(f"JobInputAsset({number}) is not among the job's {job_inputs} input assets.")
    for number in task.chained_inputs:
        if number not in produced:
            raise InvalidRequest(f"JobOutputAsset({number}) is used, but no task produces it.")


def _in_running_order(tasks: tuple[TaskRequest, ...]) -> list[TaskRequest]:
    order: list[TaskRequest] = []
    waiting, made = list(tasks), set[int]()
    while waiting:
        ready = [task for task in waiting if made.issuperset(task.chained_inputs)]
        if not ready:
            raise InvalidRequest(
                "The tasks of the job wait for each other: there is a cycle of output assets."
            )
        order += ready
        made.update(output.number for task in ready for output in task.outputs)
        waiting = [task for task in waiting if task not in ready]
    return order
