"""The queue of encodes: larger priority first, then the oldest, so many at once as there are units."""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from airflow_ams.emulator.assets import Assets
from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.download import DownloadFailed, download, name_in
from airflow_ams.emulator.encoder import EncodeFailed, OnProgress
from airflow_ams.emulator.records import FINAL, Event, Failure, Job, State, Task
from airflow_ams.emulator.store import Store

# Task (REST reference), Options: the other tasks go on when this one fails.
DO_NOT_CANCEL_ON_FAILURE = 4
# How long a job that was still queued reads Canceling.
CANCEL_SECONDS = 0.5

logger = logging.getLogger("airflow_ams.emulator")


class Encodes(Protocol):
    """What the runner needs of an encoder."""

    async def encode(
        self, source: Path, name: str, configuration: str, folder: Path, on_progress: OnProgress
    ) -> list[Path]:
        """Encode one file into *folder*; stop all work when canceled."""


class Runner:
    """Runs the tasks of encode jobs; scripted jobs need none of it.

    :param store: holds the records.
    :param assets: where inputs are and outputs go.
    :param encoder: does the work.
    :param units: jobs that run at the same time.
    :param clock: gives the time stamps.
    """

    def __init__(self, store: Store, assets: Assets, encoder: Encodes, units: int, clock: Clock) -> None:
        self._store = store
        self._assets = assets
        self._encoder = encoder
        self._units = units
        self._clock = clock
        self._running: dict[str, asyncio.Task[None]] = {}
        self._started = False

    def start(self) -> None:
        """Begin; encodes that a restart has cut off start again."""
        self._started = True
        for job in self._waiting({State.Canceling}):
            self._settle_cancel(job)
        self.wake()

    def wake(self) -> None:
        """Start waiting jobs on the units that are free."""
        while self._started and len(self._running) < self._units:
            waiting = [
                job
                for job in self._waiting({State.Queued, State.Scheduled, State.Processing})
                if job.id not in self._running
            ]
            if not waiting:
                return
            # Cut-off encodes (Processing) had their turn already and come first.
            job = min(waiting, key=lambda job: (-job.state, -job.priority, job.created))
            self._running[job.id] = asyncio.create_task(self._work(job), name=f"encode {job.id}")

    def cancel(self, job_id: str) -> None:
        """Stop the encode of a job whose state is Canceling; it becomes Canceled when all has stopped."""
        if work := self._running.get(job_id):
            work.cancel()
        elif (job := self._store.get(Job, job_id)) and job.script is None:
            # Readers see Canceling first, as they did of the service; CancelJob (REST reference).
            asyncio.get_running_loop().call_later(CANCEL_SECONDS, self._settle_cancel, job)

    async def stop(self) -> None:
        """Stop all encodes, leaving their jobs to be started again."""
        self._started = False
        running = list(self._running.values())
        for work in running:
            work.cancel()
        for work in running:
            with suppress(asyncio.CancelledError):
                await work
        self._running.clear()

    def _waiting(self, states: set[State]) -> list[Job]:
        return [job for job in self._store.all(Job) if job.script is None and job.state in states]

    async def _work(self, job: Job) -> None:
        try:
            await self._run(job)
        except asyncio.CancelledError:
            self._settle_cancel(job)
        finally:
            self._running.pop(job.id, None)
            self.wake()

    async def _run(self, job: Job) -> None:
        tasks = [task for task in (self._store.get(Task, task_id) for task_id in job.tasks) if task]
        self._enter(job, tasks, State.Scheduled)
        # Gives a reader the chance to see the state, as the service did.
        await asyncio.sleep(0)
        self._enter(job, tasks, State.Processing)
        failed = go_on = False
        for task in tasks:
            if task.state in FINAL:
                failed = failed or _counts_as_failed(task)
                continue
            if failed and not go_on:
                self._end_task(task, State.Canceled)
                continue
            try:
                await self._encode(task)
                self._end_task(task, State.Finished)
            except EncodeFailed as error:
                self._fail_task(task, error.code, error.message)
                go_on = bool(task.options & DO_NOT_CANCEL_ON_FAILURE)
            except Exception as error:
                # For instance the output asset was deleted; the job must end all the same.
                logger.exception("Task %s failed.", task.id)
                go_on = False
                # The text of an OSError has a path of this machine in it.
                reason = error.strerror if isinstance(error, OSError) else None
                self._fail_task(task, "ErrorProcessingTask", reason or str(error))
            failed = failed or _counts_as_failed(task)
        self._end(job, State.Error if failed else State.Finished)

    async def _encode(self, task: Task) -> None:
        task.state, task.started = State.Processing, task.started or self._clock.now()
        task.events.append(Event(code="Processing", message="", at=self._clock.now()))
        self._store.put(task)
        if task.url is None:
            if len(task.inputs) != 1:
                raise EncodeFailed("ErrorParsingConfiguration", "This encoder takes one input asset a task.")
            await self._encode_file(task, *self._input_of(task.inputs[0]))
            return
        with TemporaryDirectory(prefix="airflow-ams-input-", ignore_cleanup_errors=True) as folder:
            source = Path(folder) / "input"
            try:
                await download(task.url, source)
            except DownloadFailed as error:
                raise EncodeFailed("ErrorDownloadingInputAssetServiceFailure", str(error)) from None
            await self._encode_file(task, source, name_in(task.url))

    async def _encode_file(self, task: Task, source: Path, name: str) -> None:
        def on_progress(percent: float) -> None:
            # 100 is said when the files are recorded; a repeated encode does not take anything back.
            task.progress = max(task.progress, round(min(percent, 99.9), 1))
            self._store.put(task)

        first, *others = task.outputs
        folder = self._assets.folder(first)
        folder.mkdir(parents=True, exist_ok=True)
        files = await self._encoder.encode(source, name, task.configuration, folder, on_progress)
        for asset_id in others:
            for file in files:
                self._assets.folder(asset_id).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, self._assets.folder(asset_id))
        for asset_id in task.outputs:
            for file in files:
                self._assets.record_file(asset_id, file.name)

    def _input_of(self, asset_id: str) -> tuple[Path, str]:
        files = self._assets.files(asset_id)
        file = next((file for file in files if file.primary), files[0] if files else None)
        if file is None or not self._assets.path(file).is_file():
            raise EncodeFailed("ErrorDownloadingInputAssetMalformedContent", "The input asset has no file.")
        return self._assets.path(file), file.name

    def _enter(self, job: Job, tasks: list[Task], state: State) -> None:
        job.state = state
        if state == State.Processing:
            job.started = job.started or self._clock.now()
        for task in tasks:
            if task.state not in FINAL and state == State.Scheduled:
                task.state = state
                task.events.append(Event(code=state.name, message="", at=self._clock.now()))
                self._store.put(task)
        self._store.put(job)

    def _fail_task(self, task: Task, code: str, message: str) -> None:
        task.failures.append(Failure(code=code, message=message))
        self._end_task(task, State.Error)

    def _end_task(self, task: Task, state: State) -> None:
        now = self._clock.now()
        task.state, task.ended = state, now
        if state == State.Finished:
            task.progress = 100.0
        failure = task.failures[-1] if task.failures else None
        code, message = (failure["code"], failure["message"]) if failure else (state.name, "")
        task.events.append(Event(code=code, message=message, at=now))
        if state == State.Finished:
            task.events.append(
                Event(code="TaskBillingInformationAdded", message='{"BillingUnits": 0}', at=now)
            )
        self._store.put(task)

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended = state, self._clock.now()
        job.modified = job.ended
        self._store.put(job)

    def _settle_cancel(self, job: Job) -> None:
        if self._store.get(Job, job.id) is not job or job.state != State.Canceling:
            return
        for task in (self._store.get(Task, task_id) for task_id in job.tasks):
            if task is not None and task.state not in FINAL:
                self._end_task(task, State.Canceled)
        self._end(job, State.Canceled)


def _counts_as_failed(task: Task) -> bool:
    """Tell whether a task that has ended makes its job fail."""
    return task.state == State.Error and not task.tolerated
