"""The dialect of MediaKind MK.IO: the v3 job without Resource Manager, in projects."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

from airflow_ams.api.errors import JobNotFoundError, MalformedIdError, RefusedError
from airflow_ams.api.model import Job, JobState
from airflow_ams.api.retries import Retries
from airflow_ams.api.spec import shown
from airflow_ams.api.transport import ErrorBody, Transport, read_error_body
from airflow_ams.api.v3 import V3Service, path_of
from airflow_ams.api.v3_document import state_of
from airflow_ams.api.v3_lists import NEWEST_FIRST, Row, filters, filters_by_state, plain, typed
from airflow_ams.api.v3_spec import as_created
from airflow_ams.api.wire import Answer

DEFAULT_BASE = "https://app.mk.io/"
LEGACY_BASE = "https://api.mk.io/"

READS_A_MINUTE = 1500.0
"""Of the 2,000 that a project has ("Rate limits"), what one process takes at most."""

BURST = 100
"""Reads that may come together."""

AFTER_REFUSAL = 2.0
"""Seconds without reads after a 429, which names no time; others have used the project's budget."""

_ELSEWHERE = ". It is no answer of the media service's own: look at the connection's host and extra.legacy"

ADVICE = {
    401: (
        ". It does not accept the token, which may have expired or been revoked: make a new one in MK.IO and "
        "put it into password"
    ),
    403: (
        ". The token may not do that: a restricted token needs the right ams.job.get to wait for jobs, "
        "ams.job.create to create and cancel them, ams.job.update to change, ams.job.delete to delete them"
    ),
    404: _ELSEWHERE,
    405: _ELSEWHERE,
}
"""What to do about a status ("Tokens")."""

_IN_PROJECT = re.compile(
    r"(?:.*/)?(?:projects|api/ams)/([^/]+)/(?:media/)?transforms/[^/]+/jobs/[^/]+", re.IGNORECASE | re.DOTALL
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ID = re.compile(r".*/transforms/([^/]+)/jobs/([^/]+)/?", re.IGNORECASE | re.DOTALL)


_SWEEP_FORMS = (
    filters(plain, "$top=1000"),
    filters(plain),
    filters_by_state(plain),
    filters(typed),
    NEWEST_FIRST,
)


class MkioService(V3Service):
    """Jobs of an MK.IO project; one list has those of all transforms.

    :param transport: the conversation to have it on
    :param project: whose jobs
    """

    api = "mkio"

    def __init__(self, transport: Transport, project: str) -> None:
        super().__init__(transport)
        self._project = project
        self._tells_states = True
        self._ended: set[str] = set()

    @property
    def sweep_forms(self) -> Sequence[tuple[str, ...]]:
        """The ways to list the active jobs, best first, the last by a glance at all of them.

        How a state is written in a filter is known of other resources only, nor what ``$top`` may be.
        """
        return _SWEEP_FORMS

    def sweep_scopes(self, wanted: Collection[str]) -> Mapping[str, Collection[str]]:
        """Say in which lists jobs would be: all in the project's."""
        return {"": wanted}

    def poll_job(self, job_id: str, last: Job | None, *, retries: Retries | None = None) -> Job:
        """Read where a job stands; only the state, as long as it tells all there is to know."""
        job_id = self.job_id(job_id)
        if last is None or not self._tells_states or job_id in self._ended:
            found = self.get_job(job_id, retries=retries)
            self._ended.discard(job_id)
            return found
        address = self._address(f"{path_of(job_id)}/state")
        try:
            state = self._transport.send("GET", address, _state, retries=retries)
        except RefusedError as exc:
            if exc.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise
            found = self.get_job(job_id, retries=retries)
            # The job is there, so it is the state that cannot be asked for.
            self._tells_states = False
            return found
        if state.is_final or state is JobState.UNKNOWN:
            # If the job cannot be read now, its state need not be asked for again.
            self._ended.add(job_id)
            return self.poll_job(job_id, last, retries=retries)
        return replace(last, id=job_id, state=state, progress=None, outputs=None)

    def check(self) -> str:
        """Read one job, whichever; that needs a good token and the right to read jobs."""
        rows, _ = self._page("jobs", "$top=1")
        found = "there is at least one job" if rows else "there is no job yet"
        return f"{self._transport.base_url} accepts the token; in project '{self._project}' {found}"

    @property
    def _root(self) -> str:
        return f"api/v1/projects/{quote(self._project, safe='')}/media/"

    def _address(self, path: str, *query: str) -> str:
        parts = "&".join(part for part in query if part)
        return f"{self._root}{path}?{parts}" if parts else f"{self._root}{path}"

    def check_spec(self, spec: Mapping[str, Any]) -> None:
        """Raise RefusedError if no job can be made of a spec, as far as is known without asking.

        A mark follows the job's name, so how it ends does not matter (the rule is that of MK.IO's .NET SDK).
        """
        super().check_spec(spec)
        if not _NAME.fullmatch(name := str(spec["job_name"])):
            raise RefusedError(
                f"job_name of the job spec is {shown(name)}, which cannot be the name of a job on MK.IO: "
                "give ASCII letters, digits, hyphens, underscores, points, beginning with a letter or digit"
            )

    def _check_owner(self, text: str) -> None:
        # Full ids of jobs look like Resource Manager's and do not name the project, so that not even one of
        # another service is known as such; addresses do.
        found = _IN_PROJECT.fullmatch(text)
        if found and found[1].casefold() != self._project.casefold():
            raise MalformedIdError(
                f"job_id {text[:300]!r} is of project '{found[1]}', the connection for '{self._project}'"
            )

    def _not_found(self, exc: RefusedError, job_id: str) -> Exception:
        # It answers so for a project or a transform that is not there, too; only its text tells.
        said = f"it says '{exc.said}'; " if exc.said else ""
        return JobNotFoundError(
            f"The service has no job {job_id} in project '{self._project}' ({said}look at extra.project and "
            "at the transform, too)",
            status=exc.status,
            request_id=exc.request_id,
        )

    def _id_of(self, scope: str, row: Row) -> str | None:
        found = _ID.fullmatch(str(row.get("id")))
        return None if found is None else f"{unquote(found[1])}/{row['name']}"

    def _literal(self, state: JobState) -> str:
        return plain(state)

    def _scopes(self) -> Iterator[str]:
        yield ""

    def _prepare(self, job_id: str, outputs: Collection[str]) -> None:
        """Do nothing: the service makes output assets as it needs them."""

    def _deleted(self, job_id: str, answer: Answer) -> None:
        """Take any answer: what 204 says of the job is not known."""

    def _changed(self, job_id: str, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        # A change is to bring along what does not change.
        return {**as_created(self.get_job(job_id)), **properties}


class LegacyMkioService(MkioService):
    """The same on the older addresses, which have no cheaper way to read a state."""

    def __init__(self, transport: Transport, project: str) -> None:
        super().__init__(transport, project)
        self._tells_states = False

    @property
    def _root(self) -> str:
        return f"api/ams/{quote(self._project, safe='')}/"


def read_legacy_error(answer: Answer) -> ErrorBody:
    """Take code, text and reference out of an error body; a bare text is a word of the service's own here."""
    body = read_error_body(answer)
    code = body.code or (body.text and (answer.reason or "Error"))
    return body._replace(code=code, is_structured=bool(code))


def _state(answer: Answer) -> JobState:
    document = answer.document()
    status = document.get("status") if isinstance(document, dict) else None
    return state_of({"properties": status}) if isinstance(status, dict) else JobState.UNKNOWN
