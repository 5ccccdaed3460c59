"""Scripted jobs: what such a job looks like is a pure function of its script and the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.records import FINAL, Event, Failure, Job, State, Task

_KEYS = {"states", "tasks", "error", "on_error", "appear_after", "vanish_after", "canceling", "outputs"}
_ERROR_TEXTS = {"code", "message", "category", "retry"}
_ON_ERROR = ("StopProcessingJob", "ContinueJob")
_DEFAULT_FAILURE = Failure(code="ErrorProcessingTask", message="The script says that this task fails.")
_EVENT_NAMES = {int(state): state.name for state in State} | {0: "WaitingForFreeResources"}
_BILLING = '{"BillingUnits": 0}'


@dataclass(frozen=True)
class Step:
    """A state that lasts for some seconds while the progress goes from one percentage to another."""

    state: int
    seconds: float
    progress: tuple[float, float]


@dataclass(frozen=True)
class OutputFile:
    """A file that the job leaves in its output asset."""

    name: str
    size: int


@dataclass(frozen=True)
class Moment:
    """Where a script stands: its step, and how far (percent) all its tasks together are."""

    state: int
    progress: float
    started: float | None
    ended: float | None
    passed: tuple[tuple[int, float], ...]
    """The states so far, each with the time at which it began."""


@dataclass(frozen=True)
class Script:
    """A scripted job. All times are seconds.

    :param steps: the states one after another; the last one stays.
    :param tasks: number of tasks; they run one after another.
    :param failures: one for each task that fails, from the first task on.
    :param goes_on: whether a job in which tasks fail goes on, and can finish.
    :param appear_after: how long the job is not there yet.
    :param vanish_after: when the service forgets it; None never.
    :param canceling: how long a cancel takes.
    :param outputs: the files in the output asset of each task, once the job has finished.
    """

    steps: tuple[Step, ...]
    tasks: int = 1
    failures: tuple[Failure, ...] = ()
    goes_on: bool = False
    appear_after: float = 0.0
    vanish_after: float | None = None
    canceling: float = 0.0
    outputs: tuple[OutputFile, ...] = ()

    def exists(self, job: Job, now: float) -> bool:
        """Tell whether the service shows *job* at *now*."""
        age = now - job.created
        return age >= self.appear_after and (self.vanish_after is None or age < self.vanish_after)

    def moment(self, job: Job, now: float) -> Moment:
        """Return where *job* stands at *now*, a cancel included."""
        if job.canceled_at is None or now < job.canceled_at:
            return self._undisturbed(job.created, now)
        before = self._undisturbed(job.created, job.canceled_at)
        done_at = job.canceled_at + self.canceling
        passed = (*before.passed, (int(State.Canceling), job.canceled_at))
        if now < done_at:
            return replace(before, state=State.Canceling, passed=passed)
        passed = (*passed, (int(State.Canceled), done_at))
        return replace(before, state=State.Canceled, ended=done_at, passed=passed)

    def _undisturbed(self, created: float, now: float) -> Moment:
        began, started = created, None
        passed = []
        for step in self.steps:
            passed.append((step.state, began))
            if started is None and step.state not in (State.Queued, State.Scheduled):
                started = began
            if step is self.steps[-1] or now < began + step.seconds:
                break
            began += step.seconds
        share = min(1.0, max(0.0, (now - began) / step.seconds)) if step.seconds else 1.0
        low, high = step.progress
        ended = began if step.state in FINAL else None
        return Moment(step.state, low + (high - low) * share, started, ended, tuple(passed))

    def job_at(self, job: Job, now: float) -> Job:
        """Return *job* as it is at *now*."""
        moment = self.moment(job, now)
        modified = max(job.modified, moment.ended or job.modified)
        return replace(job, state=moment.state, started=moment.started, ended=moment.ended, modified=modified)

    def task_at(self, job: Job, task: Task, now: float) -> Task:
        """Return *task*, one of the job's, as it is at *now*."""
        moment = self.moment(job, now)
        progress = round(min(100.0, max(0.0, moment.progress * self.tasks - 100.0 * task.position)), 2)
        state, failures = self._task_outcome(moment.state, progress, task.position)
        started, ended = moment.started, moment.ended
        if task.position > 0:
            started = self._reached_at(job.created, task.position) if progress > 0 else None
        if state == State.Finished or (state == State.Error and self.goes_on):
            ended = self._reached_at(job.created, task.position + 1) or ended
        return replace(
            task,
            state=state,
            progress=progress,
            started=started,
            ended=ended if state in FINAL else None,
            failures=failures,
            events=_events(moment, failures),
        )

    def _reached_at(self, created: float, tasks_done: int) -> float | None:
        """Return when so many of the tasks are done, None if the script does not say."""
        percent, began = 100.0 * tasks_done / self.tasks, created
        for step in self.steps:
            low, high = step.progress
            if low < high >= percent:
                return began + step.seconds * max(0.0, percent - low) / (high - low)
            began += step.seconds
        return None

    def _task_outcome(self, state: int, progress: float, position: int) -> tuple[int, list[Failure]]:
        fails = position < len(self.failures)
        if state == State.Error:
            if fails:
                return State.Error, [self.failures[position]]
            return (State.Finished if progress == 100 else State.Canceled), []
        if state == State.Processing and self.tasks > 1:
            if progress == 0 and position > 0:
                return State.Queued, []
            if progress == 100:
                state = State.Finished
        if state == State.Finished and fails:
            return State.Error, [self.failures[position]]
        return state, []


