"""The AMS v2 dialect: OData over REST, as Azure Media Services spoke it until June 2024."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from airflow_ams.api import IsNews, SweepPage
from airflow_ams.api.errors import (
    FILTER_REFUSALS,
    JobNotFoundError,
    RefusedError,
    SignInError,
    TransientError,
    explain_refused_cancel,
)
from airflow_ams.api.model import Job, JobOutput, JobState, OutputFile, mean_progress
from airflow_ams.api.retries import NO_RETRIES, Retries
from airflow_ams.api.submission import Attempt, last_by_number, last_of, marked, number_in
from airflow_ams.api.times import utc
from airflow_ams.api.transport import Transport
from airflow_ams.api.v2_document import (
    STATES,
    job_of,
    number_of,
    output_of,
    read_created,
    read_page,
    state_of,
    task_of,
)
from airflow_ams.api.v2_ids import is_id, known_case, known_id
from airflow_ams.api.v2_spec import MAX_NAME, is_document, name_key, read_spec
from airflow_ams.api.wire import Answer

DEFAULT_BASE = "https://media.windows.net/api/"
DEFAULT_API_VERSION = "2.19"
PAGE = 1000
"""Rows that the service answers with at most, whatever ``$top`` says ("Quotas and limitations")."""

ADVICE = {
    400: ". The request or its x-ms-version is not one that it takes (extra.api_version)",
    401: (
        ". It does not accept the token: look at the connection's login and password; a service principal "
        "also needs the Contributor role on the media account"
    ),
    403: ". The account is disabled or over its quota, or this identity may not do that",
}
"""What to do about a status."""


def _sweep_form(is_split: bool, is_ordered: bool, is_reduced: bool) -> tuple[str, ...]:
    split = ("State eq 0", "State eq 1", "State eq 2", "State eq 6")
    filters = split if is_split else ("State le 2 or State eq 6",)
    order = "&$orderby=Created" if is_ordered else ""
    fields = "&$select=Id,Name,State,Created" if is_reduced else ""
    return tuple(f"$filter={quote(text)}{order}{fields}" for text in filters)


_SWEEP_FORMS = tuple(
    _sweep_form(is_split, is_ordered, is_reduced)
    for is_split in (False, True)
    for is_ordered in (True, False)
    for is_reduced in (True, False)
)


def request_headers(api_version: str = DEFAULT_API_VERSION) -> dict[str, str]:
    """Return the headers of every request ("Check job progress", 2015); a write overrides the first."""
    return {
        "DataServiceVersion": "1.0;NetFx",
        "MaxDataServiceVersion": "3.0;NetFx",
        "Accept": "application/json",
        "Accept-Charset": "UTF-8",
        "x-ms-version": api_version,
    }


class V2Service:
    """Jobs of an AMS v2 account; see `airflow_ams.api.MediaService` for what each method promises.

    :param transport: the conversation to have it on
    """

    lists_progress = False

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._processors: dict[str, str] = {}

    @property
    def requests(self) -> int:
        """How many requests were sent, without sign-ins."""
        return self._transport.requests

    @property
    def sweep_forms(self) -> Sequence[tuple[str, ...]]:
        """The ways to list the active jobs, best first.

        That a filter on State takes ``le`` and ``or``, and that Jobs can be sorted and reduced, is known of
        OData v3 only, not of this service.
        """
        return _SWEEP_FORMS

    def job_id(self, text: str) -> str:
        """Return a job id as the service writes it; one pasted from a URL or in other case is understood.

        :raises MalformedIdError: it is no v2 job id; nothing that is could change a filter or a path
        """
        return known_id(text, "jid", "job_id")

    def get_job(self, job_id: str, *, retries: Retries | None = None) -> Job:
        """Read one job by the founding call, one request."""
        job_id = self.job_id(job_id)
        rows = self._read(f"Jobs()?$filter=Id%20eq%20{_literal(job_id)}&$top=1", retries=retries)
        if not rows:
            raise JobNotFoundError(f"The service has no job {job_id}")
        if known_case(rows[0]["Id"]) != job_id:
            # As from a gateway that drops the query; another job's end must not be taken for this one's.
            raise TransientError(f"The service answered with another job than {job_id}")
        return job_of(rows[0])

    def poll_job(self, job_id: str, last: Job | None, *, retries: Retries | None = None) -> Job:
        """Read where a job stands."""
        return self.get_job(job_id, retries=retries)

    def with_tasks(self, job: Job, *, retries: Retries | None = None) -> Job:
        """Read the job's tasks, which hold its percent and its errors; one request."""
        rows = self._read(f"Jobs({_literal(job.id)})/Tasks", retries=retries)
        tasks = tuple(task_of(row, n) for n, row in enumerate(rows, 1))
        return replace(
            job,
            tasks=tasks,
            errors=tuple(error for task in tasks for error in task.errors),
            progress=job.progress
            if job.state is JobState.FINISHED
            else mean_progress([task.progress for task in tasks]),
        )

    def with_outputs(self, job: Job, *, retries: Retries | None = None) -> Job:
        """Read the job's output assets; one request."""
        rows = self._read(f"Jobs({_literal(job.id)})/OutputMediaAssets", retries=retries)
        return replace(job, outputs=tuple(output_of(row) for row in rows))

    def iter_jobs(
        self,
        *,
        states: frozenset[JobState] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Job]:
        """Yield jobs, oldest first, in pages of a thousand.

        Rows can move from page to page while they are read; a job that comes twice is yielded once.

        :param since: jobs created then or later; aware
        :param until: jobs created before then; aware
        """
        clauses = []
        if states is not None:
            if JobState.UNKNOWN in states:
                raise ValueError("The service has no number for JobState.UNKNOWN, so it cannot be asked for")
            numbers = sorted(STATES.index(state) for state in states)
            clauses.append("(" + " or ".join(f"State eq {number}" for number in numbers) + ")")
        if since is not None:
            clauses.append(f"Created ge {_datetime_literal(since)}")
        if until is not None:
            clauses.append(f"Created lt {_datetime_literal(until)}")
        if states is not None and not states:
            return
        query = f"$filter={quote(' and '.join(clauses), safe='')}&" if clauses else ""
        seen: set[str] = set()
        for rows in self._pages(f"{query}$orderby=Created"):
            for job in map(job_of, rows):
                if job.id not in seen:
                    seen.add(job.id)
                    yield job

    def sweep_scopes(self, wanted: Collection[str]) -> Mapping[str, Collection[str]]:
        """Say in which lists jobs would be: all in the account's."""
        return {"": wanted}

    def sweep_page(
        self, scope: str, query: str, cursor: str | None, is_news: IsNews, *, retries: Retries | None = None
    ) -> SweepPage:
        """Read one page of the active jobs with one request.

        :param query: one of those of a form of `sweep_forms`
        :param cursor: of the page; None: it is the first
        """
        rows, skip = self._rows(query, int(cursor or 0), retries)
        ids: set[str] = set()
        news = []
        for row in rows:
            job_id, state = known_case(row["Id"]), state_of(row.get("State"))
            if state.is_final:
                # Its errors and outputs are not here; nor should it be.
                continue
            ids.add(job_id)
            if is_news(job_id, state, None):
                news.append(job_of(row))
        return SweepPage(ids, news, None if skip is None else str(skip))

    def submit_job(self, spec: Mapping[str, Any]) -> Job:
        """Create a job with one POST.

        :param spec: `airflow_ams.api.v2_spec` says what it holds
        :returns: the job as the service echoes it
        :raises RefusedError: the spec lacks something, no such processor, or the service refuses it
        :raises UncertainError: the answer was lost
        """
        return self._create_job(*self._read_spec(spec))

    def check_spec(self, spec: Mapping[str, Any]) -> None:
        """Raise RefusedError if no job can be made of a spec, as far as is known without asking."""
        read_spec(spec)

    def submit_as(self, spec: Mapping[str, Any], mark: str, number: int) -> Job:
        """Create a job with a mark and a number at the end of its name.

        :raises TransientError: the service has trouble. Not even a 503 is followed by another POST: a gateway
            may have sent it after the service has made the job, so look before creating again
        """
        key = name_key(spec)
        named = {**spec, key: marked(str(spec.get(key) or ""), mark, number, MAX_NAME)}
        return self._create_job(*self._read_spec(named), retries=NO_RETRIES)

    def find_attempt(self, spec: Mapping[str, Any], mark: str, number: int) -> Attempt | None:
        """Find the last job of a mark, with one request if the service takes ``startswith``."""
        begin = marked(str(spec.get(name_key(spec)) or ""), mark, "", MAX_NAME)
        try:
            return last_of(self._attempts(f"startswith(Name,{_literal(begin)})", mark))
        except (RefusedError, TransientError) as exc:
            if isinstance(exc, SignInError) or exc.status not in FILTER_REFUSALS:
                raise

        def read(n: int) -> Attempt | None:
            made = self._attempts(f"Name%20eq%20{_literal(f'{begin}{n}')}", mark)
            return last_of(one for one in made if one.number == n)

        return last_by_number(read, number)

    def _attempts(self, clause: str, mark: str) -> Iterator[Attempt]:
        """Yield the jobs of a mark on a list."""
        for rows in self._pages(f"$filter={clause}&$orderby=Created"):
            for job in map(job_of, rows):
                if (number := number_in(job.name, mark)) is not None:
                    yield Attempt(number, job)

    def cancel_job(self, job_id: str, *, retries: Retries | None = None) -> None:
        """Ask for a job to be canceled; asking again while it is Canceling, or Canceled, is no error.

        :raises RefusedError: it has ended otherwise
        """
        job_id = self.job_id(job_id)
        try:
            self._transport.send("GET", f"CancelJob?jobid={_literal(job_id)}", _nothing, retries=retries)
        except RefusedError as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                raise JobNotFoundError(f"The service has no job {job_id}") from exc
            if exc.status != HTTPStatus.BAD_REQUEST:
                raise
            # The service answers 400 for a job that is final or on its way, which a repeated call finds too.
            explain_refused_cancel(exc, job_id, self.get_job(job_id, retries=retries).state)

    def delete_job(self, job_id: str) -> None:
        """Delete the record of a job that has ended; its output assets stay.

        :raises JobNotFoundError: there is none (any more)
        """
        self._write("DELETE", job_id)

    def set_priority(self, job_id: str, priority: int | str) -> None:
        """Change the priority of a job that is still Queued.

        :raises RefusedError: it is no number
        """
        if not isinstance(priority, int):
            raise RefusedError(f"The priority {priority!r} is no whole number, which the v2 API wants")
        self._write("MERGE", job_id, {"Priority": priority})

    def get_outputs(self, job_id: str) -> tuple[JobOutput, ...]:
        """List the assets that a job writes; they exist from its creation."""
        job_id = self.job_id(job_id)
        try:
            return tuple(output_of(row) for row in self._read(f"Jobs({_literal(job_id)})/OutputMediaAssets"))
        except RefusedError as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                raise JobNotFoundError(f"The service has no job {job_id}") from exc
            raise

    def get_output_files(self, asset_id: str) -> tuple[OutputFile, ...]:
        """List the files of an asset."""
        asset_id = known_id(asset_id, "cid", "asset_id")
        return tuple(
            OutputFile(
                name=str(row.get("Name") or ""),
                size=int(number_of(row["ContentFileSize"]))
                if row.get("ContentFileSize") is not None
                else None,
                mime_type=str(row["MimeType"]) if row.get("MimeType") is not None else None,
                is_primary=bool(row.get("IsPrimary")),
            )
            for row in self._read(f"Assets({_literal(asset_id)})/Files")
        )

    def check(self) -> str:
        """Read one job, whichever; that needs a good token and the right to read."""
        count = len(self._read("Jobs()?$top=1"))
        found = "and there is at least one job" if count else "and there is no job yet"
        return f"{self._transport.base_url} accepts the token and lets it read jobs, {found}"

    def close(self) -> None:
        """Close the session's connections."""
        self._transport.close()

    def _read(self, path: str, *, retries: Retries | None = None) -> list[dict[str, Any]]:
        return self._transport.send("GET", path, read_page, retries=retries)[0]

    def _read_spec(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the document to create a job with, processors by id, and the ids of its input assets."""
        document, inputs = read_spec(spec)
        if not is_document(spec):
            for task in document["Tasks"]:
                task["MediaProcessorId"] = self._processor_id(task["MediaProcessorId"])
        return document, inputs

    def _create_job(
        self, document: Mapping[str, Any], inputs: Sequence[str], *, retries: Retries | None = None
    ) -> Job:
        def body(base: str) -> Mapping[str, Any]:
            links = [f"{base}Assets({_literal(asset_id)})" for asset_id in inputs]
            return {**document, "InputMediaAssets@odata.bind": links} if links else document

        verbose = any("__metadata" in asset for asset in document.get("InputMediaAssets") or ())
        headers = {
            "DataServiceVersion": "3.0",
            "Content-Type": "application/json;odata=verbose" if verbose else "application/json",
        }
        try:
            return self._transport.send(
                "POST", "Jobs", read_created, body=body, headers=headers, create=True, retries=retries
            )
        except RefusedError as exc:
            if exc.status != HTTPStatus.NOT_FOUND or not inputs:
                raise
            asked = f"It was asked for a job on input_asset_ids {', '.join(inputs)}"
            raise exc.saying(f"{exc.message}. {asked}") from exc

    def _pages(self, query: str) -> Iterator[list[dict[str, Any]]]:
        skip: int | None = 0
        while skip is not None:
            rows, skip = self._rows(query, skip)
            yield rows

    def _rows(
        self, query: str, skip: int, retries: Retries | None = None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Read one page of jobs; return it, and how many to skip for the next, None if there is none."""
        path = f"Jobs()?{query}&$top={PAGE}&$skip={skip}"
        rows, has_next = self._transport.send("GET", path, read_page, retries=retries)
        is_last = not rows or (len(rows) < PAGE and not has_next)
        return rows, None if is_last else skip + len(rows)

    def _write(self, method: str, job_id: str, document: Mapping[str, Any] | None = None) -> None:
        job_id = self.job_id(job_id)
        try:
            self._transport.send(
                method,
                f"Jobs({_literal(job_id)})",
                _nothing,
                body=(lambda _: document) if document else None,
                headers={"Content-Type": "application/json"} if document else None,
            )
        except RefusedError as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                raise JobNotFoundError(f"The service has no job {job_id}") from exc
            raise

    def _processor_id(self, processor: str) -> str:
        if is_id(processor):
            return known_id(processor, "mpid", "processor")
        if processor not in self._processors:
            rows = self._read(f"MediaProcessors()?$filter=Name%20eq%20{_literal(processor)}")
            if not rows:
                raise RefusedError(f"The account has no media processor '{processor}'")
            newest = max(rows, key=lambda row: [int(n) for n in re.findall(r"\d+", str(row.get("Version")))])
            self._processors[processor] = str(newest["Id"])
        return self._processors[processor]


def _literal(text: str) -> str:
    """Write an OData string literal for a URL: inner quotes doubled, all else percent-encoded."""
    return "'" + quote(text.replace("'", "''"), safe="") + "'"


def _datetime_literal(moment: datetime) -> str:
    return f"datetime'{utc(moment).strftime('%Y-%m-%dT%H:%M:%S.%f')}'"


def _nothing(_: Answer) -> None:
    """Read nothing out of an answer that has nothing to say."""
