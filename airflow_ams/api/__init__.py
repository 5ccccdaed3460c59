"""Speaks to media services over HTTP; imports no Airflow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from airflow_ams.api.model import Job, JobOutput, JobState, OutputFile
    from airflow_ams.api.retries import Retries
    from airflow_ams.api.submission import Attempt


IsNews: TypeAlias = "Callable[[str, JobState, float | None], bool]"
"""Told an active job's id, state and, where the list has it, percent: whether to make a `Job` of it.

That costs ten times as much as reading these.
"""


class SweepPage(NamedTuple):
    """One page of a list of the active jobs.

    :param ids: of all the active jobs on it
    :param news: the jobs on it that somebody asked to hear of
    :param cursor: of the page after it; None: it is the last
    """

    ids: set[str]
    news: list[Job]
    cursor: str | None


class MediaService(Protocol):
    """What every dialect can do.

    Every method raises `airflow_ams.api.errors.ServiceError`, or one of its kinds, and nothing else of the
    wire's.
    """

    @property
    def requests(self) -> int:
        """How many requests were sent, without sign-ins."""

    @property
    def sweep_forms(self) -> Sequence[tuple[str, ...]]:
        """The ways to list the active jobs, best first, each by one query or more; some may be refused."""

    @property
    def lists_progress(self) -> bool:
        """Whether the list tells each job's percent; if not, that takes a request of its own."""

    def sweep_scopes(self, wanted: Collection[str]) -> Mapping[str, Collection[str]]:
        """Say in which lists jobs would be: by a list's name, empty if it is the only one, the jobs in it."""

    def sweep_page(
        self, scope: str, query: str, cursor: str | None, is_news: IsNews, *, retries: Retries | None = None
    ) -> SweepPage:
        """Read one page of a query of one list; `is_news` picks the jobs worth more than a glance."""

    def job_id(self, text: str) -> str:
        """Return the id as the service writes it; raise `MalformedIdError` if it cannot be one."""

    def get_job(self, job_id: str, *, retries: Retries | None = None) -> Job:
        """Read one job with one request; raise `JobNotFoundError` if there is none."""

    def poll_job(self, job_id: str, last: Job | None, *, retries: Retries | None = None) -> Job:
        """Read where a job stands, as cheaply as the service can say it; `last` is the reading before."""

    def with_tasks(self, job: Job, *, retries: Retries | None = None) -> Job:
        """Return the job with its tasks, percent and errors, reading them if its own document lacks them."""

    def with_outputs(self, job: Job, *, retries: Retries | None = None) -> Job:
        """Return the job with its outputs, reading them if its own document lacks them."""

    def iter_jobs(
        self,
        *,
        states: frozenset[JobState] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Job]:
        """Yield jobs in these states, created in this span, page after page."""

    def submit_job(self, spec: Mapping[str, Any]) -> Job:
        """Create a job; raise `UncertainError` if the answer was lost."""

    def check_spec(self, spec: Mapping[str, Any]) -> None:
        """Raise `RefusedError` if no job can be made of a spec, as far as is known without asking."""

    def submit_as(self, spec: Mapping[str, Any], mark: str, number: int) -> Job:
        """Create a job whose name ends in mark and number; where names are unique, return the one there is.

        Raises `UncertainError` if the answer was lost. After that, and after `TransientError`, look before
        creating again.
        """

    def find_attempt(self, spec: Mapping[str, Any], mark: str, number: int) -> Attempt | None:
        """Find the job of a mark that has the highest number; `number` is the next one's, as far as known."""

    def cancel_job(self, job_id: str, *, retries: Retries | None = None) -> None:
        """Ask for a job to be canceled; raise `RefusedError` if it is final already."""

    def delete_job(self, job_id: str) -> None:
        """Delete the record of a job that has ended."""

    def set_priority(self, job_id: str, priority: int | str) -> None:
        """Change the priority of a job that is still queued; of numbers, larger runs first."""

    def get_outputs(self, job_id: str) -> tuple[JobOutput, ...]:
        """List the assets that a job writes."""

    def get_output_files(self, asset_id: str) -> tuple[OutputFile, ...]:
        """List the files of one asset."""

    def check(self) -> str:
        """Prove with one read that token and permission are good; return a sentence that says so."""

    def close(self) -> None:
        """Let go of the connection."""
