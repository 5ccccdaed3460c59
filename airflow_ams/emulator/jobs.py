"""Jobs: submitting, following, canceling, deleting; the rules are those of every dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

from airflow_ams.emulator.assets import Assets, check_file_name
from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import Conflict, InvalidRequest, NotFound
from airflow_ams.emulator.ids import new_id
from airflow_ams.emulator.records import FINAL, MEDIA_ENCODER_STANDARD, SCRIPTED, Job, State, Task
from airflow_ams.emulator.script import Script, read_script
from airflow_ams.emulator.store import Store
from airflow_ams.emulator.transforms import Transforms

# Quotas and limitations (public documentation): chained tasks per job, assets per task.
_MOST_TASKS, _MOST_ASSETS = 30, 50
_MOST_LETTERS = 260
_NAME = re.compile(r"[^/\\?#%\x00-\x1f\x7f]*")
_ONE_SCRIPT = 'A scripted job has one task; its script can say {"tasks": n}.'


@dataclass(frozen=True)
class OutputRequest:
    """An asset that a task makes: its number among the job's outputs, and how it is to be made.

    With *asset_name*, its name in v3, it may be there already; then none is made.
    """

    number: int
    name: str | None = None
    options: int = 1
    asset_name: str = ""


@dataclass(frozen=True)
class TaskRequest:
    """One task of a job to be submitted; inputs are numbers of job inputs or of other tasks' outputs.

    What follows `body` is v3's, see `airflow_ams.emulator.records.Task`.
    """

    processor: str
    configuration: str
    outputs: tuple[OutputRequest, ...]
    job_inputs: tuple[int, ...] = ()
    chained_inputs: tuple[int, ...] = ()
    name: str = ""
    priority: int = 0
    options: int = 0
    body: str = ""
    url: str | None = None
    label: str = ""
    tolerated: bool = False
    preset_override: dict[str, Any] | None = None


@dataclass(frozen=True)
class JobRequest:
    """A job to be submitted; `inputs` are asset identifiers.

    What follows `priority` is v3's, see `airflow_ams.emulator.records.Job`.
    """

    name: str
    tasks: tuple[TaskRequest, ...]
    inputs: tuple[str, ...] = ()
    priority: int = 0
    transform: str = ""
    job_name: str = ""
    description: str | None = None
    correlation: dict[str, str] | None = None
    input: dict[str, Any] | None = None


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
        self.transforms = Transforms(store, clock)
        # By account and transform, then by name, all in lower case: v3 asks by names, among many thousands.
        self._names: dict[tuple[str, str], dict[str, str]] = {}
        for job in store.all(Job):
            self._names_beside(job)[job.job_name.lower()] = job.id

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

    def all_of(self, account: str, transform: str) -> Iterator[Job]:
        """Yield the jobs of a transform as they are now, oldest first."""
        for job_id in list(self._names.get((account, transform.lower()), {}).values()):
            job = self.find(account, job_id)
            if job is not None:
                yield job

    def find_named(self, account: str, transform: str, job_name: str) -> Job | None:
        """Return a job as it is now by its names in v3, None if there is none."""
        job_id = self._names.get((account, transform.lower()), {}).get(job_name.lower())
        return None if job_id is None else self.find(account, job_id)

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
        :raises Conflict: its transform has a job of that name.
        :raises NotFound: an input asset is not there.
        """
        order = _check(request)
        for asset_id in request.inputs:
            self._assets.get(account, asset_id)
        script = _read_document(order[0].configuration) if order[0].processor == SCRIPTED else None
        job = self._new_job(account, request, script)
        names = self._names_beside(job)
        if job.job_name.lower() in names:
            raise Conflict(f"The transform '{job.transform}' has a job '{job.job_name}' already.")
        draft = _Draft(job)
        if script is not None:
            self._add_scripted(draft, order, read_script(script))
            self.transforms.ensure_scripted(account, job.transform)
        else:
            for task in order:
                self._add_task(draft, task)
        names[job.job_name.lower()] = job.id
        self._store.put(job)
        return job

    def _new_job(self, account: str, request: JobRequest, script: dict[str, Any] | None) -> Job:
        now = self._clock.now()
        return Job(
            new_id("jid"),
            account,
            now,
            request.name,
            now,
            request.priority,
            script=script,
            inputs=list(request.inputs),
            transform=request.transform,
            job_name=request.job_name,
            description=request.description,
            correlation=request.correlation,
            input=request.input,
        )

    def _names_beside(self, job: Job) -> dict[str, str]:
        """Return the names of the jobs that have the same transform, each with the job's identifier."""
        return self._names.setdefault((job.account, job.transform.lower()), {})

    def _add_scripted(self, draft: _Draft, requests: list[TaskRequest], script: Script) -> None:
        if len(requests) not in (1, script.tasks):
            raise InvalidRequest(_ONE_SCRIPT)
        for file in script.outputs:
            check_file_name(file.name)
        first = requests[0]
        for number in range(script.tasks):
            if number < len(requests):
                task = self._add_task(draft, requests[number])
            else:
                # Each task of the script gets outputs of its own, numbered on from those asked for.
                outputs = tuple(
                    OutputRequest(output.number + number * len(first.outputs), output.name, output.options)
                    for output in first.outputs
                )
                task = self._add_task(draft, replace(first, outputs=outputs, label=""))
            for asset_id in task.outputs:
                for file in script.outputs:
                    with (self._assets.folder(asset_id) / file.name).open("wb") as stream:
                        stream.truncate(file.size)
                    self._assets.record_file(asset_id, file.name)

    def _add_task(self, draft: _Draft, request: TaskRequest) -> Task:
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
            url=request.url,
            label=request.label,
            tolerated=request.tolerated,
            preset_override=request.preset_override,
        )
        # A script does not read its inputs, so one that is not there does no harm.
        task.inputs = [job.inputs[number] for number in request.job_inputs if number < len(job.inputs)]
        task.inputs += [draft.outputs[number] for number in request.chained_inputs]
        for output in request.outputs:
            draft.outputs[output.number] = asset_id = self._output_asset(job, output)
            task.outputs.append(asset_id)
        if request.processor == MEDIA_ENCODER_STANDARD:
            task.events.append({"code": "WaitingForFreeResources", "message": None, "at": job.created})
        job.tasks.append(task.id)
        self._store.put(task)
        return task

    def _output_asset(self, job: Job, output: OutputRequest) -> str:
        if output.asset_name and (there := self._assets.named(job.account, output.asset_name)):
            self._assets.fill(there, job.id)
            return there.id
        name = output.name or f"JobOutputAsset({output.number}) of {job.name or job.id}"
        return self._assets.create(
            job.account, name, options=output.options, job=job.id, asset_name=output.asset_name
        ).id

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
        self._names_beside(kept).pop(kept.job_name.lower(), None)
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

    def patched(self, account: str, job_id: str) -> Job:
        """Return the record of a job that v3 is about to change; the caller changes it and puts it back."""
        self.get(account, job_id)
        kept = self._kept(job_id)
        kept.modified = kept.patched = self._clock.now()
        return kept

    def forget(self) -> None:
        """Forget what was kept of jobs that are gone from the store."""
        self._scripts.clear()
        self._names.clear()

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


