"""One HTTP exchange: a request out, an answer in, read to its end and within bounds.

What `requests` and `urllib3` raise becomes one of our errors here and nowhere else.
"""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from airflow_ams import __version__
from airflow_ams.api.errors import RefusedError, TransientError
from airflow_ams.api.redirects import is_loopback

if TYPE_CHECKING:
    from typing_extensions import Self

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection."""

READ_TIMEOUT = 30.0
"""Seconds that an answer may take, its body included, unless the connection says otherwise."""

MAX_BODY = 16 * 1024 * 1024
"""Bytes of an answer that are read; a page of a thousand jobs is about half of one megabyte."""

_CHUNK = 64 * 1024
# What an error of the system means that a setting (of a CA bundle) caused; `requests` gives no number.
_OF_A_SETTING = frozenset({None, errno.EACCES, errno.EISDIR, errno.ENOENT, errno.ENOTDIR})
_NO_PROXIES = {"http": "", "https": "", "all": ""}


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
        except (RecursionError, ValueError) as exc:
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
                # What goes to this machine may go unencrypted, so it must not go by way of another.
                proxies=_NO_PROXIES if is_loopback(urlsplit(url).hostname) else None,
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
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as exc:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            raise RefusedError(
                f"The certificate of {host} is not trusted: give the CA bundle's path in extra.verify"
            ) from exc
        raise TransientError(f"TLS to {host} broke: {_root(exc)}") from exc
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as exc:
        raise NoAnswerError(f"No answer from {host}: {_root(exc)}", sent=_was_sent(exc)) from exc
    except (
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        # The request's own headers were looked at before, so it is the answer's that make no sense.
        requests.exceptions.InvalidHeader,
        urllib3.exceptions.HTTPError,
        UnicodeError,
    ) as exc:
        raise TransientError(f"The answer of {host} cannot be read: {_root(exc)}") from exc
    except (requests.exceptions.RequestException, ValueError) as exc:
        # Not the libraries' own texts: they would show the password of a proxy.
        raise RefusedError(
            f"No request can be made to {host} ({type(exc).__name__}): look at the address, and at the "
            "proxies in the environment"
        ) from None
    except OSError as exc:
        text = f"The request to {host} could not be made: {_root(exc)}"
        # Such as too many open files: other tasks' doing, and over when they are.
        raise (RefusedError(text) if exc.errno in _OF_A_SETTING else NoAnswerError(text)) from exc


class NoAnswerError(TransientError):
    """Raised when a request got no answer at all; `sent` tells whether the service may have seen it."""

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
