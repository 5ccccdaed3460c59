"""No secret leaves the process but on the wire: not in logs, XCom, exceptions with their chain, or reprs."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException

from airflow_ams.api.errors import ServiceError
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.operators.ams import AmsSubmitJobOperator
from airflow_ams.sensors.ams import AmsJobSensor
from tests.integration.waits import UNKNOWN, WIRES, Deferred, all_apis

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

KEY = "pA55w0rd-of-the-account/with+odd=chars"
TOKEN = "http%3a%2f%2fclaims=account&Issuer=x&HMACSHA256=qqqqTOKENqqqq%3d"
CLAIMS = base64.urlsafe_b64encode(b'{"exp": 4102444800, "iat": 4102441200, "sub": "us"}').decode().strip("=")
JWT = f"eyJhbGciOiJIUzI1NiJ9.{CLAIMS}.qqqqJWTqqqqq"
SIG = "kZ3%2Fx9Qv7SIGNATUREabc"
SIGNED = f"https://a.blob.core.windows.net/c/a.mp4?sv=2012&sr=c&sig={SIG}&se=2026"
SECRETS = (KEY, "pA55w0rd", TOKEN, "TOKENqq", JWT, CLAIMS, "JWTqq", SIG, "SIGNATURE")
FORMS = ["v2", "arm", "rms", "mkio", "legacy"]
"""The dialects, and the older addresses of MK.IO, which get the token in a header of their own, too."""

STATES = ["Queued", "Processing", "Finished", "Error", "Canceled", "Unheard"]


@pytest.fixture
def overheard(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return all that was logged by anybody at DEBUG, or written to the terminal."""
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "requests", "azure", "msal", "airflow", "airflow.task", "airflow_ams"):
        caplog.set_level(logging.DEBUG, logger=name)

    def read() -> str:
        written = capfd.readouterr()
        return caplog.text + written.out + written.err

    return read


def assert_clean(text: str, *secrets: str) -> None:
    """Find none of the secrets, as they are or percent-encoded, in a text."""
    for secret in secrets or SECRETS:
        assert secret not in text
        assert quote(secret, safe="") not in text


def job_id_of(form: str) -> str:
    """Return the id of the job that `spilling` tells of."""
    return UNKNOWN if form == "v2" else "t/job"


def fields_of(form: str, here: Any) -> dict[str, Any]:
    """Return a connection with a key, or a token, to a service."""
    place = {"subscription_id": "S", "resource_group": "R", "account_name": "A"}
    entra = {"api": "arm", "token_url": f"{here.url}token", **place}
    return {
        "v2": {"login": "account", "password": KEY, "extra": {"token_url": f"{here.url}token"}},
        "arm": {"login": "account", "password": KEY, "extra": entra},
        "rms": {"password": KEY, "extra": {"api": "rms", **place}},
        "mkio": {"password": JWT, "extra": {"api": "mkio", "project": "P"}},
        "legacy": {"password": JWT, "extra": {"api": "mkio", "project": "P", "legacy": True}},
    }[form] | {"host": here.base_url if form == "v2" else here.url}


def spilling(
    form: str, reply: type[Any], state: str = "Error", failing: int | None = None
) -> Callable[[Any], Any]:
    """Answer as a service that quotes every secret that it knows, in every place where a text goes."""
    said = f"key {KEY} token {TOKEN} {JWT} url {SIGNED}"
    # What a service may quote, so that it must be cut out, is the token that it was sent, and addresses.
    quoted = f"token {TOKEN if form in ('v2', 'arm') else JWT} url {SIGNED}"

    def answer(seen: Any) -> Any:
        if seen.method == "POST" and seen.path == "/auth/token":
            return reply(body=JWT.encode(), headers={"Content-Type": "text/plain"})
        if seen.method == "POST" and "token" in seen.path:
            return reply(document={"access_token": TOKEN, "expires_in": "3600", "note": said})
        if failing:
            error = {"code": f"Bad {quoted}", "message": quoted, "detail": quoted}
            message = {"code": f"Bad {quoted}", "message": {"value": quoted}}
            wholes = {"v2": {"odata.error": message}, "legacy": {"error": quoted, "ref": f"r {SIGNED}"}}
            return reply(status=failing, document=wholes.get(form, {"error": error, "ref": f"r {SIGNED}"}))
        return reply(document=v2_answer(seen.path, state) if form == "v2" else v3_answer(seen.path, state))

    return answer


