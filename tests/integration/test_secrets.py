"""No secret leaves the process but on the wire: not in logs, XCom, exceptions with their chain, or reprs."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_ams.api.errors import ServiceError
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.sensors.ams import AmsJobSensor

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
KEY = "pA55w0rd-of-the-account/with+odd=chars"
TOKEN = "http%3a%2f%2fclaims=account&Issuer=x&HMACSHA256=qqqqTOKENqqqq%3d"
SIG = "kZ3%2Fx9Qv7SIGNATUREabc"
SIGNED = f"https://a.blob.core.windows.net/c/a.mp4?sv=2012&sr=c&sig={SIG}&se=2026"
SECRETS = (KEY, "pA55w0rd", TOKEN, "TOKENqq", SIG, "SIGNATURE")


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


def spilling(reply: type[Any], state: int = 4, failing: int | None = None) -> Callable[[Any], Any]:
    """Answer as a service that quotes every secret that it knows, in every place where a text goes."""

    def answer(seen: Any) -> Any:
        said = f"key {KEY} token {TOKEN} url {SIGNED}"
        if seen.method == "POST" and "token" in seen.path:
            return reply(document={"access_token": TOKEN, "expires_in": "3600", "note": said})
        if failing:
            error = {"code": f"Bad {TOKEN} {SIGNED}", "message": {"value": f"token {TOKEN} url {SIGNED}"}}
            return reply(status=failing, document={"odata.error": error})
        if seen.path.endswith("/Tasks"):
            details = [{"Code": f"E {SIGNED}", "Message": f"cannot read {SIGNED}\nnor {SIGNED}"}]
            task = {"Id": "nb:tid:UUID:1", "Name": f"task {SIGNED}", "State": state, "ErrorDetails": details}
            return reply(document={"value": [task]})
        if seen.path.endswith("/OutputMediaAssets"):
            return reply(document={"value": [{"Id": "nb:cid:UUID:1", "Name": f"o {SIGNED}", "Uri": SIGNED}]})
        return reply(document={"value": [{"Id": ID, "Name": f"name {SIGNED}", "State": state}]})

    return answer


@pytest.fixture
def define(connection: Callable[..., str]) -> Callable[[Any], str]:
    """Define a connection with a key to a service."""

    def make(here: Any) -> str:
        extra = {"token_url": f"{here.url}token"}
        return connection(host=here.base_url, login="account", password=KEY, extra=extra)

    return make


@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize("state", [0, 2, 3, 4, 5, 9])
def test_a_wait_tells_no_secret(
    state: int,
    soft_fail: bool,
    service: Callable[..., Any],
    reply: type[Any],
    define: Callable[[Any], str],
    wait: Callable[..., Any],
    overheard: Callable[[], str],
) -> None:
    """However the job ends, and whatever the service says about it."""
    here = service(spilling(reply, state))
    sensor = AmsJobSensor(task_id="wait", job_id=ID, ams_conn_id=define(here), timeout=0, soft_fail=soft_fail)
    told = ""
    try:
        told += json.dumps(wait(sensor))
    except Exception as exc:
        told += "".join(traceback.format_exception(exc)) + repr(exc)
    assert told
    assert_clean(told)
    assert_clean(overheard())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_an_error_of_the_service_tells_no_secret(
    status: int,
    service: Callable[..., Any],
    reply: type[Any],
    define: Callable[[Any], str],
    overheard: Callable[[], str],
    quick_retries: None,
) -> None:
    """The service's own words are told without the token or the signed URL that they quote."""
    here = service(spilling(reply, failing=status))
    with AmsHook(define(here)) as hook:
        with pytest.raises(ServiceError) as caught:
            hook.get_job(ID)
        with pytest.raises(ServiceError):
            hook.submit_job({"Name": "x", "Tasks": []})
        good, sentence = hook.test_connection()
    assert not good
    assert_clean("".join(traceback.format_exception(caught.value)) + repr(caught.value) + sentence)
    assert_clean(overheard())


@pytest.mark.parametrize("status", [400, 401, 500])
def test_an_error_of_the_sign_in_tells_no_secret(
    status: int,
    service: Callable[..., Any],
    reply: type[Any],
    define: Callable[[Any], str],
    overheard: Callable[[], str],
    quick_retries: None,
) -> None:
    """A token end point that quotes the key is not quoted with it."""
    document = {"error": f"invalid_client {KEY}", "error_description": f"{KEY} is wrong for account"}
    here = service(lambda _: reply(status=status, document=document))
    with AmsHook(define(here)) as hook, pytest.raises(ServiceError) as caught:
        hook.get_job(ID)
    assert_clean("".join(traceback.format_exception(caught.value)) + repr(caught.value))
    assert_clean(overheard())


@pytest.mark.parametrize("token", [f"{TOKEN}\nsecond line", f"{TOKEN}\u2026"])
def test_a_token_that_cannot_be_sent_is_not_told(
    token: str,
    connection: Callable[..., str],
    wait: Callable[..., Any],
    overheard: Callable[[], str],
) -> None:
    """A token pasted with a line break, or a typographic sign, is refused unseen."""
    conn_id = connection(host="http://127.0.0.1:9/api/", password=token)
    with pytest.raises(AirflowSkipException) as caught:
        wait(AmsJobSensor(task_id="wait", job_id=ID, ams_conn_id=conn_id, soft_fail=True))
    assert_clean("".join(traceback.format_exception(caught.value)))
    assert_clean(overheard())


@pytest.mark.parametrize("trouble", [{"drop": True}, {"html": True}, {"truncate": True}, {"status": 503}])
def test_trouble_tells_no_secret(
    trouble: dict[str, Any],
    ams_emulator: Emulator,
    overheard: Callable[[], str],
    quick_retries: None,
) -> None:
    """Neither the key nor the token that the emulator gave is in what the libraries below say."""
    key = ams_emulator.key
    ams_emulator.inject({"when": {"path": "Jobs"}, "then": trouble})
    with AmsHook() as hook, pytest.raises(ServiceError) as caught:
        hook.get_job(ID)
    told = "".join(traceback.format_exception(caught.value)) + overheard()
    assert_clean(told, key)
    assert "Bearer" not in told
    assert "HMACSHA256" not in told


def test_no_object_that_holds_a_secret_shows_it(
    service: Callable[..., Any], reply: type[Any], define: Callable[[Any], str]
) -> None:
    """Hook, service, transport, and all that hangs below them, in any repr."""
    here = service(spilling(reply, 3))
    with AmsHook(define(here)) as hook:
        opened = hook.get_conn()
        opened.check()
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
