"""An account whose lists are swept, on a stubbed network."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from airflow_ams.api import MediaService
from airflow_ams.api.job_list import JOBS_PER_PAGE
from airflow_ams.api.model import JobState
from airflow_ams.api.sweep import Sweep, Swept
from airflow_ams.api.wire import Answer
from tests.unit.v3_stub import Dialect, Wire, answer, job, page

MANY = JOBS_PER_PAGE + 1
"""The fewest jobs whose list pays."""


class Account:
    """An account whose lists are what a test says.

    :param jobs: the active jobs, by transform
    :param size: jobs on a page
    :param refuse: given the query, the answer that refuses it, or None

    `fetched` is the state of each job that is fetched by itself, or the answer.
    """

    fetched: str | Answer = "Processing"

    def __init__(
        self,
        dialect: Dialect,
        jobs: dict[str, list[str]],
        *,
        size: int = 1000,
        refuse: Callable[[str], Answer | None] = lambda query: None,
    ) -> None:
        self.dialect, self.jobs, self.size, self.refuse = dialect, jobs, size, refuse
        self.refuse_list: Callable[[str], Answer | None] = lambda path: None
        self.service: MediaService
        self.wire: Wire
        self.service, self.wire = dialect.speak(by=self._answer)
        self.looked_at: list[tuple[str, JobState, float | None]] = []

    @property
    def lists(self) -> list[str]:
        """What lists were read, page for page, by what is below the account."""
        return [path for path, _ in self._targets if path.endswith("jobs")]

    @property
    def singles(self) -> list[str]:
        """What jobs were fetched."""
        return [path for path, _ in self._targets if not path.endswith("jobs")]

    @property
    def queries(self) -> list[str]:
        """The queries of the requests for lists, without the version."""
        found = [query for path, query in self._targets if path.endswith("jobs")]
        return [query.removeprefix("api-version=2022-07-01&") for query in found]

    @property
    def _targets(self) -> list[tuple[str, str]]:
        targets = (url.removeprefix(self.dialect.root).partition("?") for _, url in self.wire.requests)
        return [(unquote(path), unquote(query)) for path, _, query in targets]

    def sweep(
        self, sweep: Sweep, wanted: list[str], news: Callable[[str], bool] = lambda job_id: False
    ) -> Swept:
        """Sweep, and note what is looked at."""
        self.looked_at = []

        def is_news(job_id: str, state: JobState, progress: float | None) -> bool:
            self.looked_at.append((job_id, state, progress))
            return news(job_id)

        return sweep.read(self.service, wanted, is_news)

    def _answer(self, method: str, url: str) -> Answer:
        assert method == "GET"
        path, _, query = url.partition("?")
        if not path.endswith("/jobs"):
            if isinstance(self.fetched, Answer):
                return self.fetched
            return answer(document=job(path.rpartition("/")[2], self.fetched))
        if refused := self.refuse_list(path.removeprefix(self.dialect.root)) or self.refuse(unquote(query)):
            return refused
        transform = unquote(path.split("/transforms/")[1].split("/")[0]) if self.dialect.is_arm else None
        rows = [
            job(name, transform=of, outputs=[{"progress": 40}])
            for of, names in self.jobs.items()
            for name in names
            if transform is None or transform.casefold() == of.casefold()
        ]
        start = int(query.partition("skiptoken=")[2] or 0)
        following = start + self.size
        return page(
            *rows[start:following], link=f"?$skiptoken={following}" if following < len(rows) else None
        )


def ids(transform: str, count: int, first: int = 0) -> list[str]:
    """Name some jobs of a transform."""
    return [f"{transform}/job-{number}" for number in range(first, first + count)]


def names(count: int, first: int = 0) -> list[str]:
    """Name these jobs as their transform does."""
    return [job_id.partition("/")[2] for job_id in ids("t", count, first)]
