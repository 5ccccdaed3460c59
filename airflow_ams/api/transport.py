"""HTTP as every dialect uses it.

Two layers: `Wire` makes one exchange (time-outs, size limit, errors of the libraries below turned into ours);
`Transport` adds what makes it a conversation with one service (base address, tokens, redirects, retries).
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import requests
import tenacity
import urllib3
from requests.auth import AuthBase

from airflow_ams import __version__
from airflow_ams.api.errors import RefusedError, ServiceError, TransientError, UncertainError
from airflow_ams.api.model import MAX_ERROR_TEXT, without_signatures
from airflow_ams.api.redirects import MAX_HOPS, redirected_base

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_ams.api.tokens import TokenSource

_T = TypeVar("_T")

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection."""

READ_TIMEOUT = 30.0
"""Seconds that an answer may take, its body included, unless the connection says otherwise."""

MAX_BODY = 16 * 1024 * 1024
"""Bytes of an answer that are read; a page of a thousand jobs is about half of one megabyte."""

_CHUNK = 64 * 1024
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_NOT_BEGUN = frozenset({408, 429, 503})
"""Answers after which a create has not happened (the retry policy of the v2 .NET SDK, SaveChanges)."""


@dataclass(frozen=True)
class Retries:
    """How often, and for how long, a request is tried while the service has trouble.

    :param tries: requests in all
    :param within: seconds from the first request that tries and waits together may take; None: no limit
    :param first_wait: seconds that the first wait lasts at most; each further one may be twice as long
    :param max_wait: seconds that one wait lasts at most; a service that asks for more is left alone
    """

    tries: int = 4
    within: float | None = None
    first_wait: float = 0.5
    max_wait: float = 30.0


NO_RETRIES = Retries(tries=1)
"""For callers that keep a back-off of their own."""


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end.

    :param reason: the phrase on the status line, in which v2 says why it is busy
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def document(self) -> Any:
        """Decode the body as JSON; raise `TransientError` if it is not: gateways answer 200 with HTML."""
        try:
            return json.loads(self.body)
        except ValueError as exc:
            kind = self.headers.get("Content-Type", "no content type")
            raise TransientError(
                f"The service's answer is not JSON ({kind}, {len(self.body)} bytes)",
                status=self.status,
                request_id=self.request_id,
            ) from exc

    @property
    def request_id(self) -> str | None:
        """The service's own id of the request."""
        return self.headers.get("x-ms-request-id") or self.headers.get("request-id")

    @property
    def retry_after(self) -> float | None:
        """Seconds to stay away, from ``Retry-After`` in either of its forms."""
        value = self.headers.get("Retry-After", "").strip()
        if not value:
            return None
        if value.isdecimal():
            return float(value)
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


class _Bearer(AuthBase):
    """Sets the token by requests' own means: a header alone would lose to an entry in ``.netrc``."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _Session(requests.Session):
    """Leaves redirects alone; the library would read all of their page and parse where they lead."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """See no redirect."""


class Wire:
    """One `requests` session, and one exchange on it at a time.

    :param verify: True, or the path of a CA bundle
    :param read_timeout: seconds that one answer may take in all
    """

    def __init__(self, *, verify: bool | str = True, read_timeout: float = READ_TIMEOUT) -> None:
        self._verify = verify
        self._read_timeout = read_timeout
        self._session = _Session()
        library = requests.utils.default_user_agent()
        self._session.headers["User-Agent"] = f"airflow-ams/{__version__} {library}"

    def exchange(
        self,
        method: str,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Mapping[str, str] | None = None,
        time_left: float | None = None,
    ) -> Answer:
        """Send one request and read the answer, whatever its status is.

        :param body: bytes, or a form
        :param time_left: seconds that the caller has; the time-outs shrink to it
        :raises TransientError: there was no usable answer
        :raises RefusedError: it could not be sent, and never will be
        """
        if token and not (token.isascii() and token.isprintable()):
            # The libraries' own texts would hold the header, that is, the token.
            raise RefusedError("The token holds characters that no HTTP header can carry: look at it")
        limit = self._read_timeout if time_left is None else min(self._read_timeout, max(time_left, 1.0))
        with _our_errors(url):
            response = self._session.request(
                method,
                url,
                auth=_Bearer(token) if token else _anonymous,
                headers=dict(headers or {}),
                data=body,
                timeout=(min(CONNECT_TIMEOUT, limit), limit),
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            )
            with response:
                content = _read_body(response, limit)
        return Answer(response.status_code, response.reason or "", response.headers, content)

    def close(self) -> None:
        """Close the session's connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read_body(response: requests.Response, limit: float) -> bytes:
    # The session's own time-out bounds the silence between two bytes; a body that drips would never end.
    end = time.monotonic() + limit
    body = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > MAX_BODY:
            raise TransientError(
                f"The service's answer is larger than {MAX_BODY} bytes", status=response.status_code
            )
        if time.monotonic() > end:
            raise TransientError(
                f"The service's answer took longer than {limit:.0f} s", status=response.status_code
            )
    return bytes(body)


