"""Submitting in trouble: a busy service, a gateway, a kill in between, and what has changed since."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    AssetAlias,
    TaskDeferred,
)

from airflow_ams.api.model import JobState
from airflow_ams.api.submission import create
from airflow_ams.api.waiting import End, Ending
from airflow_ams.exceptions import AmsJobCanceled, AmsRefused
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.operators.submission import Submission
from tests.integration.submits import (
    MODES,
    RUNNING,
    Store,
    Try,
    creates,
    deadline_after_an_outage,
    encode,
    operator,
    outage,
)
from tests.integration.waits import WIRES, Deferred, all_apis, audible, in_line, on

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

STOPPED = (JobState.CANCELING, JobState.CANCELED)


def submitted(given: dict[str, Any], one: Try) -> str:
    """Submit a job by a try that does not wait for it; return its id."""
    operator(given, wait_for_completion=False).execute(one.context)
    return str(one.xcoms["job_id"])


def state_of(job_id: str) -> JobState:
    """Return where a job stands."""
    with AmsHook() as hook:
        return hook.get_job_state(job_id)


# -- trouble


@all_apis
def test_an_outage_is_waited_out(ams: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is answered for a while; the job is created once, and each wait is told."""
    given = encode(ams, states=["Finished"])
    with caplog.at_level("WARNING"), outage(ams):
        assert Try().run(operator(given))["state"] == "Finished"
    assert "Trying again in" in caplog.text
    assert creates(ams) == 1


@on("v2")
def test_an_outage_is_part_of_the_tries_time(ams: Emulator) -> None:
    """``execution_timeout`` counts from the try's beginning, in the triggerer, too."""
    made = operator(encode(ams, states=RUNNING), deferrable=True, execution_timeout=timedelta(seconds=50))
    assert deadline_after_an_outage(ams, made) < 50.5


@on("v2", "mkio")
@pytest.mark.parametrize(
    ("execution_timeout", "error"), [(50.2, AirflowTaskTimeout), (90, AirflowSensorTimeout)]
)
def test_what_ends_a_wait_after_an_outage(
    ams: Emulator, execution_timeout: float, error: type[BaseException]
) -> None:
    """``timeout`` counts from the job's submission on, ``execution_timeout`` from the try's beginning."""
    limit = timedelta(seconds=execution_timeout)
    made = operator(encode(ams, states=RUNNING), deferrable=True, timeout=50, execution_timeout=limit)
    run = Deferred(made, Try().context)
    with outage(ams):
        run.start()
    with pytest.raises(error, match=r"Timed out after 50(\.2)? s"):
        run.resume(Ending(End.TIMEOUT, "It is still Processing").event())


@all_apis
@pytest.mark.usefixtures("quick_retries")
def test_an_outage_that_outlasts_the_time_out(ams: Emulator) -> None:
    """Then the try fails, and the next one begins with a look."""
    given = encode(ams, states=["Finished"])
    ams.inject({"when": {}, "then": {"status": 503}})
    with pytest.raises(AirflowException, match="a new try looks for it first"):
        Try().run(operator(given, timeout=0.5))
    ams.clear_faults()
    assert Try(2).run(operator(given))["state"] == "Finished"
    assert creates(ams) == 1


@all_apis
def test_a_service_that_asks_for_time_gets_it(ams: Emulator) -> None:
    """Longer than one request would wait."""
    given = encode(ams, states=["Finished"])
    method, path = WIRES[ams.api].create
    throttled = {"status": 429, "retry_after": 1}
    ams.inject({"when": {"method": method, "path": path}, "then": throttled, "times": 1})
    assert Try().run(operator(given))["state"] == "Finished"
    assert creates(ams) == 1


@all_apis
@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("body", ["html", "bare"])
def test_a_gateways_word_does_not_end_the_task(ams: Emulator, body: str) -> None:
    """A page of 404, or its JSON, in place of the look-up: a new try finds the job that runs."""
    given = encode(ams, states=RUNNING)
    job_id = submitted(given, Try())
    ams.inject({"when": {"method": "GET"}, "then": {"status": 404, "body": body}})
    with pytest.raises(AirflowException) as caught:
        Try(2).run(operator(given))
    assert not isinstance(caught.value, AmsRefused)
    ams.clear_faults()
    ams.advance(3600)
    assert Try(3).run(operator(given))["id"] == job_id