def check_name(name: str) -> str:
    """Return *name* if it can be the name of a job, transform or asset in v3; empty means none.

    :raises InvalidRequest: it is too long, or has characters that a path does not keep.
    """
    if len(name) > _MOST_LETTERS or not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidRequest(f"'{name[:_MOST_LETTERS]}' cannot be a name.")
    return name


def _read_document(configuration: str) -> dict[str, Any]:
    try:
        document = json.loads(configuration or "{}")
    except ValueError as error:
        raise InvalidRequest(f"The Configuration of a scripted task is JSON: {error}.") from None
    read_script(document)
    return cast("dict[str, Any]", document)


def _check(request: JobRequest) -> list[TaskRequest]:
    """Return the tasks in an order in which they can run."""
    tasks = request.tasks
    for name in (request.transform, request.job_name):
        check_name(name)
    if not 1 <= len(tasks) <= _MOST_TASKS:
        raise InvalidRequest(f"A job has 1 to {_MOST_TASKS} tasks, not {len(tasks)}.")
    processors = {task.processor for task in tasks}
    for processor in sorted(processors - {MEDIA_ENCODER_STANDARD, SCRIPTED}):
        raise InvalidRequest(f"There is no media processor with the id '{processor}'.")
    if SCRIPTED in processors and len({(task.processor, task.configuration) for task in tasks}) > 1:
        raise InvalidRequest(_ONE_SCRIPT)
    produced = [output.number for task in tasks for output in task.outputs]
    for number in sorted(set(produced)):
        if produced.count(number) > 1:
            raise InvalidRequest(f"JobOutputAsset({number}) is produced more than once.")
    for task in tasks:
        _check_task(task, len(request.inputs), produced)
    return _in_running_order(tasks)


def _check_task(task: TaskRequest, job_inputs: int, produced: list[int]) -> None:
    count = len(task.job_inputs) + len(task.chained_inputs) + (task.url is not None)
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
