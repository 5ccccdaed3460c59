"""One list of a service's active jobs: by which form it can be read, and whether that pays."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING

from airflow_ams.api.errors import (
    FILTER_REFUSALS,
    JobNotFoundError,
    RefusedError,
    ServiceError,
    SignInError,
    TransientError,
)
from airflow_ams.api.model import Job, JobState

if TYPE_CHECKING:
    from airflow_ams.api import IsNews, MediaService
    from airflow_ams.api.retries import Retries

JOBS_PER_PAGE = 8
"""Jobs that must wait for each page of a list before it pays.

A page of a thousand jobs was measured to cost the client 4 ms of CPU, or 8 ms without ``$select``, and a
single fetch 1.4 ms. A page costs the service more than that, so there is a margin.
"""

MEMORY = 600.0
"""Seconds for which it is remembered that a list is crowded, fails, must not be read, or shows nothing."""

_MAX_FAILURES = 5
_PROBES = 3
_SECONDS_A_FAILURE = 10.0


@dataclass
class Listed:
    """What a list shows.

    :param seen: the ids of the active jobs on it
    :param answered: of the jobs that were looked for, those that were found, or looked for in vain; not all,
        if the list is longer than it pays to read
    :param missing: those of `answered` that are not active
    :param news: the jobs that it was asked to look at
    """

    seen: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    news: list[Job] = field(default_factory=list)


class JobList:
    """One list, and what is known of it.

    It is read by the best form that the service takes; a form that was refused is not tried again. One that
    shows none of many jobs, although some of them are active, is not tried for `MEMORY` seconds: a service
    may let a filter pass that it does not understand. A form that has shown jobs is kept to as long as it
    does.

    :param name: what `airflow_ams.api.MediaService.sweep_scopes` calls it
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures = 0.0
        """In a row; one that takes long counts for more."""
        self._pages = 1.0
        self._pages_until = math.inf
        self._off_until = -math.inf
        # By the number of a form, until when it is of no use.
        self._useless_until: dict[int, float] = {}
        self._proven: int | None = None

    def pays(self, waiting: int) -> bool:
        """Whether to read it is better than to fetch each waiting job, as far as is known."""
        now = time.monotonic()
        pages = self._pages if now < self._pages_until else 1.0
        return now >= self._off_until and waiting > JOBS_PER_PAGE * pages

    def read(
        self,
        service: MediaService,
        wanted: Collection[str],
        is_news: IsNews,
        *,
        first: Retries | None,
        later: Retries | None,
    ) -> Listed | None:
        """Read it until all that are wanted were seen.

        :param first: for the first page
        :param later: for the further ones, when the service has just answered
        :returns: what it shows, or None if the service takes no form of it, or does not let us read it
        :raises TransientError: it could not be read this time
        :raises RefusedError: it is about who asks, or about the connection
        """
        while (form := self._form(len(service.sweep_forms))) is not None:
            try:
                listed = self._read(service, form, wanted, is_news, (first, later))
            except _FormRefusedError:
                self._useless_until[form] = math.inf
                continue
            except RefusedError as exc:
                _raise_unless_forbidden(exc)
                self._off_until = time.monotonic() + MEMORY
                return None
            if not _is_blind(service, listed, first):
                self.failures = 0.0
                self._proven = form if listed.answered - listed.missing else self._proven
                return listed
            self._proven = None
            self._useless_until[form] = time.monotonic() + MEMORY
        return None

    def failed(self, seconds: float = 0.0) -> None:
        """Learn that it could not be read, although the service has answered otherwise.

        :param seconds: how long the failure took to come
        """
        self.failures += 1 + seconds / _SECONDS_A_FAILURE
        if self.failures >= _MAX_FAILURES:
            self.failures = 0.0
            self._off_until = time.monotonic() + MEMORY

    def _form(self, count: int) -> int | None:
        """Return the number of the form to read it by; None if there is none."""
        now = time.monotonic()
        useful = [n for n in range(count) if self._useless_until.get(n, now) <= now]
        if not useful:
            self._off_until = min(self._useless_until.values())
            return None
        return self._proven if self._proven in useful else useful[0]

    def _read(
        self,
        service: MediaService,
        form: int,
        wanted: Collection[str],
        is_news: IsNews,
        retries: tuple[Retries | None, Retries | None],
    ) -> Listed:
        # The service's own spelling may be another.
        known = {job_id.casefold(): job_id for job_id in wanted}
        listed, pages = Listed(), 0
        queries, cursor, read = [*service.sweep_forms[form]], None, set[str]()

        def is_known_news(job_id: str, state: JobState, progress: float | None) -> bool:
            return is_news(known.get(job_id.casefold(), job_id), state, progress)

        while queries and not (len(listed.seen) >= len(known) and listed.seen.issuperset(known.values())):
            if pages * JOBS_PER_PAGE > max(len(wanted), JOBS_PER_PAGE):
                return self._done(listed, listed.seen.intersection(wanted), pages)
            with _telling_refusals(cursor):
                page = service.sweep_page(
                    self.name, queries[0], cursor, is_known_news, retries=retries[pages > 0]
                )
            listed.seen.update(known.get(job_id.casefold(), job_id) for job_id in page.ids)
            listed.news += [_known_as(job, known) for job in page.news]
            pages, cursor = pages + 1, page.cursor
            if cursor is None:
                queries.pop(0)
                read.clear()
            elif cursor in read:
                raise TransientError("The service's list leads back to a page that was read before")
            else:
                read.add(cursor)
        return self._done(listed, wanted, pages)

    def _done(self, listed: Listed, answered: Collection[str], pages: int) -> Listed:
        listed.answered = set(answered)
        listed.missing = listed.answered - listed.seen
        self._pages, self._pages_until = pages, time.monotonic() + MEMORY
        return listed


class _FormRefusedError(Exception):
    """Raised when a service does not take a form of its list."""


@contextmanager
def _telling_refusals(cursor: str | None) -> Iterator[None]:
    """Tell a refusal of a form from that of a page: where the list leads may be no more by now."""
    try:
        yield
    except (RefusedError, TransientError) as exc:
        if isinstance(exc, SignInError) or exc.status not in FILTER_REFUSALS:
            raise
        if cursor is None:
            raise _FormRefusedError from exc
        raise TransientError(f"The list broke off. {exc.message}", request_id=exc.request_id) from exc


def _is_blind(service: MediaService, listed: Listed, retries: Retries | None) -> bool:
    """Whether a list shows none of many jobs, although one of them is active."""
    if len(listed.answered) <= JOBS_PER_PAGE or listed.missing != listed.answered:
        return False
    for job_id in islice(listed.missing, _PROBES):
        try:
            return not service.poll_job(job_id, None, retries=retries).state.is_final
        except JobNotFoundError:  # noqa: PERF203  # three turns at most
            continue
        except ServiceError as exc:
            if getattr(exc, "retry_after", None):
                raise
            # What is wrong with a job is told by its own fetch.
            continue
    return False


def _known_as(job: Job, known: Mapping[str, str]) -> Job:
    job_id = known.get(job.id.casefold(), job.id)
    return job if job_id == job.id else replace(job, id=job_id)


def _raise_unless_forbidden(exc: RefusedError) -> None:
    """Say what is wrong with more than the list, unless it may be the list alone that we must not read."""
    if isinstance(exc, SignInError) or exc.status in (None, HTTPStatus.UNAUTHORIZED):
        raise exc
    if exc.status != HTTPStatus.FORBIDDEN:
        raise exc.passing() from exc
