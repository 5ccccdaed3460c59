"""Tokens are kept while they are good, and fetched once for all who wait."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_ams.api import tokens as module
from airflow_ams.api.errors import RefusedError, ServiceError, TransientError
from airflow_ams.api.tokens import CachedTokens, SignIn, StaticToken, shared_tokens
from airflow_ams.api.wire import NoAnswerError

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
