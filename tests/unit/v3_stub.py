"""The v3 dialects on a stubbed network; what differs between them is told here, and nowhere in the tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_ams.api import MediaService
from airflow_ams.api.arm import Account, ArmService
from airflow_ams.api.mkio import LegacyMkioService, MkioService, read_legacy_error
from airflow_ams.api.retries import NO_RETRIES, Retries
from airflow_ams.api.tokens import StaticToken
from airflow_ams.api.transport import ErrorBody, Transport
from airflow_ams.api.wire import Answer
from tests.unit.stub_wire import StubWire

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
ACCOUNT = Account(SUBSCRIPTION, "media-group", "contoso")
TOKEN = "a-very-secret-token"
JOB = "encode-720p/clip-7"
PATH = "transforms/encode-720p/jobs/clip-7"
SPEC: dict[str, Any] = {
    "transform_name": "encode-720p",
    "job_name": "clip-7",
    "inputs": ["clip-7-source"],
    "outputs": ["clip-7-720p"],
}
"""What makes that job."""
_PROVIDER = "providers/Microsoft.Media/mediaservices"
RESOURCE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/media-group/{_PROVIDER}/contoso"
"""As the service writes it in ids, in its own case."""


def answer(
    status: int = 200, document: Any = None, headers: Mapping[str, str] | None = None, *, reason: str = ""
) -> Answer:
    """Make an answer as the wire gives it; a document may be bytes."""
    body = (
        document
        if isinstance(document, bytes)
        else b""
        if document is None
        else json.dumps(document).encode()
    )
    return Answer(status, reason, headers or {}, body)


def job(
    name: str = "clip-7", state: Any = "Processing", /, transform: str = "encode-720p", **properties: Any
) -> Any:
    """Write a job as the services do."""
    return {
        "name": name,
        "id": f"{RESOURCE}/transforms/{transform}/jobs/{name}",
        "type": "Microsoft.Media/mediaservices/transforms/jobs",
        "properties": {"state": state, "outputs": [], **properties},
    }


def page(*rows: Any, link: Any = None) -> Answer:
    """Answer with a list."""
    return answer(document={"value": list(rows), **({"@odata.nextLink": link} if link else {})})


class Wire(StubWire):
    """Gives answers, or raises, one after another, or as a function of the request says."""

    def __init__(self, *acts: Answer | Exception, by: Callable[[str, str], Answer] | None = None) -> None:
        super().__init__()
        self.acts = list(acts)
        self._by = by

    def answer(self, method: str, url: str) -> Answer:
        """Do the next act; the last one is done for ever."""
        if self._by is not None:
            return self._by(method, url)
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        if isinstance(act, Exception):
            raise act
        return act

    @property
    def requests(self) -> list[tuple[str, str]]:
        """Method and URL of each request."""
        return [(sent["method"], sent["url"]) for sent in self.sent]

    def body(self, number: int = -1) -> Any:
        """Return the document that a request brought."""
        return json.loads(self.sent[number]["body"])


@dataclass(frozen=True)
class Dialect:
    """What a test needs to know of a dialect.

    :param root: where its transforms are
    :param query: what each request has after the question mark
    :param is_arm: whether lists are of one transform each
    :param read_error: how it writes errors, if not as the others do
    """

    api: str
    root: str
    query: str
    is_arm: bool
    make: Callable[[Transport], MediaService]
    read_error: Callable[[Answer], ErrorBody] | None = None

    @property
    def base(self) -> str:
        """Where the API is."""
        return "/".join(self.root.split("/")[:3]) + "/"

    def open(self, wire: Wire, retries: Retries = NO_RETRIES) -> MediaService:
        """Open a service on a wire."""
        return self.make(
            Transport(
                self.base,
                StaticToken(TOKEN),
                wire,
                redirect_hosts=None,
                read_error=self.read_error,
                retries=retries,
            )
        )

    def speak(
        self, *acts: Answer | Exception, by: Callable[[str, str], Answer] | None = None
    ) -> tuple[MediaService, Wire]:
        """Open a service that is answered so."""
        wire = Wire(*acts, by=by)
        return self.open(wire), wire

    def url(self, path: str, query: str = "") -> str:
        """Return the URL of what is below the account."""
        all_of_it = "&".join(filter(None, (self.query, query)))
        return f"{self.root}{path}?{all_of_it}" if all_of_it else f"{self.root}{path}"

    def error(self, status: int, code: str = "NotFound", text: str = "It is so.") -> Answer:
        """Answer with an error as this service words it."""
        if self.is_arm:
            return answer(status, {"error": {"code": code, "message": text}}, reason="Some Reason")
        error = {"code": code, "detail": text, "extraDetail": {}}
        return answer(status, {"error": error, "status": status, "ref": "ref-1"}, reason="Some Reason")


def _arm(api: str, host: str) -> Dialect:
    root = f"https://{host}/subscriptions/{SUBSCRIPTION}/resourceGroups/media-group/providers/"
    return Dialect(
        api,
        f"{root}Microsoft.Media/mediaServices/contoso/",
        "api-version=2022-07-01",
        True,
        lambda transport: ArmService(transport, ACCOUNT, api=api),
    )


ARM = _arm("arm", "management.azure.com")
RMS = _arm("rms", "contoso.ravnur.net")
MKIO = Dialect(
    "mkio", "https://app.mk.io/api/v1/projects/contoso/media/", "", False, lambda t: MkioService(t, "contoso")
)
LEGACY = Dialect(
    "mkio",
    "https://api.mk.io/api/ams/contoso/",
    "",
    False,
    lambda t: LegacyMkioService(t, "contoso"),
    read_legacy_error,
)

each_dialect = pytest.mark.parametrize(
    "dialect", [ARM, RMS, MKIO, LEGACY], ids=["arm", "rms", "mkio", "legacy"]
)
each_arm = pytest.mark.parametrize("dialect", [ARM, RMS], ids=["arm", "rms"])
each_mkio = pytest.mark.parametrize("dialect", [MKIO, LEGACY], ids=["mkio", "legacy"])

GATEWAY = answer(404, b"<html>no such site</html>", reason="Not Found")
"""What is no word of the service's."""
