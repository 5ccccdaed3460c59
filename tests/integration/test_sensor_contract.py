"""Every way a wait can end, in every mode: the same exception, the same XCom, the same flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException

from airflow_ams.exceptions import AmsJobCanceled, AmsJobFailed, AmsJobNotFound, AmsRefused
from airflow_ams.sensors.ams import AmsJobSensor
from tests.integration.waits import APIS, MODES, WIRES, all_apis, in_line, in_step, lines, sensor

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

STUCK = [{"state": "Processing", "progress": 40}]
ERRORS = [
    {"code": "ErrorParsingConfiguration", "message": "bad preset"},
    {"code": "ErrorB", "message": "worse"},
]
_V3_WORDS = {
    "form": "transform/job",
    "errors": (
        "ScriptedPreset_0: ConfigurationUnsupported: bad preset [Configuration, DoNotRetry]; "
        "ScriptedPreset_1: ErrorB: worse"
    ),
    "401": "login and password",
    "403": "Contributor role",
    "key": "password",
    "where": "",
}
_MKIO_WHERE = (
    " in project 'emulator' (it says 'The requested resource was not found.'; look at extra.project and at "
    "the transform, too)"
)
WORDS: dict[str, dict[str, str]] = {
    "v2": {
        "form": "nb:jid:UUID:",
        "errors": "Encode: ErrorParsingConfiguration: bad preset; Encode: ErrorB: worse",
        "401": "login and password",
        "403": "quota",
        "key": "password",
        "where": "",
    },
    "arm": _V3_WORDS,
    "rms": {**_V3_WORDS, "401": "API key", "403": "API key", "key": "API key"},
    "mkio": {**_V3_WORDS, "401": "make a new one in MK.IO", "403": "ams.job.get", "where": _MKIO_WHERE},
}
"""What each dialect calls the form of its ids, the errors above, the remedies, and where a job is not."""


def ended(state: str, **script: Any) -> Callable[[Emulator], dict[str, Any]]:
    """Arrange a job in a state; return the sensor's arguments."""
    return lambda ams: {"job_id": ams.submit_scripted(name="Encode", states=[state], **script)}


def answering(status: int) -> Callable[[Emulator], dict[str, Any]]:
    """Arrange that every read of a job is answered with a status."""

    def arrange(ams: Emulator) -> dict[str, Any]:
        ams.inject({"when": {"path": WIRES[ams.api].api}, "then": {"status": status}})
        return unknown(ams)

    return arrange


def stuck(ams: Emulator) -> dict[str, Any]:
    """Arrange a job that never ends, and a wait without time."""
    return {"job_id": ams.submit_scripted(states=STUCK), "timeout": 0}


def unknown(ams: Emulator) -> dict[str, Any]:
    """Name a job that is not there."""
    return {"job_id": WIRES[ams.api].unknown}


OUTCOMES: dict[str, tuple[Callable[[Emulator], dict[str, Any]], type[Exception] | None, list[str]]] = {
    "finished": (ended("Finished"), None, []),
    "error": (ended("Error", tasks=2, error=ERRORS), AmsJobFailed, ["title", "errors"]),
    "canceled": (ended("Canceled"), AmsJobCanceled, ["title", "canceled"]),
    "unknown id": (lambda ams: {**unknown(ams), "not_found_grace": 0}, AmsJobNotFound, ["id", "90 days"]),
    "malformed id": (lambda _: {"job_id": "{{ nothing }}"}, AmsRefused, ["{{ nothing }}", "form"]),
    "none id": (lambda _: {"job_id": "None"}, AmsRefused, ["'None'", "form"]),
    "400": (answering(400), AmsRefused, ["400"]),
    "403": (answering(403), AmsRefused, ["(403", "403"]),
    "second 401": (answering(401), AmsRefused, ["(401", "401"]),
    "no connection": (lambda ams: {**unknown(ams), "ams_conn_id": "nowhere"}, AmsRefused, ["nowhere"]),
    "bad connection": (
        lambda ams: {**unknown(ams), "ams_conn_id": "ams_bad"},
        AmsRefused,
        ["ams_bad", "schema"],
    ),
    "wrong key": (lambda ams: {**unknown(ams), "ams_conn_id": "ams_wrong"}, AmsRefused, ["key"]),
    "time-out": (stuck, AirflowSensorTimeout, []),
}
FLAGS: dict[str, dict[str, bool]] = {
    "plain": {},
    "soft_fail": {"soft_fail": True},
    "silent_fail": {"silent_fail": True},
    "never_fail": {"never_fail": True},
}


def check_end(run: Callable[[], Any], flag: str, kind: type[Exception]) -> str:
    """Run a wait that ends badly: it raises the outcome's exception, or skips because of it; return why."""
    skipped = flag in ("soft_fail", "never_fail")
    with pytest.raises(AirflowSkipException if skipped else kind) as caught:
        run()
    reason = caught.value.__cause__ if skipped else caught.value
    assert type(reason) is kind
    assert not skipped or str(caught.value) == f"Skipping due to {flag} is set to True."
    return str(reason)


