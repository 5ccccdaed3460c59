"""What a wait asks for, what it says, and what it survives."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout

from airflow_ams.exceptions import AmsJobFailed, AmsJobNotFound, AmsRefused
from tests.integration.waits import MODES, OUTPUTS, TASKS, WIRES, all_apis, audible, lines, sensor
from tests.integration.waits import UNKNOWN as ID

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator


@all_apis
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_unknown_states_are_waited_through(
    mode: str, ams: Emulator, wait: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A state without a name ends nothing: the next one counts; poke mode mentions it once."""
    states = [{"state": 9, "seconds": 0.5}, "Finished"]
    with caplog.at_level(logging.INFO):
        assert wait(sensor(ams.submit_scripted(states=states), mode=mode))["state"] == "Finished"
    state = 9 if ams.api == "v2" else "'State9'"
    said = [line for line in lines(caplog) if f"the service says {state}" in line]
    assert said
    if mode == "poke":
        assert len(said) == 1


@all_apis
def test_a_job_stuck_in_an_unknown_state_ends_by_timeout(ams: Emulator, wait: Callable[..., Any]) -> None:
    """The wait is bounded by the sensor's own time-out."""
    with pytest.raises(AirflowSensorTimeout):
        wait(sensor(ams.submit_scripted(states=[9]), timeout=0.3))


