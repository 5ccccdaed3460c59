"""The conversation with one service: base address, tokens, redirects and retries."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import tenacity

from airflow_ams.api.errors import RefusedError, ServiceError, TransientError, UncertainError
from airflow_ams.api.model import MAX_ERROR_TEXT, without_signatures
from airflow_ams.api.redirects import MAX_HOPS, redirected_base
from airflow_ams.api.retries import Retries
from airflow_ams.api.wire import Answer, NoAnswerError, Wire

if TYPE_CHECKING:
    from airflow_ams.api.pace import Pace
    from airflow_ams.api.tokens import TokenSource

_T = TypeVar("_T")

_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_NOT_BEGUN = frozenset({408, 429, 503})
"""Answers after which a create has not happened (the retry policy of the v2 .NET SDK, SaveChanges)."""

_OF_AN_ADDRESS = frozenset({404, 405})
"""Answers that are about the address, unless the service itself says what they are about."""


class ErrorBody(NamedTuple):
    """What the body of an error says; each is empty if it does not.

    :param is_structured: whether it is in a service's form; gateways write a bare text
    """

    code: str = ""
    text: str = ""
    reference: str = ""
    is_structured: bool = False


class Transport:
    """The conversation with one service: base address, tokens, redirects and retries.

    :param base_url: the API's base, with its last slash
    :param tokens: where the bearer token comes from
    :param wire: the session to speak on; the transport closes it
    :param headers: sent with each request
    :param redirect_hosts: hosts that a 301 may lead to, besides the service's own; None: it is not followed
    :param advice: by status, what to do about an answer that refuses a request
    :param read_error: reads the body of an error
    :param pace: how fast to read; None: at once
    :param retries: what `send` does unless told otherwise

    `requests` counts what was sent to the service, without sign-ins.
    """

    def __init__(
        self,
        base_url: str,
        tokens: TokenSource,
        wire: Wire,
        *,
        headers: Mapping[str, str] | None = None,
        redirect_hosts: tuple[str, ...] | None = (),
        advice: Mapping[int, str] | None = None,
        read_error: Callable[[Answer], ErrorBody] | None = None,
        pace: Pace | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._configured_base = base_url
        self._base = base_url
        self._tokens = tokens
        self._wire = wire
        self._headers = dict(headers or {})
        self._redirect_hosts = redirect_hosts
        self._advice = advice or {}
        self._read_error = read_error or read_error_body
        self._pace = pace
        self._retries = retries or Retries()
        self.requests = 0

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
        :raises UncertainError: a create got no usable answer, or a conflict, maybe with an earlier try of it
        :raises RefusedError: any other status than 2xx; 404 is told by its `status`
        """
        policy = retries or self._retries
        all_headers = {**self._headers, **(headers or {})}
        began = time.monotonic()
        was_answered = False

        def time_left() -> float | None:
            return None if policy.within is None else policy.within - (time.monotonic() - began)

        def attempt() -> _T:
            nonlocal was_answered
            if self._pace and method == "GET" and not policy.is_urgent:
                self._pace.wait(time_left())
            left = time_left()
            doubts = _doubted if create else nullcontext
            token = self._tokens.token(left)
            with doubts():
                answer = self._follow(method, path, body, all_headers, token, left)
            if answer.status == HTTPStatus.UNAUTHORIZED and (renewed := self._tokens.renewed(token, left)):
                token = renewed
                with doubts():
                    answer = self._follow(method, path, body, all_headers, token, left)
            is_repeated, was_answered = was_answered, True
            with doubts():
                if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    error = self._error_of(answer, token)
                    if create and is_repeated and answer.status == HTTPStatus.CONFLICT:
                        # What is in the way may be what an earlier try made, whatever that was answered with.
                        raise _uncertain(error)
                    raise error
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
            self.requests += 1
            answer = self._wire.exchange(
                method,
                self._base + path,
                token=token,
                headers={**headers, "x-ms-client-request-id": str(uuid.uuid4())},
                body=json.dumps(body(self._base)).encode() if body else None,
                time_left=time_left,
            )
            if self._pace:
                self._pace.learn(answer)
            if answer.status != HTTPStatus.MOVED_PERMANENTLY or self._redirect_hosts is None:
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

    def _error_of(self, answer: Answer, token: str) -> ServiceError:
        """Make the error that an answer of 300 or more stands for; what it quotes holds no secret."""
        body = self._read_error(answer)
        code, text, reference = (
            without_signatures(said.replace(token, "***"))[:MAX_ERROR_TEXT]
            for said in (body.code, body.text, body.reference)
        )
        reason = without_signatures(answer.reason.replace(token, "***"))
        said = f"{answer.status} {reason}".strip() + (f": {text}" if text else "")
        request_id = reference or answer.request_id
        if answer.status in _BUSY or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return TransientError(
                f"The service has trouble ({said})",
                retry_after=answer.retry_after,
                status=answer.status,
                code=code or None,
                request_id=request_id,
            )
        is_told = bool(code) and answer.status in _OF_AN_ADDRESS
        hint = "" if is_told else self._advice.get(answer.status, _where_else(answer))
        return RefusedError(
            f"The service refused the request ({said}){hint}",
            status=answer.status,
            code=code or None,
            request_id=request_id,
            said=text if body.is_structured else "",
        )


