"""How a process spreads its reads, so that it stays below what a service allows."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_ams.api.mkio import AFTER_REFUSAL, BURST, READS_A_MINUTE
from airflow_ams.api.pace import Budget, Pace, ReadsLeft, shared_budget, shared_reads_left
from airflow_ams.api.retries import NO_RETRIES
from airflow_ams.api.tokens import SignIn, StaticToken
from airflow_ams.api.transport import Transport
from tests.unit.v3_stub import ARM, JOB, TOKEN, Wire, answer, job

READS = "x-ms-ratelimit-remaining-subscription-reads"


class Clock:
    """A clock that stands still but for sleeps, which are noted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock, since a minute of reality takes a minute."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


def read(pace: Pace, times: int, clock: Clock) -> float:
    """Read so often; return for how many seconds that was held up."""
    began = clock.now
    for _ in range(times):
        pace.wait()
    return clock.now - began


def left(count: Any, name: str = READS) -> Any:
    """Answer with so many reads left."""
    return answer(document=job(), headers={name: str(count)})


def test_a_budget_lets_a_burst_pass_then_spreads(clock: Clock) -> None:
    """As many as may come together do; the others come evenly."""
    pace = Budget(60, burst=10, after_refusal=5)
    assert read(pace, 10, clock) == 0
    assert read(pace, 60, clock) == pytest.approx(60, abs=1)


def test_no_minute_has_more_reads_than_the_budget(clock: Clock) -> None:
    """Whatever MK.IO's project allows, 2,000 a minute, this process stays below, however it asks."""
    pace = Budget(READS_A_MINUTE, burst=BURST, after_refusal=AFTER_REFUSAL)
    at: list[float] = []
    for number in range(6000):
        if number % 1500 == 0:
            # A pause, after which a burst may come again.
            clock.now += 30
        pace.wait()
        at.append(clock.now)
    most = max(sum(1 for other in at if first <= other < first + 60) for first in at[::50])
    assert READS_A_MINUTE <= most < 2000


def test_what_was_not_used_is_not_kept_for_ever(clock: Clock) -> None:
    """After an hour of silence no more come together than after the first."""
    pace = Budget(60, burst=10, after_refusal=5)
    pace.wait()
    clock.now += 3600
    assert read(pace, 10, clock) == 0
    assert read(pace, 5, clock) >= 3


def test_a_refusal_that_names_no_time_holds_all_up(clock: Clock) -> None:
    """Others have used the budget: nothing for a while, and then no burst."""
    pace = Budget(60, burst=10, after_refusal=5)
    pace.wait()
    pace.learn(answer(429))
    assert read(pace, 1, clock) == pytest.approx(5)
    assert read(pace, 3, clock) == pytest.approx(3)


@pytest.mark.parametrize(
    "said", [answer(429, headers={"Retry-After": "7"}), answer(503), answer(200), answer(404)]
)
def test_other_answers_change_no_budget(clock: Clock, said: Any) -> None:
    """A time that is named is kept by who asked."""
    pace = Budget(60, burst=10, after_refusal=5)
    pace.learn(said)
    assert read(pace, 10, clock) == 0


def test_who_has_little_time_does_not_sleep_longer(clock: Clock) -> None:
    """A caller's own end comes first."""
    pace = Budget(60, burst=1, after_refusal=5)
    pace.hold(100)
    pace.wait(2.0)
    assert clock.slept == [2.0]
    pace.wait(0.0)
    pace.wait(-1.0)
    assert clock.slept == [2.0]


def test_reads_are_not_slowed_while_many_are_left(clock: Clock) -> None:
    """Nor before anything is known."""
    pace = ReadsLeft()
    assert read(pace, 1000, clock) == 0
    pace.learn(left(100))
    assert read(pace, 1000, clock) == 0
    pace.learn(left(11999))
    assert read(pace, 1000, clock) == 0


def test_reads_slow_down_before_the_wall(clock: Clock) -> None:
    """The fewer are left the longer each takes, up to half a second."""
    took = []
    for count in (99, 50, 10, 0):
        pace = ReadsLeft()
        pace.learn(left(count))
        took.append(read(pace, 11, clock) / 10)
    assert took == sorted(took)
    assert 0 < took[0] < 0.1
    assert took[-1] == pytest.approx(0.5)


def test_reads_are_as_fast_as_before_when_there_are_more_again(clock: Clock) -> None:
    """The next answer that has more lifts it."""
    pace = ReadsLeft()
    pace.learn(left(0))
    read(pace, 2, clock)
    pace.learn(left(200))
    pace.wait()
    assert read(pace, 10, clock) == 0


@pytest.mark.parametrize(
    "name",
    [
        READS,
        "x-ms-ratelimit-remaining-tenant-reads",
        "x-ms-ratelimit-remaining-subscription-resource-requests",
        "x-ms-ratelimit-remaining-subscription-resource-entities-read",
    ],
)
def test_every_counter_of_reads_counts(clock: Clock, name: str) -> None:
    """The lowest of them."""
    pace = ReadsLeft()
    pace.learn(answer(headers={READS: "5000", name: "0"}))
    assert read(pace, 2, clock) == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "many", "-1", "1.5", "0x0", "9" * 400])
def test_a_counter_that_is_none_says_nothing(clock: Clock, text: str) -> None:
    """What was known before stays; nothing crashes."""
    pace = ReadsLeft()
    pace.learn(left(text))
    assert read(pace, 10, clock) == 0


def test_the_counter_of_writes_does_not_slow_reads(clock: Clock) -> None:
    """They are counted apart."""
    pace = ReadsLeft()
    pace.learn(left(0, "x-ms-ratelimit-remaining-subscription-writes"))
    assert read(pace, 10, clock) == 0


def test_a_transport_waits_before_reads_and_learns_from_all_answers(clock: Clock) -> None:
    """Writes go at once."""
    wire = Wire(left(0))
    transport = Transport(ARM.base, StaticToken(TOKEN), wire, pace=ReadsLeft(), retries=NO_RETRIES)
    service = ARM.make(transport)
    service.get_job(JOB)
    service.cancel_job(JOB)
    service.cancel_job(JOB)
    assert clock.slept == []
    service.get_job(JOB)
    service.get_job(JOB)
    assert sum(clock.slept) == pytest.approx(0.5)


def test_one_process_has_one_pace_for_an_account() -> None:
    """Every hook and every trigger of it share the budget; another account has another."""
    assert shared_budget(("base", "project"), 60, 10, 5) is shared_budget(("base", "project"), 60, 10, 5)
    assert shared_budget(("base", "project"), 60, 10, 5) is not shared_budget(("base", "other"), 60, 10, 5)
    who = SignIn("entra", "client", "secret")
    assert shared_reads_left((who, "a")) is shared_reads_left((SignIn("entra", "client", "secret"), "a"))
    assert shared_reads_left((who, "a")) is not shared_reads_left((SignIn("entra", "other", "secret"), "a"))
