"""What a wait asks besides where a job stands: why it failed, what it wrote, and to cancel it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_ams.api.errors import JobNotFoundError, RefusedError, ServiceError
from airflow_ams.api.model import Job, JobError, JobState

if TYPE_CHECKING:
    from airflow_ams.api import MediaService
    from airflow_ams.api.retries import Retries

DETAILS_PATIENCE = 120.0
"""Seconds for which a job's errors, or outputs, are asked for before its wait ends without them."""


def with_details(service: MediaService, job: Job, *, outputs: bool, retries: Retries | None) -> Job:
    """Read what the verdict on a job that has ended needs: why it failed, or what it wrote.

    :param outputs: whether anybody wants to know what it wrote
    """
    if job.state is JobState.ERROR:
        return service.with_tasks(job, retries=retries)
    if job.state is JobState.FINISHED and outputs:
        return service.with_outputs(job, retries=retries)
    return job


def without_details(job: Job, exc: ServiceError) -> tuple[Job, str | None]:
    """Go on with what is known: how the job ended counts, whether or not more can be read of it.

    :returns: the job, and a warning to log
    """
    if job.state is JobState.ERROR:
        return replace(job, errors=(JobError("Unknown", f"the reasons could not be read. {exc}"),)), None
    return job, f"The job's outputs could not be read. {exc}"


def cancel(service: MediaService, job_id: str, *, retries: Retries | None = None) -> tuple[int, str]:
    """Ask for a job to be canceled, as well as it can be done.

    :returns: a level of logging, and a line that says how it went
    """
    try:
        service.cancel_job(job_id, retries=retries)
    except (JobNotFoundError, RefusedError) as exc:
        return logging.INFO, f"Job {job_id} is not canceled. {exc}"
    except ServiceError as exc:
        return may_run_on(job_id, exc)
    return logging.INFO, f"Job {job_id} is being canceled, as was asked for"


def cancel_unless_ended(service: MediaService, job_id: str) -> Job:
    """Ask for a job to be canceled, unless it has ended.

    :returns: the job as it was before, or as it has ended
    :raises JobNotFoundError: there is no such job
    """
    job = service.get_job(job_id)
    if job.state.is_final:
        return job
    try:
        service.cancel_job(job.id)
    except RefusedError:
        # It may have ended meanwhile.
        ended = service.get_job(job.id)
        if not ended.state.is_final:
            raise
        return ended
    return job


def may_run_on(job_id: str, reason: object) -> tuple[int, str]:
    """Return level and line to log about a job that could not be canceled."""
    return logging.WARNING, f"Job {job_id} may run on, since it could not be canceled: {reason}"
