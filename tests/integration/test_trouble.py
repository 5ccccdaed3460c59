"""All that can go wrong on the wire: a wait outlives it, a hook says it, and no create is doubled."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout

from airflow_ams.api.errors import RefusedError, TransientError, UncertainError
from airflow_ams.api.retries import NO_RETRIES
from airflow_ams.api.wire import MAX_BODY
from airflow_ams.exceptions import AmsRefused
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.sensors.ams import AmsJobSensor
from tests.integration.waits import UNKNOWN as ID
from tests.integration.waits import WIRES, all_apis, on, sensor, signing_in

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

PAST = formatdate(0, usegmt=True)
TROUBLE: dict[str, dict[str, Any]] = {
    "408": {"status": 408},
    "429": {"status": 429},
    "429 with seconds": {"status": 429, "retry_after": 1},
    "429 with a date": {"status": 429, "retry_after": PAST},
    "500": {"status": 500},
    "500 with an empty body": {"status": 500, "body": "empty"},
    "502 with HTML": {"status": 502, "body": "html"},
    "503 busy": {"status": 503, "reason": "Server is busy: previous runs took over 30 seconds"},
    "503 second": {"status": 503, "reason": "More than 100 requests per second can be throttled"},
    "503 window": {"status": 503, "reason": "More than 40 requests within 20 seconds can be throttled"},
    "504": {"status": 504, "body": "html"},
    "dropped": {"drop": True},
    "HTML with status 200": {"html": True},
    "truncated": {"truncate": True},
    "oversize": {"oversize": MAX_BODY + 1024},
}


@pytest.fixture(autouse=True)
def short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MK.IO be asked again soon after a 429, which names no time there."""
    monkeypatch.setattr("airflow_ams.api.mkio.AFTER_REFUSAL", 0.05)


def test_the_list_of_troubles_is_whole() -> None:
    """Fifteen kinds; slow bodies, redirects and 401 have tests of their own."""
    assert len(TROUBLE) == 15


@all_apis
@pytest.mark.parametrize("trouble", list(TROUBLE))
def test_a_hooks_read_outlives_it(ams: Emulator, trouble: str, quick_retries: None) -> None:
    """A read is repeated: the trouble is over at the third try, and nobody notices."""
    reads = WIRES[ams.api].job
    job_id = ams.submit_scripted(states=["Finished"])
    ams.inject({"when": {"path": reads}, "then": TROUBLE[trouble], "times": 2})
    with AmsHook() as hook:
        assert hook.get_job(job_id).id == job_id
    assert len(ams.requests(reads)) == 3


