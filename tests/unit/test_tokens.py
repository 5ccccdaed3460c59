"""Tokens are kept while they are good, and fetched once for all who wait."""

from __future__ import annotations

import builtins
import json
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from airflow_ams.api import tokens as module
from airflow_ams.api.errors import RefusedError, ServiceError, SignInError, TransientError
from airflow_ams.api.tokens import CachedTokens, SignIn, StaticToken, shared_tokens
from airflow_ams.api.wire import Answer, NoAnswerError, Wire

KEY = "a-very-secret-key"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stand still at 1000 s, until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def numbered(lifetime: float) -> tuple[CachedTokens, list[str]]:
    """Make a cache whose tokens are numbered, and the list of those fetched."""
    fetched: list[str] = []

    def fetch(time_left: float | None) -> tuple[str, float]:
        fetched.append(f"token-{len(fetched) + 1}")
        return fetched[-1], lifetime

    return CachedTokens(fetch), fetched


@pytest.mark.parametrize(
    ("lifetime", "used_for"), [(21600, 21300), (3600, 3300), (3000, 2700), (100, 90), (1, 0.9)]
)
def test_a_token_is_renewed_before_it_ends(lifetime: float, used_for: float, clock: list[float]) -> None:
    """Five minutes before its end, or at nine tenths of a short life."""
    source, fetched = numbered(lifetime)
    assert source.token() == "token-1"
    clock[0] += used_for - 0.01
    assert source.token() == "token-1"
    clock[0] += 0.02
    assert source.token() == "token-2"
    assert len(fetched) == 2


@pytest.mark.parametrize("lifetime", [0.0, -5.0])
def test_a_token_that_is_over_already_is_still_given(lifetime: float, clock: list[float]) -> None:
    """A service whose clock is wrong still gets its token, fetched each time."""
    source, _ = numbered(lifetime)
    assert [source.token(), source.token()] == ["token-1", "token-2"]


def test_a_refused_token_is_renewed_once_for_all_who_had_it() -> None:
    """Only the first who comes back with a refused token fetches; the others get what it fetched."""
    source, fetched = numbered(3600)
    first = source.token()
    assert source.renewed(first) == "token-2"
    assert source.renewed(first) == "token-2"
    assert source.renewed("token-2") == "token-3"
    assert len(fetched) == 3


def at_once(
    count: int, call: Callable[[], Any], release: threading.Event, waiting: Callable[[], bool]
) -> list[Any]:
    """Make calls from many threads, let them pile up, then release; return what each returned or raised."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except ServiceError as exc:
            results.append(exc)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    assert waiting()
    release.set()
    for thread in threads:
        thread.join(20)
    assert len(results) == count
    return results


class SlowFetch:
    """A fetch that lasts until it is released, and counts how often it was called."""

    def __init__(self, outcome: Callable[[], tuple[str, float]]) -> None:
        self.calls = 0
        self.begun = threading.Event()
        self.release = threading.Event()
        self._outcome = outcome

    def __call__(self, time_left: float | None) -> tuple[str, float]:
        """Wait for the release, then do what was said."""
        self.calls += 1
        self.begun.set()
        assert self.release.wait(20)
        return self._outcome()


class CountedLock:
    """A lock that knows how many came to it, since a plain one tells nobody who waits."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._came = threading.Semaphore(0)

    def __enter__(self) -> None:
        self._came.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def awaited(self, count: int) -> bool:
        """Wait until so many have come."""
        return all(self._came.acquire(timeout=20) for _ in range(count))


def failing() -> tuple[str, float]:
    """Fail as a token end point that cannot be reached does."""
    raise NoAnswerError("unreachable", sent=False)


@pytest.mark.parametrize("late", [False, True])
def test_fifty_waiters_make_one_fetch(late: bool) -> None:
    """All get the one token, whether they came before the fetch began or while it went on."""
    fetch = SlowFetch(lambda: ("token", 3600))
    source = CachedTokens(fetch)
    if late:
        threading.Thread(target=source.token).start()
        assert fetch.begun.wait(20)
    results = at_once(50, source.token, fetch.release, lambda: fetch.begun.wait(20))
    assert results == ["token"] * 50
    assert fetch.calls == 1


def test_fifty_waiters_share_one_failure() -> None:
    """Who waited for a fetch that failed does not try again one after another; who comes later does."""
    fetch = SlowFetch(failing)
    source = CachedTokens(fetch)

    def fail() -> None:
        with pytest.raises(TransientError):
            source.token()

    first = threading.Thread(target=fail)
    first.start()
    assert fetch.begun.wait(20)
    lock: Any = CountedLock(source._lock)
    source._lock = lock
    results = at_once(50, source.token, fetch.release, lambda: lock.awaited(50))
    first.join(20)
    assert [type(result) for result in results] == [NoAnswerError] * 50
    assert len({id(result) for result in results}) == 50, "each needs a traceback of its own"
    assert fetch.calls == 1
    with pytest.raises(TransientError):
        source.token()
    assert fetch.calls == 2


