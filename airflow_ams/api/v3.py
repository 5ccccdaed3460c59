"""What AMS v3 (ARM), Ravnur RMS and MediaKind MK.IO share: the job, its names, and the verbs on it.

Microsoft's REST reference ("Jobs", 2022-07-01) is where the shape comes from; what MK.IO does otherwise is in
`airflow_ams.api.mkio`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

from airflow_ams.api import IsNews, SweepPage
from airflow_ams.api.errors import (
    FILTER_REFUSALS,
    JobNotFoundError,
    MalformedIdError,
    RefusedError,
    ServiceError,
    SignInError,
    TransientError,
    UncertainError,
    explain_refused_cancel,
)
from airflow_ams.api.model import Job, JobOutput, JobState, OutputFile
from airflow_ams.api.retries import Retries
from airflow_ams.api.submission import Attempt, last_by_number, marked
from airflow_ams.api.transport import Transport
from airflow_ams.api.v3_document import job_of, progress_of, state_of
from airflow_ams.api.v3_lists import Row, literal_time, read_list
from airflow_ams.api.v3_spec import BAD_NAME, MAX_NAME, read_spec, writes_as_asked
from airflow_ams.api.wire import Answer

_JOB = re.compile(r"([^/]+)/([^/]+)")
_PATH = re.compile(r"(?:.*/)?transforms/([^/]+)/jobs/([^/]+)", re.IGNORECASE | re.DOTALL)
_V2_ID = re.compile(r"nb:[a-z]+:uuid:", re.IGNORECASE)

JSON_BODY = {"Content-Type": "application/json"}


class V3Service(ABC):
    """Jobs of an account with transforms; see `airflow_ams.api.MediaService` for what each method promises.

    A job's id is ``transform/job``. Services do not tell names by their case; requests keep the given one.

    :param transport: the conversation to have it on
    """

    api: str
    """The connection's ``extra.api``, for messages."""

    lists_progress = True

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # -- what differs

    @abstractmethod
    def _address(self, path: str, *query: str) -> str:
        """Return the path of a request, given what is below the account and the parts of its query."""

    @abstractmethod
    def _check_owner(self, text: str) -> None:
        """Raise MalformedIdError if the full id of a job is of another account than the connection's."""

    @abstractmethod
    def _not_found(self, exc: RefusedError, job_id: str) -> Exception:
        """Say what a 404 in the service's own words means for a job."""

    @property
    @abstractmethod
    def sweep_forms(self) -> Sequence[tuple[str, ...]]:
        """The ways to list the active jobs, best first."""

    @abstractmethod
    def sweep_scopes(self, wanted: Collection[str]) -> Mapping[str, Collection[str]]:
        """Say in which lists jobs would be: by what is below the account, the jobs looked for in it."""

    @abstractmethod
    def _id_of(self, scope: str, row: Row) -> str | None:
        """Return the id of a job on the list of a scope; None if the list does not tell."""

    @abstractmethod
    def _literal(self, state: JobState) -> str:
        """Write a state for a filter."""

    @abstractmethod
    def _deleted(self, job_id: str, answer: Answer) -> None:
        """Read the answer to a delete."""

    @abstractmethod
    def _scopes(self) -> Iterator[str]:
        """Yield the lists in which all jobs of the account are."""

    @abstractmethod
    def _prepare(self, job_id: str, outputs: Collection[str]) -> None:
        """Make what a service wants to be there before a job that writes these assets is created."""

    # -- what they share

    @property
    def requests(self) -> int:
        """How many requests were sent, without sign-ins."""
        return self._transport.requests

    def job_id(self, text: str) -> str:
        """Return a job's id as ``transform/job``; a full resource id is understood.

        :raises MalformedIdError: it is neither, or of another account than the connection's
        """
        given = unquote(text).strip() if isinstance(text, str) else ""
        found = _JOB.fullmatch(given)
        if found is None and (found := _PATH.fullmatch(given)):
            self._check_owner(given)
        if found is None or any(BAD_NAME.fullmatch(name) for name in found.groups()):
            what = "is an id of the v2 API, but" if _V2_ID.match(given) else "is no job id:"
            raise MalformedIdError(
                f"job_id {str(text)[:200]!r} {what} the connection's extra.api is '{self.api}', which wants "
                "transform/job, e.g. encode-720p/clip-7, or the job's full resource id"
            )
        return f"{found[1]}/{found[2]}"

    def get_job(self, job_id: str, *, retries: Retries | None = None) -> Job:
        """Read one job, and all there is to know of it, with one request."""
        job_id = self.job_id(job_id)
        with self._speaking_of(job_id):
            read = partial(_job, job_id)
            return self._transport.send("GET", self._address(path_of(job_id)), read, retries=retries)

    def poll_job(self, job_id: str, last: Job | None, *, retries: Retries | None = None) -> Job:
        """Read where a job stands."""
        return self.get_job(job_id, retries=retries)

    def with_tasks(self, job: Job, *, retries: Retries | None = None) -> Job:
        """Return the job with its percent and errors, for which few readings need another request."""
        is_known = job.state is JobState.PROCESSING and job.progress is not None
        return job if is_known or job.outputs is not None else self.get_job(job.id, retries=retries)

    def with_outputs(self, job: Job, *, retries: Retries | None = None) -> Job:
        """Return the job with its outputs, for which few readings need another request."""
        return job if job.outputs is not None else self.get_job(job.id, retries=retries)

    def iter_jobs(
        self,
        *,
        states: frozenset[JobState] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Job]:
        """Yield jobs, page after page.

        :param since: jobs created then or later; aware
        :param until: jobs created before then; aware
        """
        if states is not None and JobState.UNKNOWN in states:
            raise ValueError("The service has no name for JobState.UNKNOWN, so it cannot be asked for")
        clauses = [self._any_of(sorted(states))] if states else []
        clauses += [f"properties/created ge {literal_time(since)}"] if since is not None else []
        clauses += [f"properties/created lt {literal_time(until)}"] if until is not None else []
        if states is not None and not states:
            return
        for scope in self._scopes():
            for job in self._listed(
                scope, f"$filter={quote(' and '.join(clauses), safe='')}" if clauses else ""
            ):
                is_early = since is not None and job.created is not None and job.created < since
                is_late = until is not None and job.created is not None and job.created >= until
                if (states is None or job.state in states) and not is_early and not is_late:
                    yield job

    def _listed(self, scope: str, query: str) -> Iterator[Job]:
        """Yield the jobs of a scope; all of them, if the service takes no such filter."""
        try:
            first = self._page(f"{scope}jobs", query)
        except (RefusedError, TransientError) as exc:
            if not query or isinstance(exc, SignInError) or exc.status not in FILTER_REFUSALS:
                raise
            first = self._page(f"{scope}jobs", "")
        for row in self._rows(f"{scope}jobs", first):
            if (job_id := self._id_of(scope, row)) is not None:
                yield job_of(row, job_id)

    def sweep_page(
        self, scope: str, query: str, cursor: str | None, is_news: IsNews, *, retries: Retries | None = None
    ) -> SweepPage:
        """Read one page of the active jobs of a scope with one request."""
        try:
            rows, after = self._page(f"{scope}jobs", query if cursor is None else cursor, retries)
        except RefusedError as exc:
            if exc.status != HTTPStatus.NOT_FOUND or not exc.code:
                raise
            # There is no such transform; what that means for its jobs, each one's own fetch tells.
            return SweepPage(set(), [], None)
        ids: set[str] = set()
        news = []
        for row in rows:
            job_id, state = self._id_of(scope, row), state_of(row)
            if job_id is None or state.is_final:
                continue
            ids.add(job_id)
            if is_news(job_id, state, progress_of(row, state)):
                news.append(job_of(row, job_id))
        return SweepPage(ids, news, after)

    def submit_job(self, spec: Mapping[str, Any]) -> Job:
        """Create a job with one PUT; the name makes it that nothing is created twice.

        :param spec: `airflow_ams.api.v3_spec` says what it holds
        :returns: the job as the service echoes it
        :raises RefusedError: the spec lacks something, there is a job of that name, or the service refuses it
        :raises UncertainError: the answer was lost, or an earlier try may have made the job of that name, and
            no such job that runs is there to be seen
        """
        job_id, document = self._prepared(spec)
        try:
            return self._create_job(job_id, document)
        except RefusedError as exc:
            if exc.status != HTTPStatus.CONFLICT:
                raise
            raise exc.saying(
                f"There is a job {job_id} already: give the new one another name. {exc.message}"
            ) from exc

    def _prepared(self, spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the id and the properties to create a job with, when its output assets are there."""
        transform, name, document = read_spec(spec)
        job_id = self.job_id(f"{transform}/{name}")
        self._prepare(
            job_id, [output["assetName"] for output in document["outputs"] if output.get("assetName")]
        )
        return job_id, document

    def _create_job(self, job_id: str, document: Mapping[str, Any]) -> Job:
        try:
            return self._transport.send(
                "PUT",
                self._address(path_of(job_id)),
                partial(_job, job_id),
                body=lambda _: {"properties": document},
                headers=JSON_BODY,
                create=True,
            )
        except UncertainError:
            with suppress(ServiceError):
                # One that has ended already, or writes to other assets, was there before.
                found = self.get_job(job_id)
                if not found.state.is_final and writes_as_asked(found, document):
                    return found
            raise
        except RefusedError as exc:
            if exc.status == HTTPStatus.NOT_FOUND and exc.code:
                raise self._no_transform(exc, job_id) from exc
            raise

    def _no_transform(self, exc: RefusedError, job_id: str) -> Exception:
        """Say what a 404 means for a job that was to be created."""
        found = self._not_found(exc, job_id)
        if isinstance(found, RefusedError):
            return found
        transform = job_id.partition("/")[0]
        return exc.saying(f"The service has no transform '{transform}' to make a job of. {exc.message}")

    def check_spec(self, spec: Mapping[str, Any]) -> None:
        """Raise RefusedError if no job can be made of a spec, as far as is known without asking."""
        transform, name, _ = read_spec(spec)
        self.job_id(f"{transform}/{name}")

    def submit_as(self, spec: Mapping[str, Any], mark: str, number: int) -> Job:
        """Create a job with a mark and a number at the end of its name; if there is one, it is that."""
        job_id, document = self._prepared(
            {**spec, "job_name": marked(str(spec["job_name"]), mark, number, MAX_NAME)}
        )
        try:
            return self._create_job(job_id, document)
        except RefusedError as exc:
            if exc.status != HTTPStatus.CONFLICT:
                raise
            try:
                return self.get_job(job_id)
            except JobNotFoundError:
                # Something else was in the way, and the service has said what.
                raise exc from None

    def find_attempt(self, spec: Mapping[str, Any], mark: str, number: int) -> Attempt | None:
        """Find the last job of a mark: one by one, since no filter for the beginning of a name is known."""

        def read(n: int) -> Attempt | None:
            name = marked(str(spec["job_name"]), mark, n, MAX_NAME)
            try:
                return Attempt(n, self.get_job(f"{spec['transform_name']}/{name}"))
            except JobNotFoundError:
                return None

        return last_by_number(read, number)

    def cancel_job(self, job_id: str, *, retries: Retries | None = None) -> None:
        """Ask for a job to be canceled; asking again while it is Canceling, or Canceled, is no error.

        :raises RefusedError: it has ended otherwise
        """
        job_id = self.job_id(job_id)
        address = self._address(f"{path_of(job_id)}/cancelJob")
        try:
            with self._speaking_of(job_id):
                self._transport.send("POST", address, nothing, retries=retries)
        except RefusedError as exc:
            if exc.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT):
                raise
            # No document says what a job that is final, or on its way, is answered with.
            explain_refused_cancel(exc, job_id, self.get_job(job_id, retries=retries).state)

    def delete_job(self, job_id: str) -> None:
        """Delete the record of a job that has ended; its output assets stay.

        :raises RefusedError: it has not ended
        """
        job_id = self.job_id(job_id)
        with self._speaking_of(job_id):
            self._transport.send("DELETE", self._address(path_of(job_id)), partial(self._deleted, job_id))

    def set_priority(self, job_id: str, priority: int | str) -> None:
        """Change the priority of a job that is still queued.

        :param priority: ``Low``, ``Normal`` or ``High``; of a number, as the v2 API has, counts the sign
        :raises RefusedError: it is on MK.IO, where a change has to repeat input and outputs, and reads from
            an http address, of which MK.IO does not tell all
        """
        job_id = self.job_id(job_id)
        document = {"properties": self._changed(job_id, {"priority": _priority(priority)})}
        with self._speaking_of(job_id):
            self._transport.send(
                "PATCH",
                self._address(path_of(job_id)),
                nothing,
                body=lambda _: document,
                headers=JSON_BODY,
            )

    def _changed(self, job_id: str, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what to send to change a job."""
        return properties

    def get_outputs(self, job_id: str) -> tuple[JobOutput, ...]:
        """List the assets that a job writes."""
        return self.get_job(job_id).outputs or ()

    def get_output_files(self, asset_id: str) -> tuple[OutputFile, ...]:
        """List the files of an asset: not by this API.

        :raises RefusedError: always
        """
        raise RefusedError(
            f"The API '{self.api}' lists no files: look into the storage container of asset '{asset_id}'"
        )

    def close(self) -> None:
        """Close the session's connections."""
        self._transport.close()

    # -- requests

    @contextmanager
    def _speaking_of(self, job_id: str) -> Iterator[None]:
        """Say of a 404 in the service's own words what is not there; a gateway's is left as it is."""
        try:
            yield
        except RefusedError as exc:
            if exc.status == HTTPStatus.NOT_FOUND and exc.code:
                raise self._not_found(exc, job_id) from exc
            raise

    def _page(self, path: str, query: str, retries: Retries | None = None) -> tuple[list[Row], str | None]:
        """Read one page of a list; return it, and the query of the next one, None if there is none."""
        return self._transport.send("GET", self._address(path, query), read_list, retries=retries)

    def _rows(self, path: str, first: tuple[list[Row], str | None]) -> Iterator[Row]:
        """Yield what is on a page of a list and on all after it."""
        rows, cursor = first
        yield from rows
        read: set[str] = set()
        while cursor is not None and cursor not in read:
            read.add(cursor)
            rows, cursor = self._page(path, cursor)
            yield from rows

    def _any_of(self, states: Collection[JobState]) -> str:
        return "(" + " or ".join(f"properties/state eq {self._literal(state)}" for state in states) + ")"


def path_of(job_id: str) -> str:
    """Return a job's path below the account, percent-encoded."""
    transform, name = job_id.split("/")
    return f"transforms/{quote(transform, safe='')}/jobs/{quote(name, safe='')}"


def _job(job_id: str, answer: Answer) -> Job:
    document = answer.document()
    if not isinstance(document, dict) or not isinstance(document.get("properties"), dict):
        raise TransientError("The service's answer holds no job", status=answer.status)
    if str(document.get("name")).casefold() != job_id.rpartition("/")[2].casefold():
        # As from a gateway that mixes answers up; another job's end must not be taken for this one's.
        raise TransientError(f"The service answered with another job than {job_id}")
    return job_of(document, job_id)


def _priority(given: int | str) -> str:
    if isinstance(given, int):
        return "Normal" if given == 0 else "High" if given > 0 else "Low"
    if given not in ("Low", "Normal", "High"):
        raise RefusedError(f"The priority {given!r} is none of Low, Normal and High")
    return given


def nothing(_: Answer) -> None:
    """Read nothing out of an answer that has nothing to say."""