@contextmanager
def _our_errors(url: str) -> Iterator[None]:
    """Turn what `requests` and `urllib3` raise into our errors, by what the caller can do about it."""
    host = urllib3.util.parse_url(url).netloc
    try:
        yield
    except (requests.exceptions.InvalidHeader, UnicodeError) as exc:
        raise RefusedError("extra.api_version holds characters that no HTTP header can carry") from exc
    except requests.exceptions.InvalidProxyURL as exc:
        raise RefusedError("The proxy in the environment has no valid URL") from exc
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as exc:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            raise RefusedError(
                f"The certificate of {host} is not trusted: give the CA bundle's path in extra.verify"
            ) from exc
        raise TransientError(f"TLS to {host} broke: {_root(exc)}") from exc
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as exc:
        raise _NoAnswer(f"No answer from {host}: {_root(exc)}", sent=_was_sent(exc)) from exc
    except (
        urllib3.exceptions.HTTPError,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
    ) as exc:
        raise TransientError(f"The answer of {host} was cut off: {_root(exc)}") from exc
    except (requests.exceptions.RequestException, ValueError) as exc:
        raise RefusedError(f"No request can be made to {host}: {_root(exc)}") from exc
    except OSError as exc:
        raise RefusedError(f"The request to {host} could not be made: {_root(exc)}") from exc


class _NoAnswer(TransientError):
    """A request that got no answer; `sent` tells whether the service may have seen it."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        # The default is for copies and pickles, which call this with the message alone.
        super().__init__(message)
        self.sent = sent


def _was_sent(exc: requests.exceptions.RequestException) -> bool:
    if isinstance(exc, requests.exceptions.ConnectTimeout):
        return False
    cause = getattr(exc.args[0], "reason", None) if exc.args else None
    return not isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ProxyError)


def _root(exc: BaseException) -> str:
    """Name the first cause; the texts further up repeat the URL and a memory address."""
    seen: BaseException = exc
    for _ in range(10):
        nested = getattr(seen, "reason", None) or next(
            (arg for arg in seen.args if isinstance(arg, BaseException)), None
        )
        below = nested if isinstance(nested, BaseException) else seen.__cause__ or seen.__context__
        if below is None:
            break
        seen = below
    text = getattr(seen, "strerror", None) or re.sub(r"<[^>]*>:? ?", "", str(seen))
    return f"{type(seen).__name__}: {text}" if text else type(seen).__name__


class Transport:
    """The conversation with one service: base address, tokens, redirects and retries.

    :param base_url: the API's base, with its last slash
    :param tokens: where the bearer token comes from
    :param wire: the session to speak on; the transport closes it
    :param headers: sent with each request
    :param redirect_hosts: hosts that a 301 may lead to, besides the service's own
    :param retries: what `send` does unless told otherwise
    """

    def __init__(
        self,
        base_url: str,
        tokens: TokenSource,
        wire: Wire,
        *,
        headers: Mapping[str, str] | None = None,
        redirect_hosts: tuple[str, ...] = (),
        retries: Retries | None = None,
    ) -> None:
        self._configured_base = base_url
        self._base = base_url
        self._tokens = tokens
        self._wire = wire
        self._headers = dict(headers or {})
        self._redirect_hosts = redirect_hosts
        self._retries = retries or Retries()

    @property
    def base_url(self) -> str:
        """The base that requests go to: the configured one, or the one that it redirected to."""
        return self._base

    def send(
        self,
        method: str,
        path: str,
        parse: Callable[[Answer], _T],
        *,
        body: Callable[[str], Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        create: bool = False,
        retries: Retries | None = None,
    ) -> _T:
        """Send a request, repeating it while the service has trouble, and return what its answer holds.

        :param path: what follows the base, percent-encoded, with its query
        :param parse: reads the answer; its `TransientError` counts as trouble of the service's
        :param body: makes the JSON body, given the base that it will be sent to
        :param create: sending it twice would do it twice: it is repeated only after answers that say that
            nothing has happened
        :raises TransientError: the tries are used up
        :raises UncertainError: a create got no usable answer
        :raises RefusedError: any other status than 2xx; 404 is told by its `status`
        """
        policy = retries or self._retries
        all_headers = {**self._headers, **(headers or {})}
        began = time.monotonic()

        def attempt() -> _T:
            left = None if policy.within is None else policy.within - (time.monotonic() - began)
            doubts = _doubted if create else nullcontext
            token = self._tokens.token()
            with doubts():
                answer = self._follow(method, path, body, all_headers, token, left)
            if answer.status == HTTPStatus.UNAUTHORIZED and (renewed := self._tokens.renewed(token)):
                token = renewed
                with doubts():
                    answer = self._follow(method, path, body, all_headers, token, left)
            with doubts():
                if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    raise _error_of(answer, token)
                return parse(answer)

        return _retrying(policy)(attempt)

    def close(self) -> None:
        """Close the session's connections."""
        self._wire.close()

    def _follow(
        self,
        method: str,
        path: str,
        body: Callable[[str], Mapping[str, Any]] | None,
        headers: Mapping[str, str],
        token: str,
        time_left: float | None,
    ) -> Answer:
        """Send a request, and again to the base that a 301 names; the token goes along by hand."""
        for _ in range(MAX_HOPS + 1):
            answer = self._wire.exchange(
                method,
                self._base + path,
                token=token,
                headers={**headers, "x-ms-client-request-id": str(uuid.uuid4())},
                body=json.dumps(body(self._base)).encode() if body else None,
                time_left=time_left,
            )
            if answer.status != HTTPStatus.MOVED_PERMANENTLY:
                return answer
            self._base = redirected_base(
                answer.headers.get("Location", ""),
                current=self._base,
                configured=self._configured_base,
                extra_hosts=self._redirect_hosts,
            )
        raise RefusedError(
            f"{self._configured_base} redirects more than {MAX_HOPS} times: look at the connection's host"
        )


