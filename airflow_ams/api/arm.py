"""The ARM-shaped dialect: Azure Media Services v3 as it was, and Ravnur RMS, which took its place."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import quote, unquote

from airflow_ams.api.errors import JobNotFoundError, MalformedIdError, RefusedError
from airflow_ams.api.model import JobState
from airflow_ams.api.transport import Transport
from airflow_ams.api.v3 import JSON_BODY, V3Service, nothing
from airflow_ams.api.v3_lists import NEWEST_FIRST, Row, filters, filters_by_state, plain, typed
from airflow_ams.api.wire import Answer

DEFAULT_API_VERSION = "2022-07-01"

_ELSEWHERE = ". It is no answer of the media service's own: look at the connection's host"

ADVICE = {
    "arm": {
        401: (
            ". It does not accept the token: look at the connection's login and password, and at "
            "extra.tenant_id; a pasted token may have expired"
        ),
        403: ". Who signs in may not do that: the identity needs the Contributor role on the media account",
        404: _ELSEWHERE,
        405: _ELSEWHERE,
    },
    "rms": {
        401: (
            ". It does not accept the token, not even a new one for the API key: look at password, and at "
            "extra.subscription_id; a pasted token may have expired"
        ),
        403: ". The API key may not do that: look in the RMS console at which account it is for",
        404: _ELSEWHERE,
        405: _ELSEWHERE,
    },
}
"""What to do about a status, by the connection's ``extra.api``."""

_RESOURCE = re.compile(
    r"(?:.*/)?subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.Media/mediaServices/([^/]+)/"
    r"transforms/.*",
    re.IGNORECASE | re.DOTALL,
)
_BELOW_ACCOUNT = re.compile("/?transforms/", re.IGNORECASE)
_WRONG_ACCOUNT = {
    "InvalidSubscriptionId": "extra.subscription_id",
    "SubscriptionNotFound": "extra.subscription_id",
    "ResourceGroupNotFound": "extra.resource_group",
    "ResourceNotFound": "extra.account_name, extra.resource_group and extra.subscription_id",
    "ParentResourceNotFound": "extra.account_name, extra.resource_group and extra.subscription_id",
}
"""Codes of Resource Manager's own, and the fields that are wrong then; a job's is ``NotFound``."""


@dataclass(frozen=True)
class Account:
    """Where a media account is."""

    subscription_id: str
    resource_group: str
    name: str

    @property
    def path(self) -> str:
        """Its path, percent-encoded, with its last slash."""
        subscription, group, name = (
            quote(part, safe="") for part in (self.subscription_id, self.resource_group, self.name)
        )
        return (
            f"subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Media/"
            f"mediaServices/{name}/"
        )


_SWEEP_FORMS = (
    filters(typed),
    filters_by_state(typed),
    filters(plain),
    NEWEST_FIRST,
)