def _events(moment: Moment, failures: list[Failure]) -> list[Event]:
    events: list[Event] = []
    for state, at in moment.passed:
        name = _EVENT_NAMES.get(state, str(state))
        events.append(Event(code=name, message="" if events else None, at=at))
        if state in (State.Error, State.Finished) and failures:
            events[-1] = Event(code=failures[0]["code"], message=failures[0]["message"], at=at)
        elif state == State.Finished:
            events.append(Event(code="TaskBillingInformationAdded", message=_BILLING, at=at))
    return events


def read_script(document: Any) -> Script:
    """Return the script that a JSON document describes; every key may be left out.

    Example: ``{"states": [{"state": "Processing", "seconds": 10, "progress": [0, 100]}, "Finished"]}``.
    A state is a name or any integer, so that states which no client knows can be tried; a last state
    that is not final is a job that is stuck. An ``error`` (or a list of them, one a task) has ``code`` and
    ``message``, and for v3 ``category``, ``retry`` and ``details``, a list of code and message. With
    ``"on_error": "ContinueJob"`` the job finishes all the same, with the tasks that have an error in Error.

    :raises InvalidRequest: the document is no script; the text says what is wrong with it.
    """
    if not isinstance(document, dict):
        raise InvalidRequest(f"A script is a JSON object, not {document!r}.")
    if unknown := sorted(set(document) - _KEYS):
        raise InvalidRequest(f"A script has no key '{unknown[0]}'; its keys are {', '.join(sorted(_KEYS))}.")
    tasks = document.get("tasks", 1)
    if isinstance(tasks, bool) or not isinstance(tasks, int) or not 1 <= tasks <= 30:
        raise InvalidRequest(f"'tasks' is a number from 1 to 30, not {tasks!r}.")
    failures = _read_failures(document.get("error"))
    if len(failures) > tasks:
        raise InvalidRequest(f"There are {len(failures)} errors, but only {tasks} task(s).")
    goes_on = _read_on_error(document)
    fails = bool(failures) and not goes_on
    last = "Error" if fails else "Finished"
    working = {"state": "Processing", "seconds": 5, "progress": [0, 50 if fails else 100]}
    default = [{"state": "Queued", "seconds": 1}, working, {"state": last}]
    steps = _read_steps(document.get("states", default))
    if goes_on and steps[-1].state == State.Error:
        raise InvalidRequest("With 'on_error' ContinueJob the last state is not Error.")
    if steps[-1].state == State.Error:
        failures = failures or (_DEFAULT_FAILURE,)
    elif fails:
        raise InvalidRequest("There is an 'error', but the last state is not Error.")
    vanish_after = document.get("vanish_after")
    return Script(
        steps=steps,
        tasks=tasks,
        failures=failures,
        goes_on=goes_on,
        appear_after=_seconds(document.get("appear_after", 0), "appear_after"),
        vanish_after=None if vanish_after is None else _seconds(vanish_after, "vanish_after"),
        canceling=_seconds(document.get("canceling", 0), "canceling"),
        outputs=_read_outputs(document.get("outputs", [])),
    )