def v2_answer(path: str, state: str) -> dict[str, Any]:
    """Tell of a job, or of its parts, in v2."""
    number = [0, 2, 3, 4, 5, 9][STATES.index(state)]
    rows: dict[str, Any] = {"Id": UNKNOWN, "Name": f"name {SIGNED}", "State": number}
    if path.endswith("/Tasks"):
        details = [{"Code": f"E {SIGNED}", "Message": f"cannot read {SIGNED}\nnor {SIGNED}"}]
        rows = {"Id": "nb:tid:UUID:1", "Name": f"task {SIGNED}", "State": number, "ErrorDetails": details}
    if path.endswith("/OutputMediaAssets"):
        rows = {"Id": "nb:cid:UUID:1", "Name": f"o {SIGNED}", "Uri": SIGNED}
    return {"value": [rows]}


def v3_answer(path: str, state: str) -> dict[str, Any]:
    """Tell of a job, or of its state alone."""
    if path.endswith("/state"):
        return {"status": {"state": state}}
    error = {
        "code": f"E {SIGNED}",
        "message": f"cannot read {SIGNED}\nnor {SIGNED}",
        "category": f"C {SIGNED}",
        "retry": f"R {SIGNED}",
        "details": [{"code": f"D {SIGNED}", "message": f"nor {SIGNED}"}],
    }
    output = {"assetName": f"o {SIGNED}", "label": f"l {SIGNED}", "state": state, "progress": 5}
    outputs = [{**output, "error": error}] * 2
    told = {"description": SIGNED, "correlationData": {"url": SIGNED}}
    return {"name": "job", "properties": {"state": state, "outputs": outputs, **told}}


@pytest.fixture
def define(connection: Callable[..., str]) -> Callable[[str, Any], str]:
    """Define a connection with a key to a service."""
    return lambda form, here: connection(**fields_of(form, here))


in_all_forms = pytest.mark.parametrize("form", FORMS)


@in_all_forms
@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_a_wait_tells_no_secret(
    state: str,
    soft_fail: bool,
    form: str,
    service: Callable[..., Any],
    reply: type[Any],
    define: Callable[[str, Any], str],
    wait: Callable[..., Any],
    overheard: Callable[[], str],
) -> None:
    """However the job ends, and whatever the service says about it."""
    here = service(spilling(form, reply, state))
    conn_id = define(form, here)
    sensor = AmsJobSensor(
        task_id="wait", job_id=job_id_of(form), ams_conn_id=conn_id, timeout=0, soft_fail=soft_fail
    )
    told = ""
    try:
        told += json.dumps(wait(sensor))
    except Exception as exc:
        told += "".join(traceback.format_exception(exc)) + repr(exc)
    assert told
    assert here.seen[-1].method == "GET"
    assert_clean(told)
    assert_clean(overheard())


