"""What the threads of a `ServicePool` read for `JobWatch`, and what its errors mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow_ams.api.details import with_details
from airflow_ams.api.errors import RefusedError, ServiceError, SignInError
from airflow_ams.api.model import Job, JobState
from airflow_ams.api.retries import NO_RETRIES, URGENT, Retries

if TYPE_CHECKING:
    from airflow_ams.api import IsNews, MediaService
    from airflow_ams.api.sweep import Sweep, Swept
    from airflow_ams.api.waiting import JobWait

_LATER_PAGES = Retries(tries=5, within=30.0, max_wait=5.0)
_NOTHING: MappingProxyType[str, Any] = MappingProxyType({})


def read_list(
    service: MediaService, *, sweep: Sweep, wanted: Collection[str], due: Set[str], is_news: IsNews
) -> Swept:
    """Sweep once; the watch's own back-off is what repeats it.

    That would end all sweeps of many pages in bad times, so only the first page is asked for once.
    """
    return sweep.read(service, wanted, is_news, due=due, first=NO_RETRIES, later=_LATER_PAGES)


def read_job(service: MediaService, *, job_id: str, last: Job | None, is_urgent: bool = False) -> Job:
    """Fetch a job; `last` is the reading before."""
    return service.poll_job(job_id, last, retries=URGENT if is_urgent else NO_RETRIES)


def read_details(service: MediaService, *, job: Job, outputs: bool) -> Job:
    """Read what the verdict on a job that has ended needs."""
    return with_details(service, job, outputs=outputs, retries=NO_RETRIES)


def normalize(service: MediaService, *, waits: Iterable[JobWait]) -> None:
    """Write the ids of waits as the service does; one that could not be its ends its wait."""
    for wait in waits:
        try:
            wait.normalize(service.job_id)
        except RefusedError as exc:  # noqa: PERF203  # each by itself
            wait.refuse(str(exc))


def read_percent(service: MediaService, *, job: Job) -> Job:
    """Read how far a job is."""
    return service.with_tasks(job, retries=NO_RETRIES)


def slim(found: Job, job_id: str, before: Job | None) -> Job:
    """Leave out of a reading what a wait does not need, and keep the last percent until the next is read.

    :param job_id: its id, of which there is one copy then
    :param before: the reading before
    """
    raw = found.raw if found.state is JobState.UNKNOWN else _NOTHING
    if before and found.state is JobState.PROCESSING and found.progress is None:
        tasks, progress = before.tasks, before.progress
    else:
        tasks = tuple(replace(task, raw=_NOTHING, history=()) for task in found.tasks)
        progress = found.progress
    if found.state.is_final:
        return replace(found, id=job_id, raw=raw, tasks=tasks)
    # Of several outputs the log tells where each one stands.
    outputs = found.outputs if found.outputs is not None and len(found.outputs) > 1 else None
    if found.state is not JobState.PROCESSING:
        return replace(found, id=job_id, raw=raw, tasks=tasks, outputs=outputs)
    # Most jobs are in this state, and no wait asks when they began.
    return Job(job_id, found.name, found.state, progress, tasks=tasks, outputs=outputs, raw=raw)


def is_about_all(error: ServiceError) -> bool:
    """Whether a refusal is about who asks, or about the connection, and not about one job."""
    if isinstance(error, SignInError):
        return True
    return isinstance(error, RefusedError) and error.status in (None, 401)
