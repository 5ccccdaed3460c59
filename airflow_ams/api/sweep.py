"""Learns where many jobs stand in a few requests: lists the active ones, as the service allows it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow_ams.api.errors import RefusedError, SignInError, TransientError
from airflow_ams.api.model import Job, JobState

if TYPE_CHECKING:
    from airflow_ams.api import MediaService
    from airflow_ams.api.retries import Retries

JOBS_PER_PAGE = 8
"""Jobs that must wait for each page of a sweep before it pays.

A page of a thousand jobs was measured to cost the client 4 ms of CPU, or 8 ms without ``$select``, and a
single fetch 1.4 ms. A page costs the service more than that, so there is a margin.
"""

MEMORY = 600.0
"""Seconds for which it is remembered that an account is crowded, or that sweeps fail."""

_MAX_FAILURES = 5
_SECONDS_A_FAILURE = 10.0
_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_IMPLEMENTED)

IsNews = Callable[[str, JobState], bool]


@dataclass
class Swept:
    """What a sweep found.

    :param began: when the first page was asked for, on a clock that only goes forward
    :param seen: the ids of the active jobs
    :param missing: of those that were looked for, the ids that are not among them
    :param news: the jobs that it was asked to look at
    :param is_complete: whether every job that was looked for is in `seen`, or is not active; if not, the
        account is crowded, and the sweep was given up
    """

    began: float
    seen: set[str] = field(default_factory=set)
    missing: frozenset[str] = frozenset()
    news: list[Job] = field(default_factory=list)
    is_complete: bool = False


class Sweep:
    """Lists the active jobs, and knows when that pays.

    A sweep pays when more than `JOBS_PER_PAGE` jobs wait for each of its pages. It is made by the best form
    that the service takes; a form that was refused is not tried again. After one that is longer than it pays,
    or five failures in a row while single fetches were answered (one that takes long counts for more), none
    is tried for `MEMORY` seconds.
    """

    def __init__(self) -> None:
        self._refused = 0
        self._failures = 0.0
        self._pages: float = 1
        self._known_until = -math.inf

    def pays(self, waiting: int) -> bool:
        """Whether a sweep is better than a fetch of each waiting job, as far as is known."""
        pages = self._pages if time.monotonic() < self._known_until else 1
        return waiting > JOBS_PER_PAGE * pages

    def read(
        self,
        service: MediaService,
        wanted: Collection[str],
        is_news: IsNews,
        *,
        retries: Retries | None = None,
        later: Retries | None = None,
    ) -> Swept | None:
        """List the active jobs until all that are wanted were seen.

        :param wanted: ids of the jobs that somebody waits for
        :param is_news: told each job's id and state; whether to look at it
        :param retries: for the first page
        :param later: for the further ones, when the service has just answered; None: the same
        :returns: what was found, or None if the service takes no form of it, or does not let us read it
        :raises TransientError: it could not be read this time
        :raises RefusedError: it is about who asks, or about the connection
        """
        while self._refused < len(service.sweep_forms):
            try:
                return self._read(service, frozenset(wanted), is_news, (retries, later or retries))
            except (RefusedError, TransientError) as exc:
                if isinstance(exc, SignInError) or exc.status not in _REFUSALS:
                    _raise_unless_forbidden(exc)
                    return None
            self._refused += 1
        self._learn(math.inf, math.inf)
        return None

    def _read(
        self,
        service: MediaService,
        wanted: frozenset[str],
        is_news: IsNews,
        retries: tuple[Retries | None, Retries | None],
    ) -> Swept:
        swept, pages = Swept(time.monotonic()), 0
        queries, cursor = [*service.sweep_forms[self._refused]], None
        while queries and not (len(swept.seen) >= len(wanted) and wanted <= swept.seen):
            if pages * JOBS_PER_PAGE > max(len(wanted), JOBS_PER_PAGE):
                self._learn(pages, MEMORY)
                return swept
            page = service.sweep_page(queries[0], cursor, is_news, retries=retries[pages > 0])
            swept.seen |= page.ids
            swept.news += page.news
            pages, cursor, self._failures = pages + 1, page.cursor, 0.0
            if cursor is None:
                queries.pop(0)
        self._learn(pages, MEMORY)
        swept.missing = wanted - swept.seen
        swept.is_complete = True
        return swept

    def failed(self, *, is_alone: bool, seconds: float = 0.0) -> None:
        """Learn from a sweep that has failed.

        :param is_alone: whether single fetches were answered right after it, so it is the list that fails
        :param seconds: how long the failure took to come
        """
        self._failures = self._failures + 1 + seconds / _SECONDS_A_FAILURE if is_alone else 0.0
        if self._failures >= _MAX_FAILURES:
            self._learn(math.inf, MEMORY)

    def _learn(self, pages: float, seconds: float) -> None:
        self._failures = 0.0
        self._pages = pages
        self._known_until = time.monotonic() + seconds


def _raise_unless_forbidden(exc: RefusedError | TransientError) -> None:
    """Say what is wrong with more than the list, unless it may be the list alone that we must not read."""
    if isinstance(exc, SignInError) or exc.status in (None, HTTPStatus.UNAUTHORIZED):
        raise exc
    if isinstance(exc, TransientError):
        raise exc
    if exc.status != HTTPStatus.FORBIDDEN:
        raise exc.passing() from exc