def test_a_failure_is_forgotten_with_the_next_token() -> None:
    """After a failed fetch the next caller fetches, and its token is kept."""
    outcomes: list[Any] = [TransientError("down"), ("token", 3600.0)]

    def fetch(time_left: float | None) -> tuple[str, float]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    source = CachedTokens(fetch)
    with pytest.raises(TransientError):
        source.token()
    assert source.token() == "token"
    assert source.token() == "token"


def test_a_pasted_token_is_what_it_is() -> None:
    """There is no other, so a refused one is not renewed."""
    source = StaticToken("abc")
    assert source.token() == "abc"
    assert source.renewed("abc") is None


def test_equal_sign_ins_share_their_tokens() -> None:
    """Many hooks of one connection make one sign-in; another key, tenant or URL is another sign-in."""
    one = SignIn("acs", "account", KEY)
    assert shared_tokens(one) is shared_tokens(SignIn("acs", "account", KEY))
    for other in (
        SignIn("acs", "account", "other"),
        SignIn("acs", "other", KEY),
        SignIn("entra", "account", KEY, tenant_id="t"),
        SignIn("acs", "account", KEY, token_url="https://sts.test/"),
    ):
        assert shared_tokens(other) is not shared_tokens(one)


def test_no_repr_shows_a_secret() -> None:
    """Whatever is printed of a sign-in, a token or a cache, key and token are not in it."""
    for thing in (
        SignIn("acs", "account", KEY),
        StaticToken(KEY),
        CachedTokens(lambda time_left: (KEY, 1.0)),
    ):
        assert KEY not in repr(thing)
        assert KEY not in str(thing)