class ArmService(V3Service):
    """Jobs of an account behind Azure Resource Manager, or behind RMS; a list is of one transform.

    :param transport: the conversation to have it on
    :param account: whose jobs
    :param api: ``arm`` or ``rms``
    """

    def __init__(
        self, transport: Transport, account: Account, *, api: str, api_version: str = DEFAULT_API_VERSION
    ) -> None:
        super().__init__(transport)
        self.api = api
        self._account = account
        self._version = f"api-version={api_version}"

    @property
    def sweep_forms(self) -> Sequence[tuple[str, ...]]:
        """The ways to list the active jobs, best first, the last by a glance at all of them.

        The literal of the first is the one in the service's own examples ("Filter, order, page"); whether RMS
        takes it is not known.
        """
        return _SWEEP_FORMS

    def sweep_scopes(self, wanted: Collection[str]) -> Mapping[str, Collection[str]]:
        """Say in which lists jobs would be: each in its transform's."""
        by_transform: dict[str, list[str]] = defaultdict(list)
        for job_id in wanted:
            by_transform[job_id.partition("/")[0].casefold()].append(job_id)
        return {_scope(ids[0].partition("/")[0]): ids for ids in by_transform.values()}

    def check(self) -> str:
        """Read the list of transforms; that needs a good token, the account, and the right to read."""
        transforms, _ = self._checked_page()
        count = len(transforms)
        return (
            f"{self._transport.base_url} accepts the token, and account '{self._account.name}' has "
            f"{count} transform{'' if count == 1 else 's'}"
        )

    def _checked_page(self) -> tuple[list[Row], str | None]:
        try:
            return self._page("transforms", "")
        except RefusedError as exc:
            if exc.status == HTTPStatus.NOT_FOUND and exc.code:
                raise self._wrong_account(exc) from exc
            raise

    def _address(self, path: str, *query: str) -> str:
        # The link to a next page brings the version along.
        parts = [part for part in query if part]
        if not any("api-version=" in part for part in parts):
            parts.insert(0, self._version)
        return f"{self._account.path}{path}?{'&'.join(parts)}"

    def _check_owner(self, text: str) -> None:
        found = _RESOURCE.fullmatch(text)
        if found is None and not _BELOW_ACCOUNT.match(text):
            raise MalformedIdError(f"job_id {text[:300]!r} is the address of a job of no media account")
        known = (self._account.subscription_id, self._account.resource_group, self._account.name)
        fields = ("subscription", "resource group", "account")
        for field, given, own in zip(fields, found.groups() if found else (), known, strict=False):
            if given.casefold() != own.casefold():
                raise MalformedIdError(
                    f"job_id {text[:300]!r} is of {field} '{given}', but the connection is for '{own}'"
                )

    def _not_found(self, exc: RefusedError, job_id: str) -> Exception:
        if exc.code in _WRONG_ACCOUNT:
            return self._wrong_account(exc)
        # The service has one code for job and transform.
        return JobNotFoundError(
            f"The service has no job {job_id}", status=exc.status, request_id=exc.request_id
        )

    def _wrong_account(self, exc: RefusedError) -> RefusedError:
        fields = _WRONG_ACCOUNT.get(exc.code or "", _WRONG_ACCOUNT["ResourceNotFound"])
        return exc.saying(f"{exc.message}. Look at the connection's {fields}")

    def _id_of(self, scope: str, row: Row) -> str:
        return f"{_transform_of(scope)}/{row['name']}"

    def _literal(self, state: JobState) -> str:
        return typed(state)

    def _scopes(self) -> Iterator[str]:
        for row in self._rows("transforms", self._page("transforms", "")):
            yield _scope(str(row["name"]))

    def _prepare(self, job_id: str, outputs: Collection[str]) -> None:
        """Make those output assets that are not there; none, if there is no transform to fill them."""
        addresses = [self._address(f"assets/{quote(name, safe='')}") for name in outputs]
        missing = [address for address in addresses if self._not_there(address) is not None]
        if not missing:
            return
        transform = self._address(_scope(job_id.partition("/")[0]).rstrip("/"))
        if (exc := self._not_there(transform)) is not None:
            raise self._no_transform(exc, job_id) from exc
        for address in missing:
            self._transport.send(
                "PUT", address, nothing, body=lambda _: {"properties": {}}, headers=JSON_BODY
            )

    def _not_there(self, address: str) -> RefusedError | None:
        """Return the service's word that there is nothing at an address; None if there is."""
        try:
            self._transport.send("GET", address, nothing)
        except RefusedError as exc:
            if exc.status != HTTPStatus.NOT_FOUND or not exc.code:
                raise
            return exc
        return None

    def _deleted(self, job_id: str, answer: Answer) -> None:
        if answer.status == HTTPStatus.NO_CONTENT:
            raise JobNotFoundError(f"The service has no job {job_id}", status=answer.status)


def _scope(transform: str) -> str:
    return f"transforms/{quote(transform, safe='', errors='replace')}/"


@lru_cache(maxsize=256)
def _transform_of(scope: str) -> str:
    return unquote(scope.split("/")[1])