@all_apis
def test_a_job_that_appears_late_is_waited_for(
    ams: Emulator, wait: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An id that the service does not know yet is asked for again, within the grace."""
    job_id = ams.submit_scripted(states=["Finished"], appear_after=0.5)
    with caplog.at_level(logging.INFO):
        assert wait(sensor(job_id, not_found_grace=60))["id"] == job_id
    assert "asking again" in caplog.text


@all_apis
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_the_grace_ends(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """An unknown id fails once the grace is over, counted in reschedule mode from the first reschedule."""
    poll = sensor(WIRES[ams.api].unknown, mode=mode, not_found_grace=0.4, poke_interval=0.1)
    with pytest.raises(AmsJobNotFound, match="90 days"):
        wait(poll)
    assert len(ams.requests(WIRES[ams.api].job)) >= 2


@all_apis
def test_a_job_that_vanishes_is_not_found(ams: Emulator, wait: Callable[..., Any]) -> None:
    """A record that is deleted in mid-wait ends the wait, after the grace."""
    states = [{"state": "Processing", "seconds": 3600}]
    job_id = ams.submit_scripted(states=states, vanish_after=0.3)
    with pytest.raises(AmsJobNotFound):
        wait(sensor(job_id, not_found_grace=0))


@all_apis
def test_poke_mode_says_what_changes(ams: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each change of state or percent, with percent and the task's name; none in between."""
    ams.freeze()
    states = [
        {"state": "Queued", "seconds": 10},
        {"state": "Processing", "seconds": 10, "progress": 40},
        {"state": "Processing", "seconds": 10, "progress": 80},
        "Finished",
    ]
    job_id = ams.submit_scripted(name="Encode", states=states)
    poll = audible(sensor(job_id))
    with caplog.at_level(logging.INFO), poll.hook:
        for _ in range(4):
            for _ in range(3):
                poll.poke({})
            ams.advance(10)
    wire = WIRES[ams.api]
    title = f"{wire.title(job_id)} is "
    assert lines(caplog) == [
        f"{title}Queued",
        f"{title}Processing, {wire.percent(40)}",
        f"{title}Processing, {wire.percent(80)}",
        f"{title}Finished",
    ]


def test_poke_mode_breaks_a_long_silence(
    ams_emulator: Emulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unchanged job is mentioned again every five minutes (the test sets the clock)."""
    start = time.monotonic()
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing", "progress": 40}])
    poll = audible(sensor(job_id))
    with caplog.at_level(logging.INFO):
        for minutes in (0, 1, 4.9, 5.1, 6, 10, 10.2):
            monkeypatch.setattr(time, "monotonic", lambda now=start + 60 * minutes: now)
            poll.poke({})
    assert len(lines(caplog)) == 3


@all_apis
def test_reschedule_mode_says_one_line_a_poke(
    ams: Emulator, wait: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It has no memory, so each poke says where the job stands."""
    states = [{"state": "Processing", "seconds": 0.5, "progress": 40}, "Finished"]
    job_id = ams.submit_scripted(states=states)
    with caplog.at_level(logging.INFO):
        wait(sensor(job_id, mode="reschedule", poke_interval=0.1))
    assert len(lines(caplog)) == len(ams.requests(WIRES[ams.api].job)) > 2


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a poll soon go on without what it cannot read of a job that has ended."""
    monkeypatch.setattr("airflow_ams.sensors.polling.DETAILS_PATIENCE", 0.2)


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 403}, {"html": True}, {"drop": True}])
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_unreadable_outputs_spoil_nothing(
    mode: str,
    fault: dict[str, Any],
    ams_emulator: Emulator,
    wait: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    quick_retries: None,
    short_patience: None,
) -> None:
    """A finished job is finished: outputs is null in the end, with one warning."""
    job_id = ams_emulator.submit_scripted(states=["Finished"])
    ams_emulator.inject({"when": {"path": OUTPUTS}, "then": fault})
    with caplog.at_level(logging.WARNING):
        document = wait(sensor(job_id, mode=mode))
    assert (document["state"], document["outputs"]) == ("Finished", None)
    warnings = lines(caplog, logging.WARNING)
    assert len([warning for warning in warnings if "outputs could not be read" in warning]) == 1
    assert "outputs could not be read" in warnings[-1]
    passes = mode == "poke" and fault != {"status": 403}
    assert passes == any("has ended, but cannot be read in full" in warning for warning in warnings)


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 403}, {"html": True}, {"drop": True}])
def test_unreadable_errors_spoil_nothing(
    fault: dict[str, Any],
    ams_emulator: Emulator,
    wait: Callable[..., Any],
    quick_retries: None,
    short_patience: None,
) -> None:
    """A failed job has failed, and the message says that its reasons could not be read."""
    job_id = ams_emulator.submit_scripted(name="Encode", states=["Error"])
    ams_emulator.inject({"when": {"path": TASKS}, "then": fault})
    with pytest.raises(AmsJobFailed, match=r"'Encode'.*could not be read"):
        wait(sensor(job_id))


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 404}, {"drop": True}])
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_outputs_and_reasons_are_asked_for_again(
    mode: str,
    fault: dict[str, Any],
    ams_emulator: Emulator,
    wait: Callable[..., Any],
    quick_retries: None,
) -> None:
    """What cannot be read at once of a job that has ended is there when the trouble is over."""
    ams_emulator.inject(
        {"when": {"path": OUTPUTS}, "then": fault, "times": 5},
        {"when": {"path": TASKS}, "then": fault, "times": 5},
    )
    outputs = [{"name": "a.mp4", "size": 1}]
    job_id = ams_emulator.submit_scripted(states=["Finished"], outputs=outputs)
    assert len(wait(sensor(job_id, **MODES[mode]))["outputs"]) == 1
    job_id = ams_emulator.submit_scripted(states=["Error"], error={"code": "E1", "message": "bad"})
    with pytest.raises(AmsJobFailed, match="E1: bad"):
        wait(sensor(job_id, **MODES[mode]))


@pytest.mark.parametrize("mode", list(MODES))
def test_an_end_counts_at_the_time_out(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any], quick_retries: None
) -> None:
    """A job that is known to have ended has not run out of time, though not all of it can be read."""
    ams_emulator.inject({"when": {"path": f"{OUTPUTS}|{TASKS}"}, "then": {"status": 503}})
    job_id = ams_emulator.submit_scripted(states=["Finished"])
    assert wait(sensor(job_id, timeout=0.6, **MODES[mode]))["outputs"] is None
    job_id = ams_emulator.submit_scripted(name="Encode", states=["Error"])
    with pytest.raises(AmsJobFailed, match=r"'Encode'.*could not be read"):
        wait(sensor(job_id, timeout=0.6, **MODES[mode]))


def test_unreadable_progress_is_not_waited_for(ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """Percent is a nicety: it is asked for once a poll, without retries."""
    ams_emulator.inject({"when": {"path": TASKS}, "then": {"status": 503}})
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing", "seconds": 0.4}, "Finished"])
    assert wait(sensor(job_id))["state"] == "Finished"
    polls = len(ams_emulator.requests(r"^Jobs\(\)$"))
    assert 0 < len(ams_emulator.requests(TASKS)) <= polls


@all_apis
def test_retry_after_quietens_the_pokes(ams: Emulator) -> None:
    """A service that asks for an hour is not asked at the next poke."""
    fault = {"status": 503, "retry_after": 3600}
    ams.inject({"when": {"path": WIRES[ams.api].api}, "then": fault})
    poll = sensor(ams.submit_scripted(states=["Finished"]))
    with poll.hook:
        for _ in range(5):
            assert not poll.poke({})
    assert len(ams.requests(WIRES[ams.api].api)) == 1


def test_the_quiet_has_an_end(ams_emulator: Emulator) -> None:
    """An hour of it would outlast many a wait: ten minutes at most, as in a triggerer."""
    ams_emulator.inject({"when": {"path": "Jobs"}, "then": {"status": 503, "retry_after": 3600}})
    poll = sensor(ams_emulator.submit_scripted(states=["Finished"]), mode="reschedule", timeout=9000)
    with poll.hook:
        assert not poll.poke({})
    interval = poll._get_next_poke_interval(datetime.now(timezone.utc), lambda: 0.0, 1)
    assert interval == pytest.approx(600, abs=30)


@all_apis
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_the_last_look_is_taken_in_any_case(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """A wait does not end with what it knew before the service asked for quiet."""
    fault = {"status": 503, "retry_after": 3600}
    ams.inject({"when": {"path": WIRES[ams.api].job}, "then": fault, "times": 1})
    job_id = ams.submit_scripted(states=["Finished"])
    assert wait(sensor(job_id, timeout=0.6, mode=mode))["state"] == "Finished"
    assert len(ams.requests(WIRES[ams.api].job)) == 2


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_the_end_of_the_queue_time_is_a_reason_to_look(mode: str, ams_emulator: Emulator) -> None:
    """However long the interval is; but a rescheduled wait still stays away as long as asked."""
    poll = sensor(ams_emulator.submit_scripted(states=["Queued"]), mode=mode, queue_timeout=30, timeout=6000)
    poll.poke_interval = 3600
    assert not poll.poke({})
    started, run_duration = datetime.now(timezone.utc), lambda: 0.0
    assert 0 < poll._get_next_poke_interval(started, run_duration, 1) <= 30
    assert poll._poll is not None
    poll._poll.quiet_until = time.monotonic() + 600
    interval = poll._get_next_poke_interval(started, run_duration, 1)
    assert interval == pytest.approx(600 if mode == "reschedule" else 30, abs=29)


@all_apis
def test_a_job_that_is_queued_for_long_is_read_once_more(ams: Emulator, wait: Callable[..., Any]) -> None:
    """The wait ends when its queue time does, by what the service says then."""
    job_id = ams.submit_scripted(states=["Queued"])
    with pytest.raises(AirflowSensorTimeout, match=r"queue_timeout \(2 s\)"):
        wait(sensor(job_id, queue_timeout=2, poke_interval=3600, timeout=7200))
    assert len(ams.requests(WIRES[ams.api].job)) >= 2


@all_apis
@pytest.mark.parametrize("status", [404, 405, 410])
def test_a_wrong_address_is_told_at_once(status: int, ams: Emulator, wait: Callable[..., Any]) -> None:
    """What is outlived once the service has answered is more likely a mistake when it never has."""
    wire = WIRES[ams.api]
    # In the service's own words, 404 is about the job on all but v2.
    ams.inject({"when": {"path": wire.api}, "then": {"status": status, "body": "html"}})
    for mode in MODES.values():
        with pytest.raises(AmsRefused, match=str(status)):
            wait(sensor(wire.unknown, **mode))
    assert len(ams.requests(wire.job)) == 3


@pytest.mark.parametrize(
    "limit", [{"timeout": 1.2}, {"execution_timeout": timedelta(seconds=1.2), "timeout": 600}]
)
def test_a_silent_service_does_not_outlast_the_wait(
    limit: dict[str, Any], service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """One poll of a service that never answers ends with the time that the wait has, not after retries."""
    import threading

    over = threading.Event()

    def never(_: Any) -> Any:
        over.wait(60)
        return reply(cut=True)

    answering = service(never)
    conn_id = connection(host=answering.base_url, password="tok")
    poll = sensor(ID, ams_conn_id=conn_id, **limit)
    try:
        # The time-out itself is over with the poll; execution_timeout is Airflow's to raise in poke mode.
        with poll.hook, suppress(AirflowSensorTimeout):
            assert not poll.poke({})
            assert "execution_timeout" in limit
        assert len(answering.seen) <= 2
    finally:
        over.set()


@all_apis
def test_two_tries_begin_anew(ams: Emulator, wait: Callable[..., Any]) -> None:
    """The same operator executed twice counts its grace twice, as a retried task does."""
    poll = sensor(WIRES[ams.api].unknown, not_found_grace=0.3, poke_interval=0.1)
    for _ in range(2):
        ams.clear_requests()
        with pytest.raises(AmsJobNotFound):
            wait(poll)
        assert len(ams.requests(WIRES[ams.api].job)) >= 2


def test_a_rescheduled_wait_stays_away_as_long_as_asked(
    ams_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Retry-After` moves the next poke of reschedule mode, whose processes remember nothing, too."""
    ams_emulator.inject({"when": {"path": "^Jobs"}, "then": {"status": 503, "retry_after": 600}})
    poll = sensor(ams_emulator.submit_scripted(), mode="reschedule", timeout=3600)
    assert not poll.poke({})
    started, run_duration = datetime.now(timezone.utc), lambda: 0.0
    assert poll._get_next_poke_interval(started, run_duration, 1) == pytest.approx(600, abs=30)
    poll.timeout = 60
    assert poll._get_next_poke_interval(started, run_duration, 1) == pytest.approx(60, abs=30)


def test_reschedule_mode_waits_like_poke_mode_outside_a_task(ams_emulator: Emulator) -> None:
    """`execute({})` returns the document in either mode: people test their DAGs so."""
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing", "seconds": 0.3}, "Finished"])
    assert sensor(job_id, mode="reschedule").execute({})["state"] == "Finished"


@pytest.mark.parametrize("state", ["Processing", "Error", "Finished"])
def test_every_read_of_a_poll_is_bounded(ams_emulator: Emulator, state: str) -> None:
    """Tasks and outputs are read within the time that the wait has left, as the job is."""
    poll = sensor(ams_emulator.submit_scripted(states=[state]), timeout=50)
    service = poll.hook.get_conn()
    policies = []

    class Noted:
        """Notes what each read may take, and passes it on."""

        def __getattr__(self, name: str) -> Any:
            if name == "job_id":
                return service.job_id

            def call(*args: Any, retries: Any) -> Any:
                policies.append(retries.within)
                return getattr(service, name)(*args, retries=retries)

            return call

    stand_in: Any = Noted()
    poll.hook._service = stand_in
    with suppress(AmsJobFailed):
        poll.poke({})
    service.close()
    assert len(policies) == 2
    assert all(0 < within <= 50 for within in policies)
