"""One submission: which of the service's jobs a task has made, so that it is never encoded twice.

Each task of each run has a mark, and each of its jobs a number; both are at the end of the job's name. Who
tries again looks for the jobs of the mark before it creates another.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from http import HTTPStatus
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_ams.api.errors import RefusedError, ServiceError, TransientError, UncertainError
from airflow_ams.api.model import Job, JobState, Outcome, verdict

if TYPE_CHECKING:
    from airflow_ams.api import MediaService

LOOKS = (0.0, 2.0, 5.0, 10.0)
"""Seconds before each look for a job whose creation was not confirmed."""

_NEVER = datetime.max.replace(tzinfo=timezone.utc)
_DIGITS = 4
_SUFFIX = len("-0123456789abcdef-") + _DIGITS


class Attempt(NamedTuple):
    """A job that was made under a mark, and its number."""

    number: int
    job: Job


def mark_of(*identity: object) -> str:
    """Return the mark of a task: sixteen characters, the same whenever these are.

    :param identity: what tells the task from all others, e.g. DAG, task, run and map index
    """
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def marked(name: str, mark: str, number: int | str, most: int) -> str:
    """Return a job's name with its mark and number at the end.

    :param number: of the job; empty: only what the names of all jobs of this mark begin with
    :param most: characters that the service takes
    :raises RefusedError: the name is too long for that
    """
    if len(name) > most - _SUFFIX:
        raise RefusedError(
            f"The job's name '{name[:40]}…' has {len(name)} characters; give it {most - _SUFFIX} at most: "
            f"a mark of {_SUFFIX} is put behind it, and the service takes {most}"
        )
    return f"{name}-{mark}-{number}"


def number_in(name: str, mark: str) -> int | None:
    """Read the number at the end of a job's name; None if the name has another mark, or none."""
    found = re.fullmatch(rf".*-{mark}-(\d{{1,{_DIGITS}}})", name, re.DOTALL)
    return int(found[1]) if found else None


def is_taken_up(job: Job, *, is_reported: bool) -> bool:
    """Whether a task goes on with a job that it finds, and does not submit another.

    :param job: as it was read now
    :param is_reported: whether the task has once ended well with that job, so that somebody wants it anew
    """
    outcome = verdict(job).outcome
    if outcome is Outcome.WAITING:
        return job.state is not JobState.CANCELING
    return outcome is Outcome.SUCCEEDED and not is_reported


def last_of(attempts: Iterable[Attempt]) -> Attempt | None:
    """Return the one with the highest number; None if there are none.

    A create that has happened twice makes two of a number. All tries choose the same one: the first that is
    of use, or the first.
    """

    def rank(one: Attempt) -> tuple[int, bool, datetime, str]:
        is_useless = not is_taken_up(one.job, is_reported=False)
        return -one.number, is_useless, one.job.created or _NEVER, one.job.id

    return min(attempts, key=rank, default=None)


def last_by_number(read: Callable[[int], Attempt | None], number: int) -> Attempt | None:
    """Find the last job of a mark on a service that has to be asked for each number: upward first, then down.

    Upward the numbers have no gaps, save of tries that overlap. Downward they may have, since a try that ends
    before its create leaves one, so only 1 is the end: no job at all costs as many requests as the number.

    :param read: returns the job of a number, if there is one
    :param number: the next job's, as far as known
    """
    if later := [*takewhile(bool, map(read, count(number)))]:
        return later[-1]
    return next(filter(None, map(read, range(number - 1, 0, -1))), None)


def may_be_resubmitted(document: Mapping[str, Any] | None) -> bool:
    """Whether the same job may do better another time, by the service's advice or the kind of its errors.

    :param document: the failed job's, as `airflow_ams.api.model.document` makes it
    """
    errors: Iterable[Mapping[str, Any]] = (document or {}).get("errors") or ()
    advice = [error.get("retry") or _advice_of(str(error.get("code"))) for error in errors]
    return "MayRetry" in advice and "DoNotRetry" not in advice


def _advice_of(code: str) -> str | None:
    """Return what a code means where the service gives no advice (v2: "Encoding error codes")."""
    return "MayRetry" if code.endswith(("TransientError", "ServiceFailure")) else None


def create(service: MediaService, spec: Mapping[str, Any], mark: str, number: int) -> Job:
    """Create a job; one whose answer was lost is looked for, and not created again.

    :returns: the job; of a later number, if another try of the task has made one meanwhile
    :raises TransientError: the service has trouble. A gateway may say so of a create that has happened, so it
        has been looked for, too; look again before creating again
    :raises UncertainError: no usable answer has come, and no such job is there to be seen; look likewise
    """
    try:
        return service.submit_as(spec, mark, number)
    except (TransientError, UncertainError) as exc:
        if _may_have_happened(exc) and (job := _look_for(service, spec, mark, number)) is not None:
            return job
        raise


def _may_have_happened(exc: TransientError | UncertainError) -> bool:
    """Whether a create may have happened; a service that asks to be left alone has done nothing."""
    if isinstance(exc, UncertainError):
        return True
    is_throttled = exc.status == HTTPStatus.TOO_MANY_REQUESTS
    return exc.status is not None and not is_throttled and not exc.retry_after


def _look_for(service: MediaService, spec: Mapping[str, Any], mark: str, number: int) -> Job | None:
    for seconds in LOOKS:
        time.sleep(seconds)
        # A look that fails has seen nothing; what matters remains that the create was not confirmed.
        with suppress(ServiceError):
            # Where each number is asked for, a look for this one would end at it, and miss the next.
            found = service.find_attempt(spec, mark, number + 1)
            if found is not None and found.number >= number:
                return found.job
    return None
