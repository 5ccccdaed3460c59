"""When a request is repeated, for how long, and when it must not be."""

from __future__ import annotations

import errno
import json
import resource
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from airflow_ams.api import wire as module
from airflow_ams.api.errors import RefusedError, ServiceError, TransientError, UncertainError
from airflow_ams.api.retries import NO_RETRIES, Retries
from airflow_ams.api.tokens import CachedTokens, StaticToken
from airflow_ams.api.transport import Transport
from airflow_ams.api.v2 import ADVICE
from airflow_ams.api.wire import Answer
from tests.unit.stub_wire import StubWire

BASE = "https://media.windows.net/api/"
QUICK = Retries(tries=4, first_wait=0, max_wait=0)


def answer(status: int = 200, body: Any = None, reason: str = "", **headers: str) -> Answer:
    """Make an answer as the wire gives it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, reason, {name.replace("_", "-"): value for name, value in headers.items()}, content)


class Wire(StubWire):
    """Gives answers, or raises, one after another."""

    def __init__(self, *acts: Answer | Exception) -> None:
        super().__init__()
        self.acts = list(acts)

    def answer(self, method: str, url: str) -> Answer:
        """Do the next act; the last one is done for ever."""
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        if isinstance(act, Exception):
            raise act
        return act


class Tokens:
    """A token source whose tokens are numbered, or that fails as often as it is told to."""

    def __init__(self, *failures: ServiceError) -> None:
        self.failures = list(failures)
        self.count = 1

    def token(self, time_left: float | None = None) -> str:
        """Return the current token."""
        if self.failures:
            raise self.failures.pop(0)
        return f"token-{self.count}"

    def renewed(self, refused: str, time_left: float | None = None) -> str | None:
        """Return the next token."""
        self.count += 1
        return self.token()


def talk(wire: Wire, tokens: Any = None, retries: Retries = QUICK) -> Transport:
    """Open a transport on a wire."""
    token = tokens or StaticToken("token-1")
    return Transport(BASE, token, wire, headers={"h": "1"}, advice=ADVICE, retries=retries)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits between tries instead of living through them."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_a_read_is_repeated_while_the_service_is_busy(status: int) -> None:
    """408, 429 and 5xx are asked again, and the answer that comes at last counts."""
    wire = Wire(answer(status), answer(status), answer(body=7))
    assert talk(wire).send("GET", "Jobs", Answer.document) == 7
    assert len(wire.sent) == 3


@pytest.mark.parametrize("status", [300, 302, 307, 308, 400, 403, 404, 405, 409, 410, 412, 418])
def test_a_refusal_is_not_repeated(status: int) -> None:
    """Whatever else is not 2xx brings the same again: one request, one error that holds the status."""
    wire = Wire(answer(status))
    with pytest.raises(RefusedError) as caught:
        talk(wire).send("GET", "Jobs", Answer.document)
    assert caught.value.status == status
    assert len(wire.sent) == 1


def test_the_tries_are_counted() -> None:
    """A policy of four tries makes four requests, then gives the last error."""
    wire = Wire(answer(503, reason="Server busy"))
    with pytest.raises(TransientError, match="Server busy"):
        talk(wire).send("GET", "Jobs", Answer.document)
    assert len(wire.sent) == 4


def test_a_caller_with_a_back_off_of_its_own_passes_none() -> None:
    """NO_RETRIES is one request."""
    wire = Wire(answer(503))
    with pytest.raises(TransientError):
        talk(wire).send("GET", "Jobs", Answer.document, retries=NO_RETRIES)
    assert len(wire.sent) == 1


def test_waits_grow_with_full_jitter_up_to_the_cap(slept: list[float]) -> None:
    """Each wait is anything between 0 and twice the last one's most, and never above the cap."""
    highest = [0.0] * 7
    for _ in range(60):
        slept.clear()
        policy = Retries(tries=8, first_wait=1, max_wait=10)
        with pytest.raises(TransientError):
            talk(Wire(answer(500))).send("GET", "Jobs", Answer.document, retries=policy)
        caps = [1, 2, 4, 8, 10, 10, 10]
        assert len(slept) == 7
        assert all(0 <= wait <= cap for wait, cap in zip(slept, caps, strict=True))
        highest = [max(pair) for pair in zip(highest, slept, strict=True)]
    assert all(most > cap / 2 for most, cap in zip(highest, caps, strict=True))


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form: str, slept: list[float]) -> None:
    """The service's own wish, in seconds or as a date, is the least that is waited."""
    moment = datetime.now(timezone.utc) + timedelta(seconds=8)
    value = "8" if form == "seconds" else format_datetime(moment, usegmt=True)
    wire = Wire(answer(429, Retry_After=value), answer(body=1))
    talk(wire).send("GET", "Jobs", Answer.document, retries=Retries(first_wait=0.5))
    assert len(slept) == 1
    assert 5 < slept[0] < 9