@all_apis
@pytest.mark.parametrize("trouble", [name for name in TROUBLE if name != "429 with seconds"])
def test_a_wait_outlives_it(
    ams: Emulator,
    trouble: str,
    wait: Callable[..., Any],
    quick_retries: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However long it lasts, the sensor warns and asks again; the job's end counts."""
    reads = WIRES[ams.api].job
    job_id = ams.submit_scripted(states=["Finished"])
    ams.inject({"when": {"path": reads}, "then": TROUBLE[trouble], "times": 9})
    with caplog.at_level(logging.WARNING):
        assert wait(sensor(job_id))["state"] == "Finished"
    assert len(ams.requests(reads)) == 10
    warnings = [record.getMessage() for record in caplog.records if record.name == "tests.wait"]
    assert len(warnings) == 2, "four tries a poke"
    assert all("asking again later" in warning for warning in warnings)


@all_apis
def test_the_phrase_of_a_503_is_told(ams: Emulator, quick_retries: None) -> None:
    """The service says on the status line why it is busy."""
    ams.inject({"when": {"path": WIRES[ams.api].job}, "then": TROUBLE["503 second"]})
    with AmsHook() as hook, pytest.raises(TransientError, match="100 requests per second") as caught:
        hook.get_job(WIRES[ams.api].unknown)
    assert caught.value.status == 503


@all_apis
@pytest.mark.parametrize("fault", [{"status": 503}, {"drop": True}, {"html": True}])
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_trouble_without_end_is_a_time_out(
    mode: str,
    fault: dict[str, Any],
    ams: Emulator,
    wait: Callable[..., Any],
    quick_retries: None,
) -> None:
    """Polling trouble never fails a wait: its own time-out does."""
    ams.inject({"when": {"path": WIRES[ams.api].job}, "then": fault})
    timeout = 0.5 if mode == "poke" else 0
    with pytest.raises(AirflowSensorTimeout):
        wait(sensor(WIRES[ams.api].unknown, mode=mode, timeout=timeout))


@signing_in
def test_trouble_of_the_sign_in_is_waited_out(
    ams: Emulator, wait: Callable[..., Any], quick_retries: None
) -> None:
    """A token end point that is down for a while is no reason to fail."""
    sign_ins = WIRES[ams.api].sign_in
    job_id = ams.submit_scripted(states=["Finished"])
    ams.clear_requests()
    ams.inject({"when": {"path": sign_ins}, "then": {"status": 503, "body": "html"}, "times": 6})
    wait(sensor(job_id))
    assert len(ams.requests(sign_ins)) == 7


@signing_in
@pytest.mark.parametrize(
    "fault", [{"html": True}, {"truncate": True}, {"drop": True}, {"oversize": MAX_BODY + 9}]
)
def test_a_sign_in_without_a_token_is_waited_out(
    ams: Emulator, fault: dict[str, Any], quick_retries: None
) -> None:
    """A gateway's page instead of a token says nothing about the key."""
    job_id = ams.submit_scripted(states=["Finished"])
    ams.inject({"when": {"path": WIRES[ams.api].sign_in}, "then": fault, "times": 2})
    with AmsHook() as hook:
        assert hook.get_job(job_id).id == job_id


def test_each_refused_filter_is_a_refusal(ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """A service that takes no such filter answers 400, which waiting does not cure."""
    rule = {"when": {"query": r"\$filter=Id eq"}, "then": {"status": 400, "reason": "No such filter"}}
    ams_emulator.inject(rule)
    with pytest.raises(AmsRefused, match="No such filter"):
        wait(AmsJobSensor(task_id="wait", job_id=ID))


def spec(ams: Emulator, folder: Path) -> dict[str, Any]:
    """Upload a file, and make a job spec that reads it."""
    clip = folder / "clip.mp4"
    clip.write_bytes(b"x")
    asset_id = ams.upload(clip)
    if ams.api != "v2":
        source = {"inputs": [ams.asset_name(asset_id)], "outputs": ["out"]}
        return {"transform_name": "Scripted", "job_name": "Encode", **source}
    task = {"processor": "Scripted", "configuration": json.dumps({"states": ["Finished"]}), "outputs": ["o"]}
    return {"name": "Encode", "input_asset_ids": [asset_id], "tasks": [task]}


def creates(ams: Emulator) -> list[dict[str, Any]]:
    """Return the requests to create a job."""
    method, path = WIRES[ams.api].create
    return [request for request in ams.requests(path) if request["method"] == method]


def on_create(ams: Emulator, then: dict[str, Any], **rule: Any) -> dict[str, Any]:
    """Make a fault of creating a job."""
    method, path = WIRES[ams.api].create
    return {"when": {"path": path, "method": method}, "then": then, **rule}


LOST = ["500", "502 with HTML", "504", "dropped", "HTML with status 200", "truncated", "oversize"]


@all_apis
@pytest.mark.parametrize("trouble", LOST)
def test_a_create_whose_answer_was_lost_is_not_sent_again(
    ams: Emulator, tmp_path: Path, trouble: str, quick_retries: None
) -> None:
    """It may have happened, so the caller must look: one request, and an error that says so.

    Where the job has a name it is looked up: what is there after all was created.
    """
    job = spec(ams, tmp_path)
    ams.inject(on_create(ams, TROUBLE[trouble]))
    with AmsHook() as hook:
        if trouble == "truncated" and ams.api != "v2":
            assert hook.submit_job(job).id == "Scripted/Encode"
        else:
            with pytest.raises(UncertainError, match="may have happened"):
                hook.submit_job(job)
    assert len(creates(ams)) == 1


@all_apis
@pytest.mark.parametrize("trouble", ["408", "429", "429 with a date", "503 busy", "503 window"])
def test_a_create_that_was_turned_away_is_sent_again(
    ams: Emulator, tmp_path: Path, trouble: str, quick_retries: None
) -> None:
    """Busy answers say that nothing has happened: the job is made in the end, and only once."""
    job = spec(ams, tmp_path)
    ams.inject(on_create(ams, TROUBLE[trouble], times=2))
    with AmsHook() as hook:
        made = hook.submit_job(job)
        assert [found.id for found in hook.iter_jobs()] == [made.id]
    assert len(creates(ams)) == 3


@signing_in
def test_a_create_during_trouble_of_the_sign_in_is_certain(
    ams: Emulator, tmp_path: Path, quick_retries: None
) -> None:
    """As long as there is no token nothing was created, so it is tried again."""
    job = spec(ams, tmp_path)
    ams.inject({"when": {"path": WIRES[ams.api].sign_in}, "then": {"status": 500}, "times": 2})
    with AmsHook() as hook:
        hook.submit_job(job)
    assert len(creates(ams)) == 1


def test_a_create_that_nobody_heard_is_certain(connection: Callable[..., str], quick_retries: None) -> None:
    """A connection that was refused carried nothing: trouble, but no doubt."""
    conn_id = connection(host="http://127.0.0.1:9/api/", password="tok")
    with AmsHook(conn_id) as hook, pytest.raises(TransientError):
        hook.submit_job({"Name": "x", "Tasks": []})


@all_apis
def test_a_cancel_may_be_repeated(ams: Emulator, quick_retries: None) -> None:
    """Its answer may be lost: asking again finds the job on its way, which is what was wanted."""
    job_id = ams.submit_scripted(states=[{"state": "Processing"}], canceling=3600)
    ams.inject({"when": {"path": "[Cc]ancelJob"}, "then": {"truncate": True}, "times": 1})
    with AmsHook() as hook:
        hook.cancel_job(job_id)
        assert str(hook.get_job_state(job_id)) == "Canceling"


@all_apis
def test_a_slow_body_is_waited_for(ams: Emulator) -> None:
    """An answer that takes a while, but comes, counts."""
    job_id = ams.submit_scripted(states=["Finished"])
    ams.inject({"when": {"path": WIRES[ams.api].job}, "then": {"slow": 0.5}})
    with AmsHook() as hook:
        assert hook.get_job(job_id).id == job_id
    assert len(ams.requests(WIRES[ams.api].job)) == 1


@all_apis
def test_a_body_that_drips_is_cut_off(ams: Emulator, connection: Callable[..., str]) -> None:
    """Each byte in time is not enough: the whole answer has `extra.timeout` seconds."""
    extra = {**ams.connection["extra"], "timeout": 1}
    conn_id = connection(**{**ams.connection, "extra": extra})
    ams.inject({"when": {"path": WIRES[ams.api].job}, "then": {"slow": 8}})
    job_id = ams.submit_scripted(states=["Finished"])
    with AmsHook(conn_id) as hook, pytest.raises(TransientError, match="took longer"):
        hook.get_job(job_id, retries=NO_RETRIES)


def test_an_answer_is_read_up_to_its_limit(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """Sixteen MiB are read, one byte more is not; compressed ones are measured unpacked."""
    import gzip

    row = json.dumps({"value": [{"Id": ID, "State": 3}]}).encode()
    bodies = {
        "fits": (row + b" " * (MAX_BODY - len(row)), {}),
        "packed": (gzip.compress(row), {"Content-Encoding": "gzip"}),
        "bomb": (gzip.compress(row + b" " * MAX_BODY), {"Content-Encoding": "gzip"}),
    }
    chosen = ["fits"]

    def answer(_: Any) -> Any:
        body, headers = bodies[chosen[0]]
        return reply(body=body, headers=headers)

    with AmsHook(connection(host=service(answer).base_url, password="tok")) as hook:
        assert hook.get_job(ID).id == ID
        chosen[0] = "packed"
        assert hook.get_job(ID).id == ID
        chosen[0] = "bomb"
        with pytest.raises(TransientError, match="larger than"):
            hook.get_job(ID, retries=NO_RETRIES)


def test_an_unreachable_service_is_told_in_a_sentence(
    connection: Callable[..., str], quick_retries: None
) -> None:
    """Host and port, and the cause, without the library's object addresses."""
    with (
        AmsHook(connection(host="http://127.0.0.1:9/api/", password="tok")) as hook,
        pytest.raises(TransientError) as caught,
    ):
        hook.get_job(ID)
    assert "127.0.0.1:9" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("status", [302, 307, 308])
def test_only_301_is_a_redirect(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str], status: int
) -> None:
    """No client of v2 ever followed another: it is refused, and nothing is sent on."""
    elsewhere = service(lambda _: reply(document={"value": []}))
    here = service(lambda _: reply(status=status, headers={"Location": elsewhere.base_url}))
    with AmsHook(connection(host=here.base_url, password="tok")) as hook, pytest.raises(RefusedError):
        hook.get_job(ID)
    assert elsewhere.seen == []


@on("arm", "rms", "mkio")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_v3_has_no_redirects(
    status: int, ams: Emulator, service: Callable[..., Any], reply: type[Any], wait: Callable[..., Any]
) -> None:
    """The token goes to no other host; the error says where it would have gone."""
    elsewhere = service(lambda _: reply(document={"value": []}))
    then = {"status": status, "headers": {"Location": f"{elsewhere.url}login?token=x"}, "body": "html"}
    ams.inject({"when": {"path": WIRES[ams.api].job}, "then": then})
    with pytest.raises(AmsRefused, match=r"redirects to 127\.0\.0\.1, where the token is not sent"):
        wait(sensor(WIRES[ams.api].unknown))
    assert elsewhere.seen == []