def test_a_missing_azure_identity_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library, the error is the command that installs it."""
    real = builtins.__import__

    def blocked(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("azure"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(RefusedError, match=r"pip install 'airflow-ams\[entra\]'"):
        shared_tokens(SignIn("entra", "client", KEY, tenant_id="tenant")).token()


@pytest.mark.parametrize("long", [False, True])
def test_what_the_library_says_is_cut_without_cutting_a_secret_open(long: bool) -> None:
    """A key that a sign-in error quotes is blanked, also where the text is cut."""
    text = "x" * (295 if long else 10) + KEY + " is wrong"
    line = module._first_line(ValueError(text), KEY)
    assert KEY[:5] not in line
    assert len(line) <= 300


def test_an_error_without_text_has_its_name() -> None:
    """The line is never empty."""
    assert module._first_line(ValueError(), KEY) == "ValueError"


# -- the API keys of RMS

SKEW = 7200
"""Seconds by which a clock may be wrong."""


def jwt_of(**claims: Any) -> str:
    """Make a JWT as RMS does; nobody here can verify it."""
    return jwt.encode({"sub": "contoso", **claims}, "no-secret-of-ours-but-a-long-one", algorithm="HS256")


def sign_in_at(url: str) -> CachedTokens:
    """Return the tokens of an API key."""
    return shared_tokens(SignIn("api_key", "subscription", KEY, token_url=f"{url}auth/token"))


def lifetime_of(url: str) -> float:
    """Sign in, and return for how long the token is taken to be good."""
    return module._api_key_token(SignIn("api_key", "s", KEY, token_url=f"{url}auth/token"), None)[1]


def test_an_api_key_becomes_a_token(service: Any, reply: Any) -> None:
    """Subscription and key as JSON, once, to one address; a bare JWT comes back."""
    token = jwt_of(exp=time.time() + 3600)
    running = service(lambda seen: reply(body=token.encode(), headers={"Content-Type": "text/plain"}))
    source = sign_in_at(running.url)
    assert [source.token(), source.token()] == [token, token]
    (seen,) = running.seen
    assert (seen.method, seen.target) == ("POST", "/auth/token")
    assert json.loads(seen.body) == {"subscriptionId": "subscription", "apiKey": KEY}
    headers = {name.lower(): value for name, value in seen.headers.items()}
    assert headers["content-type"] == "application/json"
    assert "authorization" not in headers


@pytest.mark.parametrize("around", ["{}", '"{}"', "{}\r\n", ' "{}"\n', "\ufeff{}"])
def test_a_token_may_come_as_a_json_text(service: Any, reply: Any, around: str) -> None:
    """A framework that writes JSON puts it into quotes; blanks, or a mark, may be around it."""
    token = jwt_of(exp=time.time() + 3600)
    running = service(lambda seen: reply(body=around.format(token).encode()))
    assert sign_in_at(running.url).token() == token


def test_a_token_is_good_for_as_long_as_it_says(service: Any, reply: Any) -> None:
    """By `exp`, from now on: it may have been made a while ago, whatever its `iat` is."""
    now = int(time.time())
    tokens = [jwt_of(exp=now + 1800, **iat) for iat in ({}, {"iat": now}, {"iat": now - SKEW}, {"iat": None})]
    running = service(lambda seen: reply(body=tokens.pop(0).encode()))
    assert [lifetime_of(running.url) for _ in range(4)] == pytest.approx([1800] * 4, abs=60)


def test_a_clock_that_is_ahead_makes_no_sign_in_for_every_request(
    service: Any, reply: Any, clock: list[float]
) -> None:
    """Tokens that seem to be over when they come are used for a while all the same."""
    now = int(time.time()) - SKEW
    running = service(lambda seen: reply(body=jwt_of(iat=now, exp=now + 1800).encode()))
    source = sign_in_at(running.url)
    source.token()
    clock[0] += 25
    source.token()
    assert len(running.seen) == 1
    clock[0] += 10
    source.token()
    assert len(running.seen) == 2


@pytest.mark.parametrize(
    "body",
    [
        jwt_of().encode(),
        jwt_of(exp=None).encode(),
        jwt_of(exp="soon").encode(),
        jwt_of(exp=[1]).encode(),
        jwt_of(exp=float("nan")).encode(),
        jwt_of(exp=float("inf")).encode(),
        jwt_of(exp=10**400).encode(),
        b"",
        b'""',
        b"null",
        b"a.b.c",
        b"<html>busy</html>",
        b"\xff\xfe\x00",
        json.dumps({"token": jwt_of(exp=9e9)}).encode(),
        b'{"error": "no"}',
    ],
)
def test_what_does_not_tell_when_it_expires_is_no_token(service: Any, reply: Any, body: bytes) -> None:
    """It is trouble that may pass; nothing of it is shown, since it may be a token all the same."""
    running = service(lambda seen: reply(body=body))
    with pytest.raises(TransientError, match="expires") as caught:
        sign_in_at(running.url).token()
    shown = "".join(traceback.format_exception(caught.value))
    assert body.decode("utf-8", "replace")[:20] not in shown or not body
    assert KEY not in shown


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_an_api_key_that_has_expired_is_not_an_expired_token(service: Any, reply: Any, status: int) -> None:
    """A new token would not help: it is the key that is over, and the message says so."""
    running = service(lambda seen: reply(status, {"error": f"no {KEY}"}))
    with pytest.raises(SignInError, match=r"The key itself, which is not the token") as caught:
        sign_in_at(running.url).token()
    assert caught.value.status == status
    assert not caught.value.may_pass
    assert "password" in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert len(running.seen) == 1


@pytest.mark.parametrize("status", [301, 404, 405, 410])
def test_a_host_without_a_sign_in_is_told_by_its_name(service: Any, reply: Any, status: int) -> None:
    """A gateway's 404 is not about the key: it is the host that is to be looked at."""
    running = service(lambda seen: reply(status, body=b"<html>", headers={"Location": "https://evil.test/"}))
    with pytest.raises(RefusedError, match="host") as caught:
        sign_in_at(running.url).token()
    assert not isinstance(caught.value, SignInError)
    assert f"127.0.0.1:{running.port}" in str(caught.value)
    assert "/auth/token" in str(caught.value)
    assert len(running.seen) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504])
def test_a_busy_sign_in_may_pass(service: Any, reply: Any, status: int) -> None:
    """It is trouble, with the time to stay away if the service gives one.

    The status is in the text alone: a 501 is no word on what was to be asked with the token.
    """
    running = service(lambda seen: reply(status, headers={"Retry-After": "7"}))
    with pytest.raises(TransientError) as caught:
        sign_in_at(running.url).token()
    assert caught.value.retry_after == 7
    assert str(status) in str(caught.value)
    assert caught.value.status is None
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("status", [401, 404, 503])
def test_a_status_line_that_quotes_the_key_is_blanked(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Nothing that a service says is shown with the key in it."""
    # The wire is replaced: the test's own server writes no phrase but its own.
    said = Answer(status, f"Key {KEY} is bad", {}, KEY.encode())
    monkeypatch.setattr(Wire, "exchange", lambda *_, **__: said)
    with pytest.raises(ServiceError, match=r"Key \*\*\* is bad"):
        sign_in_at("https://rms.test/").token()


def test_a_refused_token_is_fetched_anew(service: Any, reply: Any) -> None:
    """The next one is another; a key that has expired meanwhile is told then."""
    replies = [reply(body=jwt_of(exp=time.time() + 3600, jti=str(n)).encode()) for n in range(2)]
    replies.append(reply(401))
    running = service(lambda seen: replies.pop(0))
    source = sign_in_at(running.url)
    first = source.token()
    second = source.renewed(first)
    assert second not in (None, first)
    with pytest.raises(SignInError):
        source.renewed(second)