def test_a_service_that_wants_to_be_left_alone_is_left_alone(slept: list[float]) -> None:
    """A Retry-After far beyond the longest wait ends the tries, and is told to the caller."""
    wire = Wire(answer(503, Retry_After="3600"))
    with pytest.raises(TransientError) as caught:
        talk(wire).send("GET", "Jobs", Answer.document, retries=Retries())
    assert caught.value.retry_after == 3600
    assert (len(wire.sent), slept) == (1, [])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("²", None),
    ],
)
def test_retry_after_forms(value: str, seconds: float | None) -> None:
    """Seconds, dates (one that is past means now), and nothing for what is neither."""
    assert answer(503, Retry_After=value).retry_after == seconds


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_no_retry_after_breaks_the_reader(value: str) -> None:
    """Whatever the header holds, it is a time to wait, or nothing."""
    seconds = answer(503, Retry_After=value).retry_after
    assert seconds is None or seconds >= 0


def test_tries_and_waits_stay_within_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`within` bounds requests and waits together, and each request is told what is left of it."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    wire = Wire(answer(503, Retry_After="3"))
    policy = Retries(tries=100, within=10, first_wait=0, max_wait=5)
    with pytest.raises(TransientError):
        talk(wire).send("GET", "Jobs", Answer.document, retries=policy)
    assert [sent["time_left"] for sent in wire.sent] == [10, 7, 4, 1]


def test_no_time_left_is_still_one_request() -> None:
    """A wait whose time is up asks once: the answer may be the final one."""
    wire = Wire(answer(body=1))
    assert talk(wire).send("GET", "Jobs", Answer.document, retries=Retries(within=0)) == 1


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_create_that_has_not_begun_is_repeated(status: int) -> None:
    """Answers that say that nothing has happened let a create be sent again."""
    wire = Wire(answer(status), answer(201, body=1))
    assert talk(wire).send("POST", "Jobs", Answer.document, create=True) == 1
    assert len(wire.sent) == 2


@pytest.mark.parametrize(
    "act", [answer(500), answer(502), answer(504), TransientError("cut off"), answer(200, b"<html>")]
)
def test_a_create_that_may_have_happened_is_not_repeated(act: Answer | Exception) -> None:
    """Whoever may have created already must look before creating again."""
    wire = Wire(act, answer(201, body=1))
    with pytest.raises(UncertainError, match="may have happened"):
        talk(wire).send("POST", "Jobs", Answer.document, create=True)
    assert len(wire.sent) == 1


@pytest.mark.parametrize(
    "failure", [TransientError("busy", status=500), TransientError("no answer"), TransientError("cut off")]
)
def test_a_create_that_waits_for_its_token_has_not_happened(failure: TransientError) -> None:
    """Trouble of the token end point says nothing about a create that was not sent yet."""
    wire = Wire(answer(201, body=1))
    assert talk(wire, Tokens(failure)).send("POST", "Jobs", Answer.document, create=True) == 1
    assert len(wire.sent) == 1


def test_a_refused_token_is_renewed_once() -> None:
    """A 401 renews the token and asks again, in the same try."""
    wire = Wire(answer(401), answer(body=1))
    assert talk(wire, Tokens(), NO_RETRIES).send("GET", "Jobs", Answer.document) == 1
    assert [sent["token"] for sent in wire.sent] == ["token-1", "token-2"]