@in_all_forms
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_an_error_of_the_service_tells_no_secret(
    status: int,
    form: str,
    service: Callable[..., Any],
    reply: type[Any],
    define: Callable[[str, Any], str],
    overheard: Callable[[], str],
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service's own words are told without the token or the signed URL that they quote."""
    monkeypatch.setattr("airflow_ams.api.mkio.AFTER_REFUSAL", 0.05)
    conn_id = define(form, service(spilling(form, reply, failing=status)))
    spec: dict[str, Any] = {"Name": "x", "Tasks": []}
    if form != "v2":
        spec = {"transform_name": "t", "job_name": "job", "properties": {"outputs": []}}
    with AmsHook(conn_id) as hook:
        with pytest.raises(ServiceError) as caught:
            hook.get_job(job_id_of(form))
        with pytest.raises(ServiceError) as refused:
            hook.submit_job(spec)
        good, sentence = hook.test_connection()
    assert not good
    for error in (caught.value, refused.value):
        assert_clean("".join(traceback.format_exception(error)) + repr(error))
    assert_clean(sentence)
    assert_clean(overheard())


@pytest.mark.parametrize("form", ["v2", "arm", "rms"])
@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_an_error_of_the_sign_in_tells_no_secret(
    status: int,
    form: str,
    service: Callable[..., Any],
    reply: type[Any],
    define: Callable[[str, Any], str],
    overheard: Callable[[], str],
    quick_retries: None,
) -> None:
    """A token end point that quotes the key is not quoted with it."""
    document = {"error": f"invalid_client {KEY}", "error_description": f"{KEY} is wrong for account"}
    here = service(lambda _: reply(status=status, document=document))
    with AmsHook(define(form, here)) as hook, pytest.raises(ServiceError) as caught:
        hook.get_job(job_id_of(form))
    assert_clean("".join(traceback.format_exception(caught.value)) + repr(caught.value))
    assert_clean(overheard())


@pytest.mark.parametrize("body", [JWT[:-30], f"<p>{KEY}</p>", f"{JWT} {KEY}", f'{{"token": "{JWT}"}}'])
def test_an_answer_that_is_no_token_is_not_told(
    body: str,
    service: Callable[..., Any],
    reply: type[Any],
    define: Callable[[str, Any], str],
    overheard: Callable[[], str],
    quick_retries: None,
) -> None:
    """What RMS answers to a sign-in is a token, or may hold one."""
    here = service(lambda _: reply(body=body.replace(CLAIMS, CLAIMS[:-9]).encode()))
    with AmsHook(define("rms", here)) as hook, pytest.raises(ServiceError) as caught:
        hook.get_job("t/job")
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + overheard()
    assert_clean(told, KEY, JWT, CLAIMS[:-9], "JWTqq")


@pytest.mark.parametrize("form", ["v2", "mkio", "legacy"])
@pytest.mark.parametrize("token", [f"{TOKEN}\nsecond line", f"{TOKEN}\u2026"])
def test_a_token_that_cannot_be_sent_is_not_told(
    token: str,
    form: str,
    service: Callable[..., Any],
    reply: type[Any],
    connection: Callable[..., str],
    wait: Callable[..., Any],
    overheard: Callable[[], str],
) -> None:
    """A token pasted with a line break, or a typographic sign, is refused unseen."""
    here = service(lambda _: reply(document={}))
    conn_id = connection(**{**fields_of(form, here), "login": None, "password": token})
    job_id = job_id_of(form)
    with pytest.raises(AirflowSkipException) as caught:
        wait(AmsJobSensor(task_id="wait", job_id=job_id, ams_conn_id=conn_id, soft_fail=True))
    assert_clean("".join(traceback.format_exception(caught.value)))
    assert_clean(overheard())
    assert here.seen == []


@all_apis
@pytest.mark.parametrize("trouble", [{"drop": True}, {"html": True}, {"truncate": True}, {"status": 503}])
def test_trouble_tells_no_secret(
    trouble: dict[str, Any],
    ams: Emulator,
    overheard: Callable[[], str],
    quick_retries: None,
) -> None:
    """Neither the key nor the token that the emulator gave is in what the libraries below say."""
    ams.inject({"when": {"path": WIRES[ams.api].api}, "then": trouble})
    with AmsHook() as hook, pytest.raises(ServiceError) as caught:
        hook.get_job(WIRES[ams.api].unknown)
    told = "".join(traceback.format_exception(caught.value)) + overheard()
    assert_clean(told, ams.key, ams.connections["mkio"]["password"])
    assert "Bearer" not in told
    assert "HMACSHA256" not in told
    # So begins every JWT.
    assert "eyJ" not in told


@all_apis
def test_the_row_of_a_trigger_holds_no_secret(ams: Emulator) -> None:
    """Airflow keeps what a trigger is made of in its database, and shows it; so it does the event."""
    run = Deferred(
        AmsJobSensor(task_id="wait", job_id=ams.submit_scripted(states=["Queued"]), deferrable=True)
    )
    run.start()
    row = json.dumps([run.deferral.trigger.serialize(), run.deferral.method_name, run.deferral.kwargs])
    assert_clean(row, ams.key, ams.connections["mkio"]["password"], "eyJ", "HMACSHA256")
    assert "ams_default" in row


@in_all_forms
def test_no_object_that_holds_a_secret_shows_it(
    form: str, service: Callable[..., Any], reply: type[Any], define: Callable[[str, Any], str]
) -> None:
    """Hook, service, transport, and all that hangs below them, in any repr."""
    here = service(spilling(form, reply, "Finished"))
    with AmsHook(define(form, here)) as hook:
        opened = hook.get_conn()
        opened.get_job(job_id_of(form))
        shown, seen, left = "", set(), [hook, opened]
        while left:
            thing = left.pop()
            if id(thing) in seen or not type(thing).__module__.startswith("airflow_ams"):
                continue
            seen.add(id(thing))
            shown += repr(thing)
            left.extend(vars(thing).values())
    assert len(seen) >= 4, "the walk has found transport and tokens"
    assert_clean(shown)


def test_signatures_of_a_mapped_tasks_inputs_are_masked() -> None:
    """Airflow renders the templates of a mapped task in a way of its own, and shows them."""
    from airflow.providers.common.compat.sdk import redact

    url = "https://clips.blob.example/7.mp4?sv=2024&sig=mapped%2Bsecret&se=1"
    with DAG("mapped", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
        mapped = AmsSubmitJobOperator.partial(
            task_id="encode", transform_name="t", inputs=["{{ url }}"], outputs=["out"]
        ).expand(job_name=["a", "b"])
    made = mapped.unmap({"job_name": "a"})
    # So does `MappedOperator.render_template_fields`, which needs a running task besides.
    made._do_render_template_fields(
        made, mapped.template_fields, {"url": url}, made.get_template_env(), set()
    )
    assert made.inputs == [url]
    assert "mapped%2Bsecret" not in str(redact({"inputs": made.inputs}))
