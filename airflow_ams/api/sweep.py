"""Learns where many jobs stand in a few requests: lists the active ones, as the service allows it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow_ams.api.errors import FILTER_REFUSALS, RefusedError, SignInError, TransientError
from airflow_ams.api.model import Job, JobState

if TYPE_CHECKING:
    from airflow_ams.api import IsNews, MediaService
    from airflow_ams.api.retries import Retries

JOBS_PER_PAGE = 8
"""Jobs that must wait for each page of a sweep before it pays.

A page of a thousand jobs was measured to cost the client 4 ms of CPU, or 8 ms without ``$select``, and a
single fetch 1.4 ms. A page costs the service more than that, so there is a margin.
"""

MEMORY = 600.0
"""Seconds for which it is remembered that a list is crowded, or that sweeps fail or show nothing."""

_MAX_FAILURES = 5
_SECONDS_A_FAILURE = 10.0
_BLIND = 3
"""Sweeps in a row that saw none of many jobs, after which their filter is taken to fit no job."""


@dataclass
class Swept:
    """What a sweep found.

    :param began: when the first page was asked for, on a clock that only goes forward
    :param seen: the ids of the active jobs
    :param answered: the ids of the jobs that it looked for in vain or found; of the others nothing is known,
        since it does not pay to list them
    :param missing: those of `answered` that are not active
    :param news: the jobs that it was asked to look at
    :param lists_progress: whether the list tells percent
    """

    began: float
    seen: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    news: list[Job] = field(default_factory=list)
    lists_progress: bool = False


class Sweep:
    """Lists the active jobs, and knows when that pays.

    A sweep pays when more than `JOBS_PER_PAGE` jobs wait for each of its pages. Where a service has several
    lists, that is so for each by itself. It is made by the best form that the service takes; a form that was
    refused is not tried again, and one that shows none of the jobs not for `MEMORY` seconds. For so long a
    list is not read either that is longer than it pays, and no list after five failures in a row while single
    fetches were answered (one that takes long counts for more).
    """

    def __init__(self) -> None:
        self._failures = 0.0
        self._blind = 0
        self._off_until = -math.inf
        # By the number of a form, until when it is of no use.
        self._useless_until: dict[int, float] = {}
        # By the name of a list, how many pages it has, and until when that is believed.
        self._pages: dict[str, tuple[float, float]] = {}

    def pays(self, waiting: int) -> bool:
        """Whether a sweep may be better than a fetch of each waiting job, as far as is known."""
        # Of several lists, one that is not known yet may have them.
        pages = self._pages_of("")
        return time.monotonic() >= self._off_until and waiting > JOBS_PER_PAGE * pages

    def read(
        self,
        service: MediaService,
        wanted: Collection[str],
        is_news: IsNews,
        *,
        due: Set[str] | None = None,
        retries: Retries | None = None,
        later: Retries | None = None,
    ) -> Swept | None:
        """List the active jobs until all that are wanted were seen.

        :param wanted: ids of the jobs that somebody waits for; services do not tell them by case
        :param due: those of them that are to be read now, None: all; a list in which none is, is left out
        :param is_news: told each job's id, state and percent; whether to look at it
        :param retries: for the first page
        :param later: for the further ones, when the service has just answered; None: the same
        :returns: what was found, or None if the service takes no form of it, or does not let us read it
        :raises TransientError: it could not be read this time
        :raises RefusedError: it is about who asks, or about the connection
        """
        swept = Swept(time.monotonic(), lists_progress=service.lists_progress)
        reader = _Reader(service, swept, is_news, (retries, later or retries))
        while (form := self._form(len(service.sweep_forms))) is not None:
            try:
                self._read(reader, service.sweep_scopes(wanted), form, due)
            except (RefusedError, TransientError) as exc:
                if isinstance(exc, SignInError) or exc.status not in FILTER_REFUSALS:
                    _raise_unless_forbidden(exc)
                    return None
            else:
                self._look_for_blindness(swept, form)
                return swept
            self._useless_until[form] = math.inf
        return None

    def _form(self, count: int) -> int | None:
        """Return the number of the best form that may be of use; None if there is none."""
        now = time.monotonic()
        form = next((n for n in range(count) if self._useless_until.get(n, now) <= now), None)
        if form is None:
            self._off_until = min(self._useless_until.values())
        return form

    def _read(
        self, reader: _Reader, scopes: Mapping[str, Collection[str]], form: int, due: Set[str] | None
    ) -> None:
        for scope, wanted in scopes.items():
            if scope in reader.done or (due is not None and due.isdisjoint(wanted)):
                continue
            if len(wanted) > JOBS_PER_PAGE * self._pages_of(scope):
                pages = reader.read(scope, wanted, form)
                self._failures = 0.0
                self._pages[scope] = pages, time.monotonic() + MEMORY

    def _pages_of(self, scope: str) -> float:
        pages, until = self._pages.get(scope, (1, math.inf))
        return pages if time.monotonic() < until else 1

    def _look_for_blindness(self, swept: Swept, form: int) -> None:
        """Give up a form that shows nothing: a service may let a filter pass that it does not understand."""
        if len(swept.answered) > JOBS_PER_PAGE:
            self._blind = self._blind + 1 if swept.missing == swept.answered else 0
        if self._blind >= _BLIND:
            self._blind = 0
            self._useless_until[form] = time.monotonic() + MEMORY

    def failed(self, *, is_alone: bool, seconds: float = 0.0) -> None:
        """Learn from a sweep that has failed.

        :param is_alone: whether single fetches were answered right after it, so it is the list that fails
        :param seconds: how long the failure took to come
        """
        self._failures = self._failures + 1 + seconds / _SECONDS_A_FAILURE if is_alone else 0.0
        if self._failures >= _MAX_FAILURES:
            self._failures = 0.0
            self._off_until = time.monotonic() + MEMORY


class _Reader:
    """Reads the lists of one sweep.

    :param swept: takes what is found
    :param retries: for the first page, and for the others
    """

    def __init__(
        self,
        service: MediaService,
        swept: Swept,
        is_news: IsNews,
        retries: tuple[Retries | None, Retries | None],
    ) -> None:
        self._service = service
        self._swept = swept
        self._is_news = is_news
        self._retries = retries
        self._has_answer = False
        self.done: set[str] = set()
        """The lists that have been read."""

    def read(self, scope: str, wanted: Collection[str], form: int) -> int:
        """Read a list until all wanted were seen, or it is too long to pay; return how many pages."""
        queries, cursor, pages = [*self._service.sweep_forms[form]], None, 0
        # The service's own spelling may be another.
        known = {job_id.casefold(): job_id for job_id in wanted}
        seen: set[str] = set()

        def is_news(job_id: str, state: JobState, progress: float | None) -> bool:
            return self._is_news(known.get(job_id.casefold(), job_id), state, progress)

        while queries and not (len(seen) >= len(known) and seen.issuperset(known.values())):
            if pages * JOBS_PER_PAGE > max(len(wanted), JOBS_PER_PAGE):
                self._note(seen, seen.intersection(wanted))
                return pages
            page = self._service.sweep_page(
                scope, queries[0], cursor, is_news, retries=self._retries[self._has_answer]
            )
            self._has_answer = True
            seen.update(known.get(job_id.casefold(), job_id) for job_id in page.ids)
            self._swept.news += [_known_as(job, known) for job in page.news]
            pages, cursor = pages + 1, page.cursor
            if cursor is None:
                queries.pop(0)
        self._note(seen, wanted)
        self.done.add(scope)
        return pages

    def _note(self, seen: set[str], answered: Collection[str]) -> None:
        self._swept.seen |= seen
        self._swept.answered.update(answered)
        self._swept.missing.update(job_id for job_id in answered if job_id not in seen)


def _known_as(job: Job, known: Mapping[str, str]) -> Job:
    job_id = known.get(job.id.casefold(), job.id)
    return job if job_id == job.id else replace(job, id=job_id)


def _raise_unless_forbidden(exc: RefusedError | TransientError) -> None:
    """Say what is wrong with more than the list, unless it may be the list alone that we must not read."""
    if isinstance(exc, SignInError) or exc.status in (None, HTTPStatus.UNAUTHORIZED):
        raise exc
    if isinstance(exc, TransientError):
        raise exc
    if exc.status != HTTPStatus.FORBIDDEN:
        raise exc.passing() from exc