def test_a_second_401_is_a_refusal() -> None:
    """Two refused tokens end the matter, with advice."""
    wire = Wire(answer(401))
    with pytest.raises(RefusedError, match="Contributor") as caught:
        talk(wire, Tokens()).send("GET", "Jobs", Answer.document)
    assert caught.value.status == 401
    assert len(wire.sent) == 2


def test_a_pasted_token_cannot_be_renewed() -> None:
    """With nothing to renew, the first 401 is the last."""
    wire = Wire(answer(401))
    with pytest.raises(RefusedError, match="login and password"):
        talk(wire).send("GET", "Jobs", Answer.document)
    assert len(wire.sent) == 1


def test_every_request_has_an_id_of_its_own() -> None:
    """`x-ms-client-request-id` is fresh for each request, a repeated one too."""
    wire = Wire(answer(503), answer(503), answer(body=1))
    talk(wire).send("GET", "Jobs", Answer.document, headers={"h": "2"})
    assert len({sent["headers"]["x-ms-client-request-id"] for sent in wire.sent}) == 3
    assert all(sent["headers"]["h"] == "2" for sent in wire.sent)


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({"error": {"code": "Busy", "message": {"lang": "en-US", "value": "a\n b"}}}, "Busy", "a b"),
        ({"odata.error": {"code": "", "message": {"value": "light"}}}, None, "light"),
        ({"error": {"code": "X", "message": "plain"}}, "X", "plain"),
        ({"error": "text"}, None, "400 Bad: text"),
        ({"error": {"code": "C", "detail": "text", "extraDetail": {}}, "status": 400}, "C", "400 Bad: text"),
        (b"<html>no</html>", None, "400 Bad"),
        (b"", None, "400 Bad"),
        (b"\xff", None, "400 Bad"),
        ([1], None, "400 Bad"),
        ({"error": {"code": 5, "message": None}}, "5", "400 Bad"),
    ],
)
def test_an_error_carries_what_the_service_said(body: Any, code: str | None, text: str) -> None:
    """Status, code, message and request id are kept, from any form of body or none."""
    wire = Wire(answer(400, body, "Bad", x_ms_request_id="r-1"))
    with pytest.raises(RefusedError) as caught:
        talk(wire).send("GET", "Jobs", Answer.document)
    error = caught.value
    assert (error.status, error.code, error.request_id) == (400, code, "r-1")
    assert text in str(error)
    assert "request id r-1" in str(error)


def test_the_reference_for_support_is_kept() -> None:
    """MK.IO gives one in the body, and no header."""
    wire = Wire(answer(422, {"error": {"code": "C", "detail": "text"}, "status": 422, "ref": "r-2"}, "Bad"))
    with pytest.raises(RefusedError, match="request id r-2"):
        talk(wire).send("GET", "Jobs", Answer.document)


def test_a_redirect_that_is_not_followed_says_where_it_leads() -> None:
    """The token stays here, and the address without its path is named."""
    wire = Wire(answer(301, b"", "Moved", Location="https://elsewhere.test/x?sig=1"))
    transport = Transport(BASE, StaticToken("t"), wire, redirect_hosts=None, retries=QUICK)
    with pytest.raises(RefusedError, match=r"redirects to elsewhere\.test, where the token is not sent"):
        transport.send("GET", "Jobs", Answer.document)
    assert len(wire.sent) == 1