# Whatever the dialect, the flags are the same code; and RMS is ARM but for its sign-in.
CASES = [
    pytest.param(api, outcome, mode, flag, id=f"{api}-{outcome}-{mode}-{flag}")
    for api in APIS
    for outcome in OUTCOMES
    for mode in MODES
    for flag in FLAGS
    if api != "rms" or flag in ("plain", "soft_fail")
]


@pytest.mark.parametrize(("ams", "outcome", "mode", "flag"), CASES, indirect=["ams"])
def test_every_end_is_the_same_in_every_mode(
    outcome: str,
    mode: str,
    flag: str,
    ams: Emulator,
    connection: Callable[..., str],
    wait: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The exception of the outcome; skipped under soft_fail and never_fail, and never deferred."""
    connection("ams_bad", **{**ams.connection, "schema": "x"})
    connection("ams_wrong", **{**ams.connection, "password": "wrong-key-entirely"})
    arrange, kind, words = OUTCOMES[outcome]
    arguments = arrange(ams)
    made = sensor(**MODES[mode], **FLAGS[flag], **arguments)
    if kind is None:
        assert wait(made)["state"] == "Finished"
        return
    with caplog.at_level("WARNING"):
        reason = check_end(lambda: wait(made), flag, kind)
    said = {"id": arguments["job_id"], "title": WIRES[ams.api].title(arguments["job_id"]), **WORDS[ams.api]}
    for word in words:
        assert said.get(word, word) in reason
    if flag in ("soft_fail", "never_fail"):
        assert reason in caplog.text, "a skipped task says why"


def advance(ams: Emulator) -> None:
    """Let an hour pass."""
    ams.advance(3600)


def refuse(status: int) -> Callable[[Emulator], None]:
    """Answer all reads with a status from now on."""
    return lambda ams: ams.inject({"when": {"path": WIRES[ams.api].api}, "then": {"status": status}})


def deploy(ams: Emulator) -> None:
    """Let a gateway know of no service for a while, in which the job ends."""
    fault = {"status": 404, "body": "html"}
    ams.inject({"when": {"path": WIRES[ams.api].job}, "then": fault, "times": 3})
    ams.advance(3600)


def nothing(_: Emulator) -> None:
    """Let the time-out come."""


GONE = (
    "The service has no job {id}{where} (asked for 0 s). Is the id of another account? "
    "The service deletes the records of jobs after 90 days"
)
REFUSED = "The service refused the request"
WORKING = {"state": "Processing", "seconds": 3600, "progress": 40}
FAILING = {"tasks": 2, "error": ERRORS, "states": [WORKING, "Error"]}
LATER: dict[str, tuple[dict[str, Any], Callable[[Emulator], None], type[Exception] | None, str]] = {
    "finished": ({"states": [WORKING, "Finished"]}, advance, None, ""),
    "404 for a while": ({"states": [WORKING, "Finished"]}, deploy, None, ""),
    "error": (
        FAILING,
        advance,
        AmsJobFailed,
        "{title} failed: {errors}",
    ),
    "canceled": (
        {"states": [WORKING, "Canceled"]},
        advance,
        AmsJobCanceled,
        "{title} was canceled",
    ),
    "vanished": (
        {"states": [WORKING], "vanish_after": 3600},
        advance,
        AmsJobNotFound,
        GONE,
    ),
    "400": (
        {"states": [WORKING]},
        refuse(400),
        AmsRefused,
        f"{REFUSED} (400",
    ),
    "401": (
        {"states": [WORKING]},
        refuse(401),
        AmsRefused,
        f"{REFUSED} (401",
    ),
    "403": ({"states": [WORKING]}, refuse(403), AmsRefused, f"{REFUSED} (403"),
    "time-out": (
        {"states": [{**WORKING, "state": "Processing"}]},
        nothing,
        AirflowSensorTimeout,
        "Timed out after 0.6 s (timeout). {title} is Processing, {percent}",
    ),
    "queue time-out": (
        {"states": [{"state": "Queued", "seconds": 3600}, "Finished"]},
        nothing,
        AirflowSensorTimeout,
        "{title} is Queued, and has been for longer than queue_timeout (0.5 s)",
    ),
}
LIMITS: dict[str, dict[str, Any]] = {
    "time-out": {"timeout": 0.6},
    "queue time-out": {"queue_timeout": 0.5},
    "vanished": {"not_found_grace": 0},
}
# The flags are the framework's own code, but for a deferred task; and the same for every dialect. These take
# half a second each, so RMS, which is ARM but for its sign-in, has them in the triggerer only.
LATER_CASES = [
    pytest.param(api, outcome, mode, flag, id=f"{api}-{outcome}-{mode}-{flag}")
    for api in APIS
    for outcome in LATER
    for mode in (["deferrable"] if api == "rms" else MODES)
    for flag in FLAGS
    if flag == "plain" or (api == "v2" and (mode == "deferrable" or flag == "soft_fail"))
]


@pytest.mark.parametrize(("ams", "outcome", "mode", "flag"), LATER_CASES, indirect=["ams"])
def test_every_later_end_is_the_same_in_every_mode(
    outcome: str,
    mode: str,
    flag: str,
    ams: Emulator,
    wait: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What becomes of the job once the wait has begun, or been deferred: same exception, same words."""
    script, action, kind, text = LATER[outcome]
    job_id = ams.submit_scripted(name="Encode", **script)
    made = sensor(job_id, **MODES[mode], **FLAGS[flag], **LIMITS.get(outcome, {}))
    with in_step(ams, lambda: action(ams)), caplog.at_level("WARNING"):
        if kind is None:
            assert wait(made)["state"] == "Finished"
            return
        reason = check_end(lambda: wait(made), flag, kind)
    wire = WIRES[ams.api]
    title, percent = wire.title(job_id), wire.percent(40)
    text = text.format(id=job_id, title=title, percent=percent, **WORDS[ams.api])
    assert reason.startswith(text)
    assert reason == text or text.startswith(REFUSED)
    assert flag not in ("soft_fail", "never_fail") or reason in caplog.text


@all_apis
def test_the_xcom_is_the_same_in_every_mode(ams: Emulator, wait: Callable[..., Any]) -> None:
    """The complaint: XCom differs between modes, or is lost. It is one small JSON document in all of them."""
    ams.freeze()
    states = [{"state": "Queued", "seconds": 2}, {"state": "Processing", "seconds": 60}, "Finished"]
    outputs = [{"name": "a.mp4", "size": 1}]
    job_id = ams.submit_scripted(name="Encode", job_name="Encode", states=states, outputs=outputs)
    with in_step(ams, lambda: ams.advance(62)):
        waited = wait(sensor(job_id, deferrable=True))
    documents = [
        wait(AmsJobSensor(task_id="wait", job_id=job_id, **arguments)) for arguments in MODES.values()
    ]
    assert all(document == waited for document in documents)
    (output,) = waited.pop("outputs")
    assert set(output) == {"asset_id", "name", "label", "uri"}
    assert output["asset_id"]
    assert output["label"] == (None if ams.api == "v2" else "ScriptedPreset_0")
    created = waited.pop("created")
    started, over = waited.pop("started"), waited.pop("ended")
    assert created < started < over
    assert waited == {
        "id": job_id,
        "name": "Encode",
        "state": "Finished",
        "progress": 100.0,
        "duration_seconds": 60.0,
        "errors": [],
    }


@all_apis
@pytest.mark.parametrize("mode", list(MODES))
def test_a_late_end_gives_the_same_document(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """A wait that had to wait returns what one that came late returns."""
    job_id = ams.submit_scripted(states=[WORKING, "Finished"])
    with in_step(ams, lambda: ams.advance(3600), reads=2):
        waited = wait(sensor(job_id, **MODES[mode]))
    assert waited == wait(AmsJobSensor(task_id="late", job_id=job_id))
    assert len(ams.requests(WIRES[ams.api].job)) > 2


@all_apis
def test_a_deferred_wait_says_what_a_poking_one_says(
    ams: Emulator, wait: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Both logs have a line for each change of state or percent; the triggerer repeats the worker's last."""
    states = [
        {"state": "Queued", "seconds": 10},
        {"state": "Processing", "seconds": 10, "progress": 40},
        {"state": "Processing", "seconds": 10, "progress": 80},
        {"state": "Canceling", "seconds": 10},
        "Finished",
    ]
    ams.freeze()
    said = {}
    steps: list[Callable[[], object]] = [lambda: ams.advance(10)] * 4
    for mode, actions in (("poke", steps), ("deferrable", [lambda: None, *steps])):
        job_id = ams.submit_scripted(name="Encode", states=states)
        caplog.clear()
        with caplog.at_level("INFO"), in_line(*actions):
            wait(sensor(job_id, **MODES[mode]))
        said[mode] = [line.replace(WIRES[ams.api].title(job_id), "It") for line in lines(caplog)]
    assert said["deferrable"] == [said["poke"][0], *said["poke"]]
    queued, early, late, canceling, finished = said["poke"]
    assert (queued, finished) == ("It is Queued", "It is Finished")
    percent = WIRES[ams.api].percent
    assert (early, late) == (f"It is Processing, {percent(40)}", f"It is Processing, {percent(80)}")
    assert canceling.startswith("It is Canceling")


@all_apis
def test_a_bare_execute_works(ams: Emulator) -> None:
    """`execute({})` outside a running task is how people test their operators."""
    job_id = ams.submit_scripted(states=["Finished"])
    document = AmsJobSensor(task_id="wait", job_id=job_id).execute({})
    assert document["id"] == job_id


@all_apis
def test_a_bare_poke_works(ams: Emulator) -> None:
    """`poke({})` polls once and says whether the wait is over."""
    ams.freeze()
    job_id = ams.submit_scripted(states=[{"state": "Processing", "seconds": 5}, "Finished"])
    sensor = AmsJobSensor(task_id="wait", job_id=job_id)
    assert not sensor.poke({})
    ams.advance(5)
    found = sensor.poke({})
    assert found.is_done
    assert found.xcom_value is not None
    assert found.xcom_value["state"] == "Finished"
