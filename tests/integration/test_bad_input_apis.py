"""What people paste wrongly, on each dialect: an error at once, in every mode, that names what to mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from airflow_ams.api.errors import JobNotFoundError, RefusedError
from airflow_ams.exceptions import AmsJobNotFound, AmsRefused
from airflow_ams.hooks.ams import AmsHook
from tests.integration.waits import MODES, UNKNOWN, WIRES, on, sensor

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

RESOURCE = "subscriptions/{subscription_id}/resourceGroups/{resource_group}/providers/Microsoft.Media"
AUTHS = {
    "v2": ("bearer", "acs", "entra"),
    "arm": ("entra", "bearer"),
    "rms": ("api_key", "bearer"),
    "mkio": ("bearer",),
}
ALL_AUTHS = {"acs", "api_key", "bearer", "entra"}
OTHER = "11111111-2222-3333-4444-555555555555"

on_v3 = on("arm", "rms", "mkio")
in_all_modes = pytest.mark.parametrize("mode", list(MODES))


def changed(ams: Emulator, **extra: Any) -> dict[str, Any]:
    """Return the emulator's connection with other extra fields; None takes one out."""
    fields = {**ams.connection["extra"], **extra}
    return {**ams.connection, "extra": {key: value for key, value in fields.items() if value is not None}}


def full_id(ams: Emulator, job: str, **other: str) -> str:
    """Return the resource id of a job in the connection's account, or in another."""
    place = {**ams.connection["extra"], **other}
    return f"/{RESOURCE}/mediaServices/{{account_name}}/transforms/".format(**place) + job.replace(
        "/", "/jobs/"
    )


def refusal(wait: Callable[..., Any], job_id: Any, **arguments: Any) -> str:
    """Wait, and return why that was refused."""
    with pytest.raises(AmsRefused) as caught:
        wait(sensor(job_id, **arguments))
    return str(caught.value)


# -- ids of another service