@contextmanager
def _doubted() -> Iterator[None]:
    """Say of a create's trouble whether it leaves open that the create has happened."""
    try:
        yield
    except TransientError as exc:
        if not _may_have_happened(exc):
            raise
        raise _uncertain(exc) from exc


def _uncertain(exc: ServiceError) -> UncertainError:
    return UncertainError(
        f"The answer to a create was lost, so it may have happened: {exc.message}",
        status=exc.status,
        code=exc.code,
        request_id=exc.request_id,
    )


def _may_have_happened(exc: TransientError) -> bool:
    if isinstance(exc, NoAnswerError):
        return exc.sent
    return exc.status not in _NOT_BEGUN


def _retrying(policy: Retries) -> tenacity.Retrying:
    full_jitter = tenacity.wait_random_exponential(multiplier=policy.first_wait, max=policy.max_wait)

    def asked_for(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return (error.retry_after or 0.0) if isinstance(error, TransientError) else 0.0

    def wait(state: tenacity.RetryCallState) -> float:
        return asked_for(state) + full_jitter(state)

    def stop(state: tenacity.RetryCallState) -> bool:
        spent = (state.seconds_since_start or 0.0) + state.upcoming_sleep
        return (
            state.attempt_number >= policy.tries
            or (policy.within is not None and spent >= policy.within)
            or asked_for(state) > policy.max_wait
        )

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError), wait=wait, stop=stop, reraise=True
    )


def _where_else(answer: Answer) -> str:
    if answer.status >= HTTPStatus.BAD_REQUEST:
        return ""
    try:
        host = urlsplit(answer.headers.get("Location", "")).hostname
    except ValueError:
        host = None
    where = host or "another address"
    return f". It redirects to {where}, where the token is not sent: look at the connection's host"


def read_error_body(answer: Answer) -> ErrorBody:
    """Take code, text and reference out of an error body in any of the services' JSON forms.

    The reference is what MK.IO's support asks for ("Error handling").
    """
    try:
        document = json.loads(answer.body)
    except (RecursionError, ValueError):
        return ErrorBody()
    error = document.get("error") or document.get("odata.error") if isinstance(document, dict) else None
    if isinstance(error, str):
        return ErrorBody(text=_in_one_line(error), reference=str(document.get("ref") or ""))
    if not isinstance(error, dict):
        return ErrorBody()
    message = error.get("message") or error.get("detail")
    if isinstance(message, dict):
        message = message.get("value")
    reference = str(document.get("ref") or "")
    return ErrorBody(str(error.get("code") or ""), _in_one_line(message), reference, is_structured=True)


def _in_one_line(message: object) -> str:
    return " ".join(str(message or "").split())
