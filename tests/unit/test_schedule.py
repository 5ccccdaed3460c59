"""When which job is read: never late, never twice at once."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_ams.api.model import Job, JobState
from airflow_ams.triggers.schedule import SLACK, Schedule, Watched, jittered

INTERVALS = [1.0, 5.0, 60.0]


def job(number: int, interval: float = 10.0) -> Watched:
    """Make a job that somebody waits for."""
    return Watched(f"nb:jid:UUID:{number}", interval)


def test_a_new_job_is_read_at_once_and_then_once_an_interval() -> None:
    """A quarter of the interval may be saved, so that jobs are read together."""
    schedule, one = Schedule(), job(1)
    assert schedule.next_due() == math.inf
    schedule.add(one)
    assert schedule.next_due() == -math.inf
    assert schedule.due(100.0) == [one]
    schedule.read(one, 100.0)
    assert schedule.next_due() == 110.0
    assert schedule.due(110.0 - 10 * SLACK - 0.01) == []
    assert schedule.due(110.0 - 10 * SLACK) == [one]


def test_a_job_can_be_added_again() -> None:
    """Somebody wants it read now; it is read once, and again one interval later."""
    schedule, one = Schedule(), job(1)
    schedule.add(one)
    schedule.read(one, 0.0)
    schedule.add(one)
    schedule.add(one)
    assert schedule.due(1.0) == [one]
    assert list(schedule) == [one]
    schedule.read(one, 1.0)
    assert schedule.due(1.0) == []
    assert schedule.next_due() == 11.0


def test_a_sweep_reads_all() -> None:
    """Whichever their turn was."""
    schedule, jobs = Schedule(), [job(n) for n in range(3)]
    for one in jobs:
        schedule.add(one)
    schedule.read(jobs[0], 5.0)
    schedule.swept(10.0, {one.id for one in jobs})
    assert schedule.due(15.0) == []
    assert schedule.next_due() == 20.0
    assert sorted(one.id for one in schedule) == [one.id for one in jobs]


def test_who_comes_during_a_sweep_is_not_read_by_it() -> None:
    """What the sweep did not look for is still to be read."""
    schedule, early, late = Schedule(), job(1), job(2)
    schedule.add(early)
    schedule.add(late)
    schedule.swept(10.0, {early.id})
    assert schedule.due(11.0) == [late]


def test_the_slow_have_their_turn_when_there_is_too_much_to_do() -> None:
    """Those that have been due for longest come first, whatever their interval is."""
    schedule, fast, slow = Schedule(), [job(n, 5.0) for n in range(50)], job(99, 60.0)
    for second, one in enumerate([*fast, slow]):
        schedule.add(one)
        schedule.read(one, second / 100)
    read: list[Watched] = []
    for second in range(5, 70):
        for one in schedule.due(float(second))[:5]:
            schedule.read(one, float(second))
            read.append(one)
    assert slow in read
    assert {read.count(one) for one in fast} <= {6, 7}


def test_slow_jobs_are_read_with_the_fast_ones() -> None:
    """A sweep for the fastest answers for the others, whose turn moves on."""
    schedule, fast, slow = Schedule(), job(1, 1.0), job(2, 3.0)
    for one in (fast, slow):
        schedule.add(one)
    for second in range(10):
        schedule.swept(float(second), {fast.id, slow.id})
        assert schedule.next_due() == second + 1.0
        assert slow not in schedule.due(second + 1.0)


def test_a_job_that_is_to_be_read_more_often() -> None:
    """Somebody with a smaller interval has joined, and later left."""
    schedule, one = Schedule(), job(1, 60.0)
    schedule.add(one)
    schedule.read(one, 0.0)
    schedule.set_interval(one, 5.0)
    assert schedule.next_due() == 5.0
    schedule.set_interval(one, 600.0)
    assert schedule.next_due() == 600.0


def test_a_forgotten_job_is_not_read() -> None:
    """Whether it has been read or not; it may be added again."""
    schedule, one, other = Schedule(), job(1), job(2)
    schedule.add(one)
    schedule.add(other)
    schedule.read(one, 0.0)
    for gone in (one, other):
        schedule.remove(gone)
    assert schedule.next_due() == math.inf
    assert schedule.due(100.0) == []
    schedule.add(other)
    assert schedule.due(70.0) == [other]


@given(st.floats(1, 1e6))
def test_jitter_is_a_little_less_than_an_interval(interval: float) -> None:
    """Newcomers spread out, and none is late."""
    assert interval * (1 - SLACK) <= jittered(interval) <= interval


class Model(RuleBasedStateMachine):
    """Jobs come, are read and go, in any order; the machine holds the schedule to its promises."""

    @initialize()
    def begin(self) -> None:
        """Start with nobody."""
        self.now = 1000.0
        self.schedule = Schedule()
        self.jobs: dict[int, Watched] = {}
        # When each is to be read at the latest.
        self.wanted: dict[int, float] = {}
        self.read_at: dict[int, float] = {}
        self.count = 0

    @rule(interval=st.sampled_from(INTERVALS))
    def join(self, interval: float) -> None:
        """A task's first poll is due, of a job of its own."""
        self.count += 1
        self.jobs[self.count] = one = job(self.count, interval)
        self.wanted[self.count] = self.now
        self.schedule.add(one)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), interval=st.sampled_from(INTERVALS))
    def join_another(self, data: Any, interval: float) -> None:
        """A task's first poll is due, of a job that is there."""
        number = data.draw(st.sampled_from(sorted(self.jobs)))
        self.schedule.set_interval(self.jobs[number], min(self.jobs[number].interval, interval))
        self.schedule.add(self.jobs[number])
        self.wanted[number] = self.now
        self.read_at.pop(number, None)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        """A job is not waited for any more."""
        number = data.draw(st.sampled_from(sorted(self.jobs)))
        self.schedule.remove(self.jobs.pop(number))
        self.wanted.pop(number)
        self.read_at.pop(number, None)

    @rule(sweep=st.booleans(), lag=st.floats(0, 0.1))
    def wait_and_read(self, sweep: bool, lag: float) -> None:
        """Go on to when something is due, and read what is."""
        at = self.schedule.next_due()
        if at == math.inf:
            assert not self.jobs
            return
        self.now = max(self.now, at) + lag
        due = self.schedule.due(self.now)
        assert due, "it said that something would be due"
        numbers = [int(one.id.rpartition(":")[2]) for one in due]
        assert len(set(numbers)) == len(numbers)
        for number in numbers:
            if number in self.read_at:
                interval = self.jobs[number].interval
                assert self.now - self.read_at[number] >= interval * (1 - SLACK) - 1e-6
        if sweep:
            self.schedule.swept(self.now, {one.id for one in self.jobs.values()})
            numbers = list(self.jobs)
        else:
            for one in due:
                self.schedule.read(one, self.now)
        for number in numbers:
            self.read_at[number] = self.now
            self.wanted[number] = self.now + self.jobs[number].interval

    @invariant()
    def nobody_is_late(self) -> None:
        """The next reading comes when the most urgent job wants it, and all that are due are read."""
        if self.jobs:
            assert self.schedule.next_due() <= min(self.wanted.values()) + 1e-6
        late = {number for number, at in self.wanted.items() if at <= self.now}
        assert late <= {int(one.id.rpartition(":")[2]) for one in self.schedule.due(self.now)}
        assert {one.id for one in self.schedule} == {one.id for one in self.jobs.values()}

    def teardown(self) -> None:
        """Nothing is left when all have gone."""
        for one in self.jobs.values():
            self.schedule.remove(one)
        assert self.schedule.next_due() == math.inf
        assert list(self.schedule) == []


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("before", "after", "seconds", "has_moved"),
    [
        (None, 0.0, 0, True),
        (40.0, 40.4, 3600, False),
        (40.0, 41.0, 1, False),
        (40.0, 41.0, 30, True),
        (40.0, 44.9, 1, False),
        (40.0, 45.0, 1, True),
        (40.0, 30.0, 1, True),
    ],
)
def test_a_percent_on_a_list_is_looked_at_when_it_has_moved(
    before: float | None, after: float, seconds: float, has_moved: bool
) -> None:
    """By five points, or at all if the last look was half a minute ago."""
    watched = job(1)
    watched.job = Job(watched.id, "a", JobState.PROCESSING, before)
    watched.moved_at = 1000.0
    assert watched.has_moved(after, 1000.0 + seconds) is has_moved
