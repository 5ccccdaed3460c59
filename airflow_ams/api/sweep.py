"""Learns where many jobs stand in a few requests: lists the active ones, as the service allows it."""

from __future__ import annotations

import time
from collections.abc import Collection, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_ams.api.errors import TransientError
from airflow_ams.api.job_list import JOBS_PER_PAGE, JobList, Listed
from airflow_ams.api.model import Job

if TYPE_CHECKING:
    from airflow_ams.api import IsNews, MediaService
    from airflow_ams.api.retries import Retries


@dataclass
class Swept:
    """What a sweep found.

    :param began: when the first page was asked for, on a clock that only goes forward
    :param lists_progress: whether the lists tell percent
    :param seen: the ids of the active jobs
    :param answered: the ids of the jobs that it looked for in vain or found; of the others nothing is known,
        since it does not pay to list them, or their list could not be read
    :param missing: those of `answered` that are not active
    :param news: the jobs that it was asked to look at
    :param trouble: why the last of the lists that could not be read was not
    """

    began: float
    lists_progress: bool
    seen: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    news: list[Job] = field(default_factory=list)
    trouble: TransientError | None = None

    def add(self, listed: Listed) -> None:
        """Take in what one list shows."""
        self.seen |= listed.seen
        self.answered |= listed.answered
        self.missing |= listed.missing
        self.news += listed.news


class Sweep:
    """Lists the active jobs, and knows when that pays.

    A service may have several lists. Each pays by itself, when more than
    `airflow_ams.api.job_list.JOBS_PER_PAGE` jobs wait for each of its pages, and fails by itself: if one
    cannot be read, the others count.
    """

    def __init__(self) -> None:
        self._lists: dict[str, JobList] = {}
        self._failed: JobList | None = None

    def pays(self, waiting: int) -> bool:
        """Whether a sweep may be better than a fetch of each waiting job, as far as is known."""
        # Of several lists, one that is not known yet may have them.
        only = self._lists.get("")
        return only.pays(waiting) if only is not None else waiting > JOBS_PER_PAGE

    def read(
        self,
        service: MediaService,
        wanted: Collection[str],
        is_news: IsNews,
        *,
        due: Set[str] | None = None,
        first: Retries | None = None,
        later: Retries | None = None,
    ) -> Swept:
        """List the active jobs until all that are wanted were seen.

        :param wanted: ids of the jobs that somebody waits for; services do not tell them by case
        :param is_news: told each job's id, state and percent; whether to look at it
        :param due: those of them that are to be read now, None: all; a list in which none is, is left out
        :param first: for the first page of each list
        :param later: for the further ones, when the service has just answered; None: the same
        :returns: what was found
        :raises TransientError: the first list could not be read this time
        :raises RefusedError: it is about who asks, or about the connection
        """
        swept = Swept(time.monotonic(), service.lists_progress)
        self._failed = None
        scopes = service.sweep_scopes(wanted)
        lists = [self._lists.setdefault(scope, JobList(scope)) for scope in scopes]
        # A list that fails comes last, when it is known that the others do not.
        for job_list in sorted(lists, key=lambda one: one.failures):
            ids = scopes[job_list.name]
            if (due is not None and due.isdisjoint(ids)) or not job_list.pays(len(ids)):
                continue
            began = time.monotonic()
            try:
                listed = job_list.read(service, ids, is_news, first=first, later=later or first)
            except TransientError as exc:
                if not swept.answered:
                    self._failed = job_list
                    raise
                job_list.failed(time.monotonic() - began)
                swept.trouble = exc
                if exc.retry_after:
                    break
            else:
                swept.add(listed or Listed())
        return swept

    def failed(self, *, is_alone: bool, seconds: float = 0.0) -> None:
        """Learn from a sweep that has failed.

        :param is_alone: whether single fetches were answered right after it, so it is the list that fails
        :param seconds: how long the failure took to come
        """
        if self._failed is None:
            return
        if is_alone:
            self._failed.failed(seconds)
        else:
            self._failed.failures = 0.0
