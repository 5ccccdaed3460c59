"""Connections to the v3 services over the wire: what is sent, and what a refusal says of the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_ams.api.errors import JobNotFoundError, RefusedError
from airflow_ams.hooks.ams import AmsHook

Define = Callable[..., str]
ACCOUNT = {"subscription_id": "sub", "resource_group": "group", "account_name": "contoso"}
PATH = "/subscriptions/sub/resourceGroups/group/providers/Microsoft.Media/mediaServices/contoso"
EACH = ["arm", "rms", "mkio"]


def bearer(api: str, url: str, **extra: Any) -> dict[str, Any]:
    """Return a connection with a pasted token to a service on this machine."""
    own = {"project": "contoso"} if api == "mkio" else ACCOUNT
    return {"host": url, "password": "token", "extra": {"api": api, "auth": "bearer", **own, **extra}}


@pytest.mark.parametrize(
    ("api", "status", "advice"),
    [
        ("arm", 401, "password"),
        ("arm", 403, "Contributor"),
        ("rms", 401, "password"),
        ("rms", 403, "API key"),
        ("mkio", 401, "password"),
        ("mkio", 403, "ams.job.get"),
    ],
)
def test_a_refusal_says_what_to_do(
    connection: Define, service: Any, reply: Any, api: str, status: int, advice: str
) -> None:
    """The field to look at, or the right that is missing; the token that the service quotes is not shown."""
    error = {"code": "Refused", "message": "token may not", "detail": "token may not"}
    running = service(lambda seen: reply(status, {"error": error}))
    with (
        AmsHook(connection(**bearer(api, running.url))) as hook,
        pytest.raises(RefusedError, match=r"\*\*\* may not") as caught,
    ):
        hook.get_job("encode/clip-7")
    assert advice in str(caught.value)
    assert caught.value.status == status


@pytest.mark.parametrize("api", EACH)
@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("body", [b"<html>", b"", b'{"status": 404, "error": "Not Found"}'])
def test_a_refusal_that_is_not_the_services_is_about_the_host(
    connection: Define, service: Any, reply: Any, api: str, status: int, body: bytes
) -> None:
    """Something else answers there; the fields that say where are named."""
    running = service(lambda seen: reply(status, body=body))
    with AmsHook(connection(**bearer(api, running.url))) as hook, pytest.raises(RefusedError) as caught:
        hook.get_job("encode/clip-7")
    assert "look at the connection's host" in str(caught.value)
    assert ("extra.legacy" in str(caught.value)) == (api == "mkio")


@pytest.mark.parametrize("api", EACH)
def test_a_405_in_the_services_own_words_is_not_about_the_host(
    connection: Define, service: Any, reply: Any, api: str
) -> None:
    """It was reached, then."""
    running = service(lambda seen: reply(405, {"error": {"code": "NotAllowed", "message": "no"}}))
    with AmsHook(connection(**bearer(api, running.url))) as hook, pytest.raises(RefusedError) as caught:
        hook.get_job("encode/clip-7")
    assert "host" not in str(caught.value)


def test_the_older_mkio_says_no_in_a_bare_text(connection: Define, service: Any, reply: Any) -> None:
    """That is its own word there, and a gateway's elsewhere."""
    running = service(lambda seen: reply(404, {"error": "The job was not found."}))
    with (
        AmsHook(connection(**bearer("mkio", running.url, legacy=True))) as hook,
        pytest.raises(JobNotFoundError, match=r"The job was not found\."),
    ):
        hook.get_job("encode/clip-7")


@pytest.mark.parametrize(
    ("api", "extra", "target"),
    [
        (
            "arm",
            {},
            f"{PATH}/transforms/encode/jobs/clip-7?api-version=2022-07-01",
        ),
        ("mkio", {}, "/api/v1/projects/contoso/media/transforms/encode/jobs/clip-7"),
        ("mkio", {"legacy": True}, "/api/ams/contoso/transforms/encode/jobs/clip-7"),
    ],
)
def test_the_token_goes_where_the_generation_looks_for_it(
    connection: Define, service: Any, reply: Any, api: str, extra: dict[str, Any], target: str
) -> None:
    """As a bearer token; to the older MK.IO in the header of its first tokens, too."""
    error = {"error": {"code": "NotFound", "message": "no"}}
    running = service(lambda seen: reply(404, error))
    with AmsHook(connection(**bearer(api, running.url, **extra))) as hook, pytest.raises(JobNotFoundError):
        hook.get_job("encode/clip-7")
    (seen,) = running.seen
    assert seen.target == target
    headers = {name.lower(): value for name, value in seen.headers.items()}
    assert headers["authorization"] == "Bearer token"
    assert headers.get("x-mkio-token") == ("token" if extra else None)
    assert headers["accept"] == "application/json"


@pytest.mark.parametrize("api", EACH)
def test_test_connection_is_a_sentence(connection: Define, service: Any, reply: Any, api: str) -> None:
    """What is good, and what is not, each to act on."""
    good = service(lambda seen: reply(document={"value": []}))
    is_good, sentence = AmsHook(connection(**bearer(api, good.url))).test_connection()
    assert is_good
    assert "contoso" in sentence
    bad = service(lambda seen: reply(401, {"error": {"code": "Unauthorized", "message": "no"}}))
    is_good, sentence = AmsHook(connection(**bearer(api, bad.url))).test_connection()
    assert not is_good
    assert "password" in sentence