@on_v3
@in_all_modes
def test_a_v2_id_elsewhere(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """It is recognized, nothing is sent, and the wanted form is shown."""
    text = refusal(wait, UNKNOWN, **MODES[mode])
    for word in (UNKNOWN, "an id of the v2 API", f"extra.api is '{ams.api}'", "transform/job"):
        assert word in text
    assert ams.requests() == []


@in_all_modes
@pytest.mark.parametrize("job_id", ["encode-720p/clip-7", "/subscriptions/s/x/transforms/t/jobs/j"])
def test_a_v3_id_on_v2(mode: str, job_id: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """The other way round."""
    text = refusal(wait, job_id, **MODES[mode])
    for word in (job_id, "nb:jid:UUID:", "extra.api"):
        assert word in text
    assert ams.requests() == []


@on_v3
@pytest.mark.parametrize(
    "job_id",
    ["clip-7", "a/b/c", "/clip-7", "encode-720p/", "a/..", "a/b?x", "a/b#c", f"a/{'x' * 261}", "a/\n"],
)
def test_what_is_no_id(job_id: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """Half an id, more than one, or what would change the path of the request."""
    assert "transform/job" in refusal(wait, job_id)
    assert ams.requests() == []


@on("arm", "rms")
@pytest.mark.parametrize(
    ("field", "word"),
    [("subscription_id", "subscription"), ("resource_group", "resource group"), ("account_name", "account")],
)
@in_all_modes
def test_a_full_id_of_another_account(
    mode: str, field: str, word: str, ams: Emulator, wait: Callable[..., Any]
) -> None:
    """The id says whose it is: a job of the same name here is another job."""
    job_id = ams.submit_scripted(states=["Finished"])
    text = refusal(wait, full_id(ams, job_id, **{field: "elsewhere"}), **MODES[mode])
    assert f"{word} 'elsewhere'" in text
    assert ams.connection["extra"][field] in text
    assert ams.requests(WIRES[ams.api].api) == []


@on("mkio")
def test_the_address_of_a_job_of_another_project(ams: Emulator, wait: Callable[..., Any]) -> None:
    """An address names its project."""
    text = refusal(wait, f"{ams.url}api/v1/projects/theirs/media/transforms/t/jobs/j")
    assert "project 'theirs'" in text
    assert f"'{ams.account}'" in text


# -- connections


@pytest.mark.parametrize(
    ("ams", "field"),
    [
        (api, field)
        for api in ("arm", "rms")
        for field in ("subscription_id", "resource_group", "account_name")
    ]
    + [("mkio", "project")],
    indirect=["ams"],
)
@in_all_modes
def test_a_connection_without_a_field(
    mode: str, field: str, ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """Its name, and the connection's, and the API that needs it."""
    conn_id = connection("ams_poor", **changed(ams, **{field: None}))
    text = refusal(wait, WIRES[ams.api].unknown, ams_conn_id=conn_id, **MODES[mode])
    for word in ("ams_poor", f"extra.{field} is missing", f"'{ams.api}'"):
        assert word in text


@pytest.mark.parametrize(
    ("ams", "auth"),
    [(api, auth) for api in AUTHS for auth in sorted(ALL_AUTHS - set(AUTHS[api]))],
    indirect=["ams"],
)
def test_a_wrong_pair_of_api_and_auth(
    auth: str, ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """Both are named, and what the API takes."""
    conn_id = connection("ams_pair", **changed(ams, auth=auth))
    text = refusal(wait, WIRES[ams.api].unknown, ams_conn_id=conn_id)
    for word in (f"extra.auth '{auth}'", f"extra.api '{ams.api}'", " or ".join(AUTHS[ams.api])):
        assert word in text
    assert ams.requests() == []


@pytest.mark.parametrize(
    ("ams", "field"),
    [
        ("arm", "subscription_id"),
        ("arm", "resource_group"),
        ("arm", "account_name"),
        ("rms", "resource_group"),
        ("rms", "account_name"),
    ],
    indirect=["ams"],
)
@in_all_modes
def test_a_place_that_is_not_there(
    mode: str, field: str, ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """It is no missing job, which would be asked for again: the field that is wrong is named at once."""
    job_id = ams.submit_scripted(states=["Finished"])
    conn_id = connection("ams_lost", **changed(ams, **{field: OTHER}))
    text = refusal(wait, job_id, ams_conn_id=conn_id, **MODES[mode])
    assert f"extra.{field}" in text
    assert OTHER in text
    assert len(ams.requests(WIRES[ams.api].job)) == 1
    good, sentence = AmsHook(conn_id).test_connection()
    assert not good
    assert f"extra.{field}" in sentence


@on("mkio")
def test_a_project_that_is_not_there(ams: Emulator, connection: Callable[..., str]) -> None:
    """The service answers as for a job that is not there, so the error names the project beside the job."""
    job_id = ams.submit_scripted(states=["Finished"])
    with (
        AmsHook(connection("ams_lost", **changed(ams, project="theirs"))) as hook,
        pytest.raises(JobNotFoundError, match="project 'theirs'"),
    ):
        hook.get_job(job_id)
    good, sentence = AmsHook("ams_lost").test_connection()
    assert not good
    assert "theirs" in sentence


@on("mkio")
@in_all_modes
def test_a_wait_in_a_project_that_is_not_there(
    mode: str, ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """The end of the wait names what to look at besides the job's id."""
    conn_id = connection("ams_lost", **changed(ams, project="theirs"))
    job_id = ams.submit_scripted(states=["Finished"])
    with pytest.raises(AmsJobNotFound, match=r"project 'theirs'.*extra\.project"):
        wait(sensor(job_id, ams_conn_id=conn_id, not_found_grace=0, **MODES[mode]))


# -- keys and tokens


@on("rms")
@in_all_modes
def test_an_api_key_that_has_expired(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """It is the key, and not the token, that must be made anew; and that is said at once."""
    ams.expire_api_key()
    text = refusal(wait, WIRES[ams.api].unknown, **MODES[mode])
    for word in ("API key", "not the token", "expired or been deleted", "RMS console", "password"):
        assert word in text
    assert len(ams.requests("auth/token")) == 1
    assert ams.requests(WIRES[ams.api].api) == []


@on("rms")
def test_a_wrong_subscription_on_rms(
    ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """The sign-in wants it too, and does not say which of the two is wrong."""
    conn_id = connection("ams_lost", **changed(ams, subscription_id=OTHER))
    text = refusal(wait, WIRES[ams.api].unknown, ams_conn_id=conn_id)
    assert "API key" in text
    assert "extra.subscription_id" in text


@on("mkio")
@in_all_modes
@pytest.mark.parametrize("legacy", [None, True])
def test_a_token_that_may_not_read_jobs(
    legacy: bool | None, mode: str, ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """The right that it lacks is named, and what the service said; the token is not shown."""
    token = ams.personal_token(capabilities=["ams.job.create"])
    conn_id = connection("ams_poor", **{**changed(ams, legacy=legacy), "password": token})
    text = refusal(wait, ams.submit_scripted(states=["Finished"]), ams_conn_id=conn_id, **MODES[mode])
    for word in (
        "(403",
        "needs the right ams.job.get to wait for jobs",
        "capability 'ams.job.get'",
        "request id",
    ):
        assert word in text
    assert token not in text


@on("mkio")
def test_a_token_that_may_only_read_jobs(
    ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """It is enough to wait; canceling wants another right, by its name."""
    token = ams.personal_token(capabilities=["ams.job.get"])
    conn_id = connection("ams_reader", **{**ams.connection, "password": token})
    assert AmsHook(conn_id).test_connection()[0]
    assert wait(sensor(ams.submit_scripted(states=["Finished"]), ams_conn_id=conn_id))["state"] == "Finished"
    with (
        AmsHook(conn_id) as hook,
        pytest.raises(RefusedError, match=r"ams\.job\.create to create and cancel"),
    ):
        hook.cancel_job(ams.submit_scripted(states=[{"state": "Processing"}]))


@on("mkio")
def test_a_token_that_has_expired_before(
    ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """It is not tried twice, and what to do is said."""
    token = ams.personal_token(lifetime=10)
    ams.advance(20)
    conn_id = connection("ams_old", **{**ams.connection, "password": token})
    text = refusal(wait, WIRES[ams.api].unknown, ams_conn_id=conn_id)
    assert "make a new one in MK.IO" in text
    assert len(ams.requests(WIRES[ams.api].job)) == 1


@on("arm")
@pytest.mark.parametrize("source", ["rms", "mkio"])
def test_a_token_of_another_service(
    source: str, ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """A key or token in the wrong place is a refusal that names the place, and shows nothing of it."""
    secret = ams.connections[source]["password"]
    fields = changed(ams, auth="bearer", tenant_id=None, token_url=None)
    conn_id = connection("ams_mixed", **{**fields, "login": None, "password": secret})
    text = refusal(wait, WIRES[ams.api].unknown, ams_conn_id=conn_id)
    assert "password" in text
    assert secret not in text
