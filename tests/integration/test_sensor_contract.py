"""Every way a wait can end, in every mode: the same exception, the same XCom, the same flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException

from airflow_ams.exceptions import AmsJobCanceled, AmsJobFailed, AmsJobNotFound, AmsRefused
from airflow_ams.sensors.ams import AmsJobSensor

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
STUCK = [{"state": "Processing", "progress": 40}]
ERRORS = [
    {"code": "ErrorParsingConfiguration", "message": "bad preset"},
    {"code": "ErrorB", "message": "worse"},
]


def ended(state: str, **script: Any) -> Callable[[Emulator], dict[str, Any]]:
    """Arrange a job in a state; return the sensor's arguments."""
    return lambda ams: {"job_id": ams.submit_scripted(name="Encode", states=[state], **script)}


def answering(status: int) -> Callable[[Emulator], dict[str, Any]]:
    """Arrange that every read of a job is answered with a status."""

    def arrange(ams: Emulator) -> dict[str, Any]:
        ams.inject({"when": {"path": "Jobs"}, "then": {"status": status}})
        return {"job_id": ID}

    return arrange


def stuck(ams: Emulator) -> dict[str, Any]:
    """Arrange a job that never ends, and a wait without time."""
    return {"job_id": ams.submit_scripted(states=STUCK), "timeout": 0}


OUTCOMES: dict[str, tuple[Callable[[Emulator], dict[str, Any]], type[Exception] | None, list[str]]] = {
    "finished": (ended("Finished"), None, []),
    "error": (
        ended("Error", tasks=2, error=ERRORS),
        AmsJobFailed,
        ["'Encode'", "nb:jid:UUID:", "ErrorParsingConfiguration: bad preset", "ErrorB: worse"],
    ),
    "canceled": (ended("Canceled"), AmsJobCanceled, ["'Encode'", "nb:jid:UUID:", "canceled"]),
    "unknown id": (lambda _: {"job_id": ID, "not_found_grace": 0}, AmsJobNotFound, [ID, "90 days"]),
    "malformed id": (lambda _: {"job_id": "{{ nothing }}"}, AmsRefused, ["{{ nothing }}", "nb:jid:UUID:"]),
    "none id": (lambda _: {"job_id": "None"}, AmsRefused, ["'None'", "nb:jid:UUID:"]),
    "400": (answering(400), AmsRefused, ["400"]),
    "403": (answering(403), AmsRefused, ["403", "quota"]),
    "second 401": (answering(401), AmsRefused, ["401", "login and password"]),
    "no connection": (lambda _: {"job_id": ID, "ams_conn_id": "nowhere"}, AmsRefused, ["nowhere"]),
    "bad connection": (lambda _: {"job_id": ID, "ams_conn_id": "ams_bad"}, AmsRefused, ["ams_bad", "schema"]),
    "wrong key": (lambda _: {"job_id": ID, "ams_conn_id": "ams_wrong"}, AmsRefused, ["password"]),
    "time-out": (stuck, AirflowSensorTimeout, []),
}
FLAGS: dict[str, dict[str, bool]] = {
    "plain": {},
    "soft_fail": {"soft_fail": True},
    "silent_fail": {"silent_fail": True},
    "never_fail": {"never_fail": True},
}


@pytest.mark.parametrize("flag", list(FLAGS))
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
@pytest.mark.parametrize("outcome", list(OUTCOMES))
def test_every_end_is_the_same_in_every_mode(
    outcome: str,
    mode: str,
    flag: str,
    ams_emulator: Emulator,
    connection: Callable[..., str],
    wait: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The exception of the outcome; skipped under soft_fail and never_fail (which waits for no time-out)."""
    connection("ams_bad", **{**ams_emulator.connection, "schema": "x"})
    connection("ams_wrong", **{**ams_emulator.connection, "password": "wrong-key-entirely"})
    arrange, kind, words = OUTCOMES[outcome]
    arguments: dict[str, Any] = {"timeout": 60, "poke_interval": 0.05, **FLAGS[flag], **arrange(ams_emulator)}
    sensor = AmsJobSensor(task_id="wait", mode=mode, **arguments)
    if kind is None:
        assert wait(sensor)["state"] == "Finished"
        return
    skipped = flag == "soft_fail" or (flag == "never_fail" and kind is not AirflowSensorTimeout)
    with caplog.at_level("WARNING"), pytest.raises(AirflowSkipException if skipped else kind) as caught:
        wait(sensor)
    if not skipped:
        assert type(caught.value) is kind
    reason = caught.value.__cause__ if skipped and kind is not AirflowSensorTimeout else caught.value
    for word in words:
        assert word in str(reason)
    if skipped and kind is not AirflowSensorTimeout:
        assert str(reason) in caplog.text, "a skipped task says why"


def test_the_xcom_is_the_same_in_every_mode(ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """One small JSON document, whether the job was final at the first poll or later, in either mode."""
    ams_emulator.freeze()
    states = [{"state": "Queued", "seconds": 2}, {"state": "Processing", "seconds": 60}, "Finished"]
    job_id = ams_emulator.submit_scripted(
        name="Encode", states=states, outputs=[{"name": "a.mp4", "size": 1}]
    )
    ams_emulator.advance(62)
    documents = [
        wait(AmsJobSensor(task_id="wait", job_id=job_id, mode=mode)) for mode in ("poke", "reschedule")
    ]
    assert documents[0] == documents[1]
    (output,) = documents[0].pop("outputs")
    assert set(output) == {"asset_id", "name", "uri"}
    created = documents[0].pop("created")
    started, over = documents[0].pop("started"), documents[0].pop("ended")
    assert created < started < over
    assert documents[0] == {
        "id": job_id,
        "name": "Encode",
        "state": "Finished",
        "progress": 100.0,
        "duration_seconds": 60.0,
        "errors": [],
    }


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_a_late_end_gives_the_same_document(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """A wait that had to wait returns what one that came late returns."""
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing", "seconds": 0.5}, "Finished"])
    waited = wait(AmsJobSensor(task_id="wait", job_id=job_id, mode=mode, poke_interval=0.1, timeout=60))
    assert waited == wait(AmsJobSensor(task_id="late", job_id=job_id))
    assert len(ams_emulator.requests(r"^Jobs\(\)$")) > 2


def test_a_bare_execute_works(ams_emulator: Emulator) -> None:
    """`execute({})` outside a running task is how people test their operators."""
    job_id = ams_emulator.submit_scripted(states=["Finished"])
    document = AmsJobSensor(task_id="wait", job_id=job_id).execute({})
    assert document["id"] == job_id


def test_a_bare_poke_works(ams_emulator: Emulator) -> None:
    """`poke({})` polls once and says whether the wait is over."""
    ams_emulator.freeze()
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing", "seconds": 5}, "Finished"])
    sensor = AmsJobSensor(task_id="wait", job_id=job_id)
    assert not sensor.poke({})
    ams_emulator.advance(5)
    found = sensor.poke({})
    assert found.is_done
    assert found.xcom_value is not None
    assert found.xcom_value["state"] == "Finished"