@on("v2")
def test_an_xcom_that_cannot_be_pushed_stops_nothing(ams: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """The job runs; it would not be waited for, nor canceled."""

    class Deaf(Try):
        def xcom_push(self, key: str, value: Any) -> None:
            raise ConnectionError("no API server")

    with caplog.at_level("WARNING"):
        assert Deaf().run(operator(encode(ams, states=["Finished"])))["state"] == "Finished"
    assert "no API server" in caplog.text


# -- killed before the id is known


@all_apis
def test_a_kill_during_the_look_up(ams: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job of the try before is canceled: nobody waits for it any more."""
    given = encode(ams, states=RUNNING)
    job_id = submitted(given, Try())
    made = audible(operator(given))

    def killed(*_: Any) -> None:
        made.on_kill()
        raise SystemExit

    monkeypatch.setattr(Submission, "_last", killed)
    with pytest.raises(SystemExit):
        made.execute(Try(2).context)
    assert state_of(job_id) in STOPPED


@on("v2", "rms")
@MODES
def test_a_task_that_goes_on_after_its_kill_submits_nothing(
    ams: Emulator, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow 3 leaves a killed task five seconds, and does not interrupt it."""
    made, look = audible(operator(encode(ams, states=RUNNING), deferrable=deferrable)), Submission._last

    def killed(submission: Submission, service: Any) -> Any:
        found = look(submission, service)
        made.on_kill()
        return found

    monkeypatch.setattr(Submission, "_last", killed)
    with pytest.raises(AirflowException, match="was killed"):
        made.execute(Try().context)
    assert creates(ams) == 0


@on("v2", "rms")
@MODES
def test_a_task_that_is_killed_while_it_creates_and_goes_on(
    ams: Emulator, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has created is canceled, though the look of the kill may have come too early."""
    made = audible(operator(encode(ams, states=RUNNING), deferrable=deferrable))
    ids: list[str] = []

    def created(*given: Any) -> Any:
        made.on_kill()
        job = create(*given)
        ids.append(job.id)
        return job

    monkeypatch.setattr("airflow_ams.operators.submission.create", created)
    with pytest.raises(AirflowException, match="was killed"):
        made.execute(Try().context)
    assert state_of(ids[0]) in STOPPED


@on("v2", "rms")
@pytest.mark.parametrize("is_cleared", [True, False])
def test_a_task_that_is_killed_in_its_wait_and_goes_on(ams: Emulator, is_cleared: bool) -> None:
    """It sees that its job was canceled, and knows by whom: it may be retried, and submits nothing itself."""
    given = encode(ams, states=RUNNING)
    job_id = submitted(given, Try())
    made = operator(given, retries=1 if is_cleared else 2)
    again = Try(2, max_tries=3 if is_cleared else 2)
    # The first line is about the job that was found, the second about where it stands.
    with (
        in_line(lambda: None, made.on_kill),
        pytest.raises(AirflowException, match="because the task was killed") as caught,
    ):
        again.run(made)
    assert not isinstance(caught.value, AirflowFailException)
    assert creates(ams) == 1
    assert state_of(job_id) in STOPPED


@on("v2", "rms")
@pytest.mark.parametrize("arguments", [{"wait_for_completion": False}, {"deferrable": True}])
def test_a_worker_that_is_shut_down_after_its_task(ams: Emulator, arguments: dict[str, Any]) -> None:
    """The job is nobody's any more, or the triggerer's."""
    made, one = audible(operator(encode(ams, states=RUNNING), **arguments)), Try()
    with suppress(TaskDeferred):
        made.execute(one.context)
    made.on_kill()
    assert state_of(one.xcoms["job_id"]) not in STOPPED


@on("v2", "rms")
@pytest.mark.parametrize("on_timeout", [True, False])
def test_a_time_out_of_the_task_while_it_creates(
    ams: Emulator, on_timeout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``execution_timeout`` is no kill: ``cancel_on_timeout`` says what becomes of the job."""
    made = audible(
        operator(encode(ams, states=RUNNING), cancel_on_timeout=on_timeout, cancel_on_kill=not on_timeout)
    )
    ids: list[str] = []

    def created(*given: Any) -> Any:
        ids.append(create(*given).id)
        raise AirflowTaskTimeout

    monkeypatch.setattr("airflow_ams.operators.submission.create", created)
    with pytest.raises(AirflowTaskTimeout):
        made.execute(Try().context)
    # Airflow does so after that.
    made.on_kill()
    assert (state_of(ids[0]) in STOPPED) is on_timeout


@on("v2", "rms")
def test_a_task_that_is_killed_while_it_tells_of_its_job(ams: Emulator) -> None:
    """It does not succeed with a job that its kill has canceled, though it does not wait."""
    made = audible(operator(encode(ams, states=RUNNING), wait_for_completion=False))

    class Interrupted(Try):
        def xcom_push(self, key: str, value: Any) -> None:
            super().xcom_push(key, value)
            made.on_kill()

    one = Interrupted()
    with pytest.raises(AirflowException, match="was killed"):
        made.execute(one.context)
    assert state_of(one.xcoms["job_id"]) in STOPPED


# -- what has changed since


@all_apis
@pytest.mark.parametrize(
    ("retries", "max_tries", "retries_then", "max_tries_then"),
    [(0, 0, 2, 1), (3, 3, 2, 3)],
    ids=["more", "fewer, and as many tries as before"],
)
def test_a_task_whose_retries_were_changed_since_it_succeeded(
    ams: Emulator, retries: int, max_tries: int, retries_then: int, max_tries_then: int
) -> None:
    """It was cleared; the number of its tries says so, whatever the DAG's `retries` are by now."""
    given, store = encode(ams, states=["Finished"]), Store()
    Try(max_tries=max_tries, store=store).run(operator(given, retries=retries))
    Try(2, max_tries=max_tries_then, store=store).run(operator(given, retries=retries_then))
    assert creates(ams) == 2


@all_apis
@pytest.mark.parametrize("stored", [False, True], ids=["by its name", "by the state store"])
def test_a_task_that_got_fewer_retries_in_mid_run(ams: Emulator, stored: bool) -> None:
    """Nobody has cleared it, so a job that somebody cancels in its try is not its successor's."""
    given, store = encode(ams, states=RUNNING), Store() if stored else None
    second = Try(2, max_tries=3, store=store)

    def cancel() -> None:
        with AmsHook() as hook:
            hook.cancel_job(second.xcoms["job_id"])

    with in_line(lambda: None, cancel), pytest.raises(AmsJobCanceled):
        second.run(operator(given, retries=1))
    assert creates(ams) == 1


@all_apis
@pytest.mark.parametrize("stored", [False, True], ids=["by its name", "by the state store"])
def test_a_task_that_is_cleared_with_something_else_to_encode(ams: Emulator, stored: bool) -> None:
    """Its job's name says what it encodes; one of another name is not its own any more."""
    store = Store() if stored else None
    submitted(encode(ams, name="clip-C", states=RUNNING), Try(store=store))
    again = Try(2, max_tries=1 + 2, store=store)
    name = again.run(operator(encode(ams, name="clip-D", states=["Finished"])))["name"]
    assert name.startswith("clip-D-")
    assert creates(ams) == 2


@on("rms")
def test_a_task_whose_connection_leads_elsewhere_since(ams: Emulator) -> None:
    """The state store has an id of v2; the job is looked for by its name."""
    store = Store()
    store.set("ams_job", {"job_id": "nb:jid:UUID:x", "number": 1, "made_in": [2, 1], "reported_in": None})
    assert Try(2, store=store).run(operator(encode(ams, states=["Finished"])))["state"] == "Finished"


def test_an_alias_wants_the_end_of_the_job() -> None:
    """What is written is not known when the job is created."""
    given: dict[str, Any] = {"transform_name": "x", "inputs": ["a"], "outputs": ["b"]}
    with pytest.raises(ValueError, match="AssetAlias"):
        operator(given, wait_for_completion=False, outlets=[AssetAlias("encoded")])