def _read_steps(documents: Any) -> tuple[Step, ...]:
    if not isinstance(documents, list) or not documents:
        raise InvalidRequest("'states' is a list of at least one state.")
    steps: list[Step] = []
    for document in documents:
        steps.append(_read_step(document, steps[-1].progress[1] if steps else 0.0))
        if len(steps) > 1 and steps[-2].state in FINAL:
            raise InvalidRequest(f"State {steps[-2].state} is final; nothing can come after it.")
    return tuple(steps)


def _read_step(document: Any, reached: float) -> Step:
    if isinstance(document, (str, int)):
        document = {"state": document}
    if not isinstance(document, dict) or "state" not in document:
        raise InvalidRequest(f"A state is an object with the key 'state', not {document!r}.")
    if unknown := sorted(set(document) - {"state", "seconds", "progress"}):
        raise InvalidRequest(f"A state has no key '{unknown[0]}'; its keys are state, seconds, progress.")
    state = _read_state(document["state"])
    progress = document.get("progress")
    if progress is None:
        high = 100.0 if state in (State.Processing, State.Finished) else reached
        low = 100.0 if state == State.Finished else reached
    else:
        ends = progress if isinstance(progress, list) else [progress, progress]
        if len(ends) != 2 or not all(_is_number(end) and 0 <= end <= 100 for end in ends):
            raise InvalidRequest(f"'progress' is a percentage or a pair of them, not {progress!r}.")
        low, high = float(ends[0]), float(ends[1])
    if not reached <= low <= high:
        raise InvalidRequest(f"Progress cannot fall: from {reached:g} to {low:g} to {high:g}.")
    return Step(state, _seconds(document.get("seconds", 1), "seconds"), (low, high))


def _read_state(value: Any) -> int:
    if isinstance(value, str) and value in State.__members__:
        return int(State[value])
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidRequest(f"Unknown state {value!r}: use an integer or one of {', '.join(State.__members__)}.")


def _read_on_error(document: dict[str, Any]) -> bool:
    value = document.get("on_error", _ON_ERROR[0])
    if value not in _ON_ERROR:
        raise InvalidRequest(f"'on_error' is one of {', '.join(_ON_ERROR)}, not {value!r}.")
    return bool(value == "ContinueJob")


def _read_failures(document: Any) -> tuple[Failure, ...]:
    if document is None:
        return ()
    return tuple(map(_read_failure, document if isinstance(document, list) else [document]))


def _read_failure(entry: Any) -> Failure:
    if not isinstance(entry, dict):
        raise InvalidRequest(f"'error' is an object with code and message (or a list), not {entry!r}.")
    known = _ERROR_TEXTS | {"details"}
    if unknown := sorted(set(entry) - known):
        raise InvalidRequest(f"'error' has no key '{unknown[0]}'; its keys are {', '.join(sorted(known))}.")
    if not all(isinstance(entry[key], str) for key in _ERROR_TEXTS & set(entry)):
        raise InvalidRequest(f"'error' has texts as {', '.join(sorted(_ERROR_TEXTS))}, not {entry!r}.")
    details = entry.get("details", [])
    if not isinstance(details, list) or not all(map(_is_detail, details)):
        raise InvalidRequest(f"The 'details' of an error are a list of code and message, not {details!r}.")
    return Failure(**{**_DEFAULT_FAILURE, **entry})


def _is_detail(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"code", "message"}
        and all(isinstance(text, str) for text in value.values())
    )


def _read_outputs(documents: Any) -> tuple[OutputFile, ...]:
    if not isinstance(documents, list):
        raise InvalidRequest(f"'outputs' is a list of files, not {documents!r}.")
    outputs = []
    for document in documents:
        if not isinstance(document, dict) or set(document) - {"name", "size"} or "name" not in document:
            raise InvalidRequest(f"An output is an object with name and size, not {document!r}.")
        size = document.get("size", 0)
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= 2**40:
            raise InvalidRequest(f"The size of an output is a number of bytes, not {size!r}.")
        outputs.append(OutputFile(str(document["name"]), size))
    return tuple(outputs)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(value: Any, name: str) -> float:
    if not _is_number(value) or value < 0:
        raise InvalidRequest(f"'{name}' is a number of seconds, not {value!r}.")
    return float(value)