def test_no_secret_is_repeated_from_the_services_mouth() -> None:
    """A service that quotes our token, or a signed URL, is not quoted with it."""
    for status in (400, 401, 403, 500):
        quoted = "token-2" if status == 401 else "token-1"
        text = f"{quoted} may not read https://a.test/c?sv=1&sig=SEKRET"
        wire = Wire(answer(status, {"error": {"code": quoted, "message": text}}, reason=quoted))
        with pytest.raises(ServiceError) as caught:
            talk(wire, Tokens() if status == 401 else None, NO_RETRIES).send("GET", "J", Answer.document)
        assert "token-" not in str(caught.value)
        assert "SEKRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (requests.exceptions.ConnectTimeout("x"), TransientError),
        (requests.exceptions.ReadTimeout("x"), TransientError),
        (requests.exceptions.ConnectionError("x"), TransientError),
        (requests.exceptions.ChunkedEncodingError("x"), TransientError),
        (requests.exceptions.ContentDecodingError("x"), TransientError),
        (urllib3.exceptions.IncompleteRead(3, 5), TransientError),
        (urllib3.exceptions.ReadTimeoutError(None, "u", "x"), TransientError),  # type: ignore[arg-type]
        (requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED]"), RefusedError),
        (requests.exceptions.SSLError("EOF occurred"), TransientError),
        (requests.exceptions.InvalidURL("x"), RefusedError),
        (requests.exceptions.InvalidProxyURL("x"), RefusedError),
        (requests.exceptions.InvalidHeader("x"), TransientError),
        (UnicodeDecodeError("latin-1", b"", 0, 1, "x"), TransientError),
        (OSError("no CA bundle"), RefusedError),
        (PermissionError(errno.EACCES, "Permission denied"), RefusedError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), TransientError),
    ],
)
def test_every_error_below_becomes_one_of_ours(raised: Exception, kind: type[ServiceError]) -> None:
    """Callers see `ServiceError` only, split by what they can do about it."""
    with pytest.raises(kind), module._our_errors("https://media.windows.net/api/"):
        raise raised


def test_too_many_open_files_are_waited_out() -> None:
    """A process whose other tasks hold all the files it may open is not the connection's fault."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with (
            pytest.raises(TransientError, match=r"127\.0\.0\.1:9.*Too many open files"),
            module.Wire() as wire,
        ):
            wire.exchange("GET", "http://127.0.0.1:9/")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("token", ["line\nbreak", "smörgås\u2026", "carriage\rreturn"])
def test_a_token_that_no_header_can_carry_is_refused_unseen(token: str) -> None:
    """The message and its whole chain do not hold the token."""
    with module.Wire() as wire, pytest.raises(RefusedError, match="characters") as caught:
        wire.exchange("GET", "http://127.0.0.1:9/api/", token=token)
    shown = "".join(traceback.format_exception(caught.value))
    assert token not in shown
    assert token[-6:] not in shown


def test_a_proxys_password_is_not_shown() -> None:
    """What the libraries say of a proxy's URL that they cannot read holds user and password."""
    with pytest.raises(RefusedError) as caught, module._our_errors("https://media.windows.net/api/"):
        raise requests.exceptions.InvalidURL("Failed to parse: 'user:PASSWORD' is not a valid host or port")
    assert "PASSWORD" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [200, 503])
def test_json_that_nests_without_end_is_trouble(status: int) -> None:
    """An answer that the JSON reader cannot hold counts as unusable, like one that is no JSON."""
    with pytest.raises(TransientError):
        talk(Wire(answer(status, b"[" * 200_000)), None, NO_RETRIES).send("GET", "J", Answer.document)


def test_a_sign_in_is_told_what_time_is_left() -> None:
    """`within` bounds the sign-in of a poll, too."""
    told: list[float | None] = []

    def fetch(time_left: float | None) -> tuple[str, float]:
        told.append(time_left)
        return "token", 3600.0

    policy = Retries(tries=1, within=7)
    talk(Wire(answer(body=1)), CachedTokens(fetch), policy).send("GET", "J", Answer.document)
    assert told[0] == pytest.approx(7, abs=1)


Make = Callable[[], ServiceError]


@pytest.mark.parametrize(
    "make",
    [
        lambda: module.NoAnswerError("x", sent=True),
        lambda: TransientError("x", retry_after=3, status=503),
        lambda: RefusedError("x", status=401, code="c", request_id="r"),
        lambda: UncertainError("x"),
    ],
)
def test_errors_can_be_copied_and_pickled(make: Make) -> None:
    """Errors travel between threads (a shared failure) and processes (a task's runner)."""
    import copy
    import pickle

    error = make()
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