@contextmanager
def _doubted() -> Iterator[None]:
    """Say of a create's trouble whether it leaves open that the create has happened."""
    try:
        yield
    except TransientError as exc:
        if not _may_have_happened(exc):
            raise
        raise UncertainError(
            f"The answer to a create was lost, so it may have happened: {exc.message}",
            status=exc.status,
            code=exc.code,
            request_id=exc.request_id,
        ) from exc


def _may_have_happened(exc: TransientError) -> bool:
    if isinstance(exc, _NoAnswer):
        return exc.sent
    return exc.status not in _NOT_BEGUN


def _retrying(policy: Retries) -> tenacity.Retrying:
    full_jitter = tenacity.wait_random_exponential(multiplier=policy.first_wait, max=policy.max_wait)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_for = error.retry_after or 0.0 if isinstance(error, TransientError) else 0.0
        return asked_for + full_jitter(state)

    def stop(state: tenacity.RetryCallState) -> bool:
        spent = (state.seconds_since_start or 0.0) + state.upcoming_sleep
        return (
            state.attempt_number >= policy.tries
            or (policy.within is not None and spent >= policy.within)
            or state.upcoming_sleep > 2 * policy.max_wait
        )

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError), wait=wait, stop=stop, reraise=True
    )


def _error_of(answer: Answer, token: str) -> ServiceError:
    """Make the error that an answer of 300 or more stands for; what it quotes holds no secret."""
    code, text = (
        without_signatures(said.replace(token, "***"))[:MAX_ERROR_TEXT] for said in _service_message(answer)
    )
    reason = answer.reason.replace(token, "***")
    said = f"{answer.status} {reason}".strip() + (f": {text}" if text else "")
    if answer.status in _BUSY or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TransientError(
            f"The service has trouble ({said})",
            retry_after=answer.retry_after,
            status=answer.status,
            code=code or None,
            request_id=answer.request_id,
        )
    advice = _ADVICE.get(answer.status, "")
    return RefusedError(
        f"The service refused the request ({said}){advice}",
        status=answer.status,
        code=code or None,
        request_id=answer.request_id,
    )


_ADVICE = {
    400: ". The request or its x-ms-version is not one that it takes (extra.api_version)",
    401: (
        ". It does not accept the token: look at the connection's login and password; a service principal "
        "also needs the Contributor role on the media account"
    ),
    403: ". The account is disabled or over its quota, or this identity may not do that",
}


def _service_message(answer: Answer) -> tuple[str, str]:
    """Take code and text out of an error body in any of the services' JSON forms, or out of none of them."""
    try:
        document = json.loads(answer.body)
    except ValueError:
        return "", ""
    error = document.get("error") or document.get("odata.error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return "", ""
    message = error.get("message")
    if isinstance(message, dict):
        message = message.get("value")
    return str(error.get("code") or ""), " ".join(str(message or "").split())
