"""The AMS v2 dialect: OData over REST, as Azure Media Services spoke it until June 2024."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from airflow_ams.api import IsNews, SweepPage
from airflow_ams.api.errors import (
    JobNotFoundError,
    MalformedIdError,
    RefusedError,
    TransientError,
    explain_refused_cancel,
)
from airflow_ams.api.model import (
    Job,
    JobError,
    JobOutput,
    JobState,
    JobTask,
    OutputFile,
    mean_progress,
    without_query,
)
from airflow_ams.api.retries import Retries
from airflow_ams.api.times import time_or_none, utc
from airflow_ams.api.transport import Transport
from airflow_ams.api.wire import Answer

DEFAULT_BASE = "https://media.windows.net/api/"
DEFAULT_API_VERSION = "2.19"
PAGE = 1000
"""Rows that the service answers with at most, whatever ``$top`` says ("Quotas and limitations")."""

EXAMPLE_ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"

ADVICE = {
    400: ". The request or its x-ms-version is not one that it takes (extra.api_version)",
    401: (
        ". It does not accept the token: look at the connection's login and password; a service principal "
        "also needs the Contributor role on the media account"
    ),
    403: ". The account is disabled or over its quota, or this identity may not do that",
}
"""What to do about a status."""

_STATES = (
    JobState.QUEUED,
    JobState.SCHEDULED,
    JobState.PROCESSING,
    JobState.FINISHED,
    JobState.ERROR,
    JobState.CANCELED,
    JobState.CANCELING,
)
"""In the order of the numbers on the wire ("Job", State); a task's numbers mean the same."""

_GUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID = re.compile(rf"nb:(jid|cid|mpid):uuid:({_GUID})", re.IGNORECASE)


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
        return _known_id(text, "jid", "job_id", EXAMPLE_ID)

    def get_job(self, job_id: str, *, retries: Retries | None = None) -> Job:
        """Read one job by the founding call, one request."""
        job_id = self.job_id(job_id)
        rows = self._read(f"Jobs()?$filter=Id%20eq%20{_literal(job_id)}&$top=1", retries=retries)
        if not rows:
            raise JobNotFoundError(f"The service has no job {job_id}")
        if _known_case(rows[0]["Id"]) != job_id:
            # As from a gateway that drops the query; another job's end must not be taken for this one's.
            raise TransientError(f"The service answered with another job than {job_id}")
        return _job(rows[0])

    def poll_job(self, job_id: str, last: Job | None, *, retries: Retries | None = None) -> Job:
        """Read where a job stands."""
        return self.get_job(job_id, retries=retries)

    def with_tasks(self, job: Job, *, retries: Retries | None = None) -> Job:
        """Read the job's tasks, which hold its percent and its errors; one request."""
        rows = self._read(f"Jobs({_literal(job.id)})/Tasks", retries=retries)
        tasks = tuple(_task(row, n) for n, row in enumerate(rows, 1))
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
        return replace(job, outputs=tuple(_output(row) for row in rows))

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
            numbers = sorted(_STATES.index(state) for state in states)
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
            for job in map(_job, rows):
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
            job_id, state = _known_case(row["Id"]), _state(row.get("State"))
            if state.is_final:
                # Its errors and outputs are not here; nor should it be.
                continue
            ids.add(job_id)
            if is_news(job_id, state, None):
                news.append(_job(row))
        return SweepPage(ids, news, None if skip is None else str(skip))

    def submit_job(self, spec: Mapping[str, Any]) -> Job:
        """Create a job with one POST.

        :param spec: either the service's own document (with ``Tasks``), sent as it is, or::

                {
                    "name": "Encode clip",
                    "priority": 0,
                    "input_asset_ids": ["nb:cid:UUID:…"],
                    "tasks": [
                        {
                            "processor": "Media Encoder Standard",  # or its id
                            "configuration": "H264 Single Bitrate 720p",  # or a preset as a dict
                            "outputs": ["clip 720p"],  # names of the assets to make
                            "inputs": [0],  # optional: input assets by index, earlier outputs by name
                        }
                    ],
                }

        :returns: the job as the service echoes it
        :raises RefusedError: the spec lacks something, no such processor, or the service refuses it
        :raises UncertainError: the answer was lost
        """
        if isinstance(spec, Mapping) and ("Tasks" in spec or "TemplateId" in spec):
            return self._create_job(dict(spec), [])
        _check_keys("A job spec", spec, ("name", "priority", "input_asset_ids", "tasks"))
        inputs = [_known_id(text, "cid", "input_asset_ids") for text in spec.get("input_asset_ids") or ()]
        tasks = list(spec.get("tasks") or ())
        if not inputs or not tasks:
            raise RefusedError("A job needs at least one of input_asset_ids and one of tasks")
        bodies = _task_bodies(tasks, len(inputs))
        document = {
            "Name": str(spec.get("name") or ""),
            "Priority": _priority(spec.get("priority")),
            "Tasks": [
                {
                    "Name": str(task.get("name") or task["processor"]),
                    "Configuration": _text(task["configuration"]),
                    "MediaProcessorId": self._processor_id(str(task["processor"])),
                    "TaskBody": body,
                }
                for task, body in zip(tasks, bodies, strict=True)
            ],
        }
        return self._create_job(document, inputs)

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
            return tuple(_output(row) for row in self._read(f"Jobs({_literal(job_id)})/OutputMediaAssets"))
        except RefusedError as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                raise JobNotFoundError(f"The service has no job {job_id}") from exc
            raise

    def get_output_files(self, asset_id: str) -> tuple[OutputFile, ...]:
        """List the files of an asset."""
        asset_id = _known_id(asset_id, "cid", "asset_id")
        return tuple(
            OutputFile(
                name=str(row.get("Name") or ""),
                size=int(_number(row["ContentFileSize"])) if row.get("ContentFileSize") is not None else None,
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
        return self._transport.send("GET", path, _page, retries=retries)[0]

    def _create_job(self, document: Mapping[str, Any], inputs: Sequence[str]) -> Job:
        def body(base: str) -> Mapping[str, Any]:
            links = [f"{base}Assets({_literal(asset_id)})" for asset_id in inputs]
            return {**document, "InputMediaAssets@odata.bind": links} if links else document

        verbose = any("__metadata" in asset for asset in document.get("InputMediaAssets") or ())
        return self._transport.send(
            "POST",
            "Jobs",
            _created,
            body=body,
            headers={
                "DataServiceVersion": "3.0",
                "Content-Type": "application/json;odata=verbose" if verbose else "application/json",
            },
            create=True,
        )

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
        rows, has_next = self._transport.send("GET", path, _page, retries=retries)
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
        if _ID.fullmatch(processor):
            return _known_id(processor, "mpid", "processor")
        if processor not in self._processors:
            rows = self._read(f"MediaProcessors()?$filter=Name%20eq%20{_literal(processor)}")
            if not rows:
                raise RefusedError(f"The account has no media processor '{processor}'")
            newest = max(rows, key=lambda row: [int(n) for n in re.findall(r"\d+", str(row.get("Version")))])
            self._processors[processor] = str(newest["Id"])
        return self._processors[processor]


def _text(configuration: Any) -> str:
    return configuration if isinstance(configuration, str) else json.dumps(configuration)


def _known_id(text: str, kind: str, field: str, example: str | None = None) -> str:
    found = _ID.fullmatch(unquote(text).strip()) if isinstance(text, str) else None
    if found is None or found[1].lower() != kind:
        example = example or f"nb:{kind}:UUID:{EXAMPLE_ID.rpartition(':')[2]}"
        raise MalformedIdError(
            f"{field} {str(text)[:200]!r} is no v2 id; one looks like {example}{_other_api(text, kind)}"
        )
    return f"nb:{kind}:UUID:{found[2].lower()}"


def _other_api(text: Any, kind: str) -> str:
    is_path = kind == "jid" and re.fullmatch(r"(.*/)?[\w.-]+/[\w.-]+", str(text)) is not None
    return ". If the job is on another API, say so in the connection's extra.api" if is_path else ""


def _known_case(job_id: Any) -> str:
    """Write an id of the service's as `V2Service.job_id` does; of thousands in a sweep, none is checked."""
    return f"nb:jid:UUID:{str(job_id)[12:].lower()}"


def _literal(text: str) -> str:
    """Write an OData string literal for a URL: inner quotes doubled, all else percent-encoded."""
    return "'" + quote(text.replace("'", "''"), safe="") + "'"


def _datetime_literal(moment: datetime) -> str:
    return f"datetime'{utc(moment).strftime('%Y-%m-%dT%H:%M:%S.%f')}'"


def _page(answer: Answer) -> tuple[list[dict[str, Any]], bool]:
    """Take the entities out of an answer, light or verbose, one or many; and whether more were announced."""
    document = answer.document()
    has_next = False
    if isinstance(document, dict):
        inner = document.get("d", document)
        if isinstance(inner, dict):
            has_next = "__next" in inner or "odata.nextLink" in inner
            inner = inner.get("results", inner.get("value", [inner]))
        if isinstance(inner, list) and all(isinstance(row, dict) and "Id" in row for row in inner):
            return inner, has_next
    raise TransientError(
        "The service's answer holds no entities", status=answer.status, request_id=answer.request_id
    )


def _created(answer: Answer) -> Job:
    rows, _ = _page(answer)
    if not rows:
        raise TransientError("The service's answer holds no job", status=answer.status)
    return _job(rows[0])


def _nothing(_: Answer) -> None:
    """Read nothing out of an answer that has nothing to say."""


def _collection(value: Any) -> list[dict[str, Any]]:
    """Read a collection of complex values: a bare array in light JSON, ``{"results": […]}`` in verbose."""
    if isinstance(value, dict):
        value = value.get("results")
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _job(row: Mapping[str, Any]) -> Job:
    state = _state(row.get("State"))
    return Job(
        id=_known_case(row["Id"]),
        name=str(row.get("Name") or ""),
        state=state,
        progress=100.0 if state is JobState.FINISHED else None,
        created=time_or_none(row.get("Created")),
        modified=time_or_none(row.get("LastModified")),
        started=time_or_none(row.get("StartTime")),
        ended=time_or_none(row.get("EndTime")),
        # Milliseconds, printed as 0, 0.0, 39605 or 39605.0.
        duration=_number(row.get("RunningDuration")) / 1000,
        priority=int(_number(row.get("Priority"))),
        raw=row,
    )


def _task(row: Mapping[str, Any], number: int) -> JobTask:
    name = str(row.get("Name") or f"task {number}")
    return JobTask(
        id=str(row["Id"]),
        name=name,
        state=_state(row.get("State")),
        progress=_number(row.get("Progress")),
        started=time_or_none(row.get("StartTime")),
        ended=time_or_none(row.get("EndTime")),
        errors=tuple(
            JobError(code=str(e.get("Code") or "Unknown"), message=str(e.get("Message") or ""), task=name)
            for e in _collection(row.get("ErrorDetails"))
        ),
        history=tuple(_collection(row.get("HistoricalEvents"))),
        raw=row,
    )


def _output(row: Mapping[str, Any]) -> JobOutput:
    uri = without_query(str(row.get("Uri") or ""))
    return JobOutput(asset_id=str(row["Id"]), name=str(row.get("Name") or ""), uri=uri)


def _state(number: Any) -> JobState:
    try:
        return _STATES[int(number)] if int(number) >= 0 else JobState.UNKNOWN
    except (IndexError, OverflowError, TypeError, ValueError):
        return JobState.UNKNOWN


def _number(value: Any) -> float:
    """Read a number that may come as a text; null, and what is no number, is 0: no wait hangs on it."""
    try:
        number = float(value or 0)
    except (OverflowError, TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _check_keys(what: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise RefusedError(f"{what} is {str(given)[:50]!r}; give a dict with {', '.join(known)}")
    if unknown := sorted(set(given) - set(known)):
        raise RefusedError(f"{what} has no {unknown}; it has {', '.join(known)}")


def _priority(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        raise RefusedError(f"The job's priority {value!r} is no number") from None


def _task_bodies(tasks: Sequence[Mapping[str, Any]], inputs: int) -> list[str]:
    """Write each task's ``TaskBody`` ("Task", TaskBody), numbering the outputs through the whole job."""
    outputs: list[str] = []
    bodies = []
    for number, task in enumerate(tasks, 1):
        _check_keys(
            f"Task {number} in tasks", task, ("name", "processor", "configuration", "outputs", "inputs")
        )
        missing = [key for key in ("processor", "configuration", "outputs") if not task.get(key)]
        if missing:
            raise RefusedError(f"Task {number} of the job spec lacks {', '.join(missing)}")
        names = [task["outputs"]] if isinstance(task["outputs"], str) else [str(n) for n in task["outputs"]]
        root = ElementTree.Element("taskBody")
        for source in task.get("inputs", range(inputs)):
            ElementTree.SubElement(root, "inputAsset").text = _input_reference(
                source, number, inputs, outputs
            )
        for name in names:
            if name in outputs:
                raise RefusedError(f"Two outputs of the job spec are called '{name}'")
            ElementTree.SubElement(
                root, "outputAsset", assetCreationOptions="0", assetName=name
            ).text = f"JobOutputAsset({len(outputs)})"
            outputs.append(name)
        bodies.append(ElementTree.tostring(root, encoding="unicode"))
    return bodies


def _input_reference(source: Any, number: int, inputs: int, outputs: Sequence[str]) -> str:
    if isinstance(source, int) and 0 <= source < inputs:
        return f"JobInputAsset({source})"
    if isinstance(source, str) and source in outputs:
        return f"JobOutputAsset({outputs.index(source)})"
    raise RefusedError(
        f"Task {number} of the job spec reads {source!r}, which is neither the index of one of its "
        f"{inputs} input assets nor the name of an earlier task's output"
    )
