"""Connections to the v3 services: what is left out, what does not go together, and what is missing."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_ams.api.arm import ArmService
from airflow_ams.api.errors import MalformedIdError, RefusedError
from airflow_ams.api.mkio import LegacyMkioService, MkioService
from airflow_ams.api.tokens import SignIn, StaticToken
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.hooks.connection import Settings, read_settings

Define = Callable[..., str]
KEY = "pA55w0rd/with+odd=chars&more"
ACCOUNT = {"subscription_id": "sub", "resource_group": "group", "account_name": "contoso"}
RMS_HOST = "https://contoso.ravnur.net/"
MANAGEMENT = "https://management.azure.com"
ARM: dict[str, Any] = {
    "login": "client",
    "password": KEY,
    "extra": {"api": "arm", "tenant_id": "tenant", **ACCOUNT},
}
RMS: dict[str, Any] = {"host": RMS_HOST, "password": KEY, "extra": {"api": "rms", **ACCOUNT}}
MKIO: dict[str, Any] = {"password": KEY, "extra": {"api": "mkio", "project": "contoso"}}
V2: dict[str, Any] = {"login": "account", "password": KEY, "extra": {"api": "v2"}}
GOOD = {"v2": V2, "arm": ARM, "rms": RMS, "mkio": MKIO}
AUTHS = {
    "v2": {"bearer", "acs", "entra"},
    "arm": {"entra", "bearer"},
    "rms": {"api_key", "bearer"},
    "mkio": {"bearer"},
}
"""Which authentication goes with which API, by the description of the issue."""

EACH = ["arm", "rms", "mkio"]


def fields_of(api: str, *, without: str = "", **extra: Any) -> dict[str, Any]:
    """Return a good connection to an API, but for these fields of its extra."""
    fields = {**GOOD[api], "extra": {**GOOD[api]["extra"], **extra}}
    fields["extra"].pop(without, None)
    return fields


def settings_of(conn_id: str) -> Settings:
    """Read a connection as the hook does."""
    return read_settings(AmsHook.get_connection(conn_id))


def refusal(conn_id: str) -> str:
    """Return why the hook refuses a connection; no secret is in it."""
    with pytest.raises(RefusedError) as caught:
        AmsHook(conn_id).get_conn()
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert f"Connection '{conn_id}'" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("api", "base", "version"),
    [
        ("v2", "https://media.windows.net/api/", "2.19"),
        ("arm", f"{MANAGEMENT}/", "2022-07-01"),
        ("rms", RMS_HOST, "2022-07-01"),
        ("mkio", "https://app.mk.io/", ""),
    ],
)
def test_what_is_left_out(connection: Define, api: str, base: str, version: str) -> None:
    """Address, version and authentication are each API's own."""
    settings = settings_of(connection(**fields_of(api)))
    assert (settings.api, settings.base_url, settings.api_version) == (api, base, version)
    credentials = {
        "v2": SignIn("acs", "account", KEY),
        "arm": SignIn("entra", "client", KEY, tenant_id="tenant", resource=MANAGEMENT),
        "rms": SignIn("api_key", "sub", KEY, token_url=f"{RMS_HOST}auth/token"),
        "mkio": StaticToken(KEY),
    }
    assert settings.credential == credentials[api]
    has_account = api in ("arm", "rms")
    assert settings.account == (("sub", "group", "contoso") if has_account else ("", "", ""))
    assert settings.project == ("contoso" if api == "mkio" else "")
    assert not settings.is_legacy


@pytest.mark.parametrize("api", EACH)
def test_a_connection_survives_airflows_own_uri(
    connection: Define, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    """What Airflow writes as a URI is read as the same connection."""
    fields = fields_of(api)
    made = Connection(conn_id="x", conn_type="ams", **{**fields, "extra": json.dumps(fields["extra"])})
    monkeypatch.setenv("AIRFLOW_CONN_AMS_URI", made.get_uri())
    assert settings_of("ams_uri") == settings_of(connection(**fields))


def test_a_uri_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare host, the key percent-encoded, all else in the query, where everything is a text."""
    extra = "&".join(
        f"{name}={value}" for name, value in {"api": "rms", **ACCOUNT, "legacy": "false"}.items()
    )
    monkeypatch.setenv("AIRFLOW_CONN_AMS_URI", f"ams://:{quote(KEY, safe='')}@contoso.ravnur.net?{extra}")
    assert settings_of("ams_uri").credential == SignIn(
        "api_key", "sub", KEY, token_url=f"{RMS_HOST}auth/token"
    )


@pytest.mark.parametrize("api", EACH)
@pytest.mark.parametrize("empty", ["", None])
def test_fields_that_the_form_left_empty_mean_nothing(connection: Define, api: str, empty: Any) -> None:
    """Airflow's forms save every field, those of the other APIs, too."""
    names = {"subscription_id", "resource_group", "account_name", "project", "legacy", "redirect_hosts"}
    names |= {"auth", "tenant_id", "managed_identity", "cloud", "authority", "token_url", "api_version"}
    fields = fields_of(api)
    form = {**dict.fromkeys(names, empty), "legacy": False, "allow_http": False, **fields["extra"]}
    plain = settings_of(connection("plain", **fields))
    assert settings_of(connection(**{**fields, "extra": form})) == plain


@pytest.mark.parametrize("api", sorted(AUTHS))
@pytest.mark.parametrize("auth", ["bearer", "acs", "entra", "api_key"])
def test_api_and_authentication_go_together_or_both_are_named(
    connection: Define, api: str, auth: str
) -> None:
    """A wrong pair is an error that names both, and says what goes."""
    needed = {"tenant_id": "tenant"} if auth == "entra" and api == "v2" else {}
    conn_id = connection(**fields_of(api, auth=auth, **needed))
    if auth in AUTHS[api]:
        kind = settings_of(conn_id).credential
        assert kind == StaticToken(KEY) if auth == "bearer" else getattr(kind, "method", None) == auth
        return
    said = refusal(conn_id)
    assert f"extra.auth '{auth}'" in said
    assert f"extra.api '{api}'" in said
    assert all(good in said for good in AUTHS[api])


@pytest.mark.parametrize(
    ("api", "field"),
    [(api, field) for api in ("arm", "rms") for field in ACCOUNT] + [("mkio", "project")],
)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_field_is_named(connection: Define, api: str, field: str, value: Any) -> None:
    """By its own name, with the API that needs it."""
    said = refusal(connection(**fields_of(api, **{field: value})))
    assert f"extra.{field} is missing" in said
    assert f"'{api}'" in said
    assert f"extra.{field}" in refusal(connection(**fields_of(api, without=field)))


@pytest.mark.parametrize(
    ("api", "field"),
    [(api, field) for api in ("arm", "rms") for field in ACCOUNT] + [("mkio", "project")],
)
@pytest.mark.parametrize("value", [".", "..", "a/b", "/contoso", "a\r\nb", "a\x00b"])
def test_a_field_that_would_change_the_path_is_named(
    connection: Define, api: str, field: str, value: str
) -> None:
    """It is a name in the address of each request."""
    assert f"extra.{field} {value!r} is no name" in refusal(connection(**fields_of(api, **{field: value})))


@pytest.mark.parametrize("value", ["a b", "...", "a.b", "Ü", "50%", "a\\b"])
def test_other_names_are_the_services_affair(connection: Define, value: str) -> None:
    """They are encoded."""
    assert settings_of(connection(**fields_of("mkio", project=value))).project == value


def test_rms_has_no_address_of_its_own(connection: Define) -> None:
    """Each deployment has another."""
    assert "host is missing" in refusal(connection(**{**RMS, "host": ""}))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({**RMS, "password": " "}, "auth 'api_key' needs password"),
        ({**MKIO, "password": ""}, "auth 'bearer' needs password"),
        ({**ARM, "login": ""}, "auth 'entra' needs login"),
        ({**ARM, "password": ""}, "password"),
        (fields_of("arm", without="tenant_id"), "extra.tenant_id"),
        (fields_of("arm", managed_identity="true"), "extra.managed_identity"),
        (fields_of("arm", cloud="mars"), "extra.cloud 'mars'"),
        ({"extra": {"api": "arm", **ACCOUNT, "auth": "bearer"}}, "auth 'bearer' needs password"),
        ({**V2, "extra": {"api": "v3"}}, "extra.api 'v3' is not known; it is one of v2, arm, rms, mkio"),
        ({**V2, "extra": {"api": "ARM"}}, "extra.api 'ARM'"),
        ({**V2, "extra": {"api": ["arm"]}}, "extra.api"),
        ({**RMS, "extra": {**RMS["extra"], "auth": "magic"}}, "extra.auth 'magic'"),
        (fields_of("rms", token_url="http://sts.test/token"), "extra.token_url"),
        (fields_of("mkio", legacy="perhaps"), "extra.legacy"),
        ({**MKIO, "schema": "x"}, "schema"),
        ({**RMS, "host": f"https://user:{quote(KEY, safe='')}@contoso.ravnur.net"}, "host"),
        ({**RMS, "host": "http://contoso.ravnur.net"}, "extra.allow_http"),
        ({**RMS, "host": "contoso.ravnur.net/api"}, "host"),
        ({**MKIO, "port": 443}, "port"),
        ({**RMS, "host": "contoso.ravnur.net//"}, "host"),
        ({**MKIO, "host": "https://app.mk.io/api/v1/"}, "give https://app.mk.io/"),
        ({**MKIO, "host": "https://gw.test/x/API/V1/projects/p"}, "give https://gw.test/x/"),
        ({**fields_of("mkio", legacy=True), "host": "https://gw.test/api/ams"}, "give https://gw.test/"),
        (
            {**ARM, "host": "https://management.azure.com/subscriptions/s"},
            "give https://management.azure.com/",
        ),
        (
            {**RMS, "host": "https://contoso.ravnur.net:8443/subscriptions"},
            "give https://contoso.ravnur.net:8443/",
        ),
        ({**fields_of("mkio", legacy=True), "host": "app.mk.io"}, "extra.legacy is true"),
        ({**fields_of("mkio", legacy=True), "host": "https://APP.mk.io:443/"}, "set extra.legacy to false"),
    ],
)
def test_a_bad_connection_fails_at_once_by_the_fields_name(
    connection: Define, fields: dict[str, Any], named: str
) -> None:
    """Before anything is sent."""
    assert named in refusal(connection(**fields))


@pytest.mark.parametrize(
    ("field", "value", "apis"),
    [
        ("subscription_id", "sub", {"arm", "rms"}),
        ("resource_group", "group", {"arm", "rms"}),
        ("account_name", "contoso", {"arm", "rms"}),
        ("project", "contoso", {"mkio"}),
        ("legacy", True, {"mkio"}),
        ("legacy", "true", {"mkio"}),
        ("redirect_hosts", "a.test", {"v2"}),
    ],
)
@pytest.mark.parametrize("api", sorted(GOOD))
def test_a_field_of_another_api_is_refused(
    connection: Define, api: str, field: str, value: Any, apis: set[str]
) -> None:
    """It would mean nothing, and whoever wrote it means another API."""
    conn_id = connection(**fields_of(api, **{field: value}))
    if api in apis:
        AmsHook(conn_id).get_conn()
        return
    said = refusal(conn_id)
    assert f"extra.{field}" in said
    assert f"extra.api is '{api}'" in said
    assert all(other in said for other in apis)


@pytest.mark.parametrize("api", sorted(GOOD))
@pytest.mark.parametrize(("field", "value"), [("legacy", False), ("legacy", "false"), ("redirect_hosts", [])])
def test_a_field_that_says_nothing_is_of_no_api(connection: Define, api: str, field: str, value: Any) -> None:
    """In the URI form a box that is not ticked is the text `false`."""
    assert settings_of(connection(**fields_of(api, **{field: value}))) == settings_of(
        connection("plain", **fields_of(api))
    )


@pytest.mark.parametrize(
    ("api", "version", "is_good"),
    [
        ("arm", "2021-11-01", True),
        ("rms", "2018-07-01", True),
        ("arm", "2.19", False),
        ("rms", "2022-7-1", False),
        ("arm", "2022-07-01&x=1", False),
        ("arm", "2022-07-01\r\nX-Evil: 1", False),
        ("v2", "2022-07-01", False),
        ("mkio", "2022-07-01", False),
    ],
)
def test_versions(connection: Define, api: str, version: str, is_good: bool) -> None:
    """ARM's are dates, v2's are numbers, MK.IO's requests have none."""
    conn_id = connection(**fields_of(api, api_version=version))
    if is_good:
        assert settings_of(conn_id).api_version == version
    else:
        assert "extra.api_version" in refusal(conn_id)


@pytest.mark.parametrize("api", EACH)
@pytest.mark.parametrize(
    ("host", "port", "base"),
    [
        ("x.example.org", None, "https://x.example.org/"),
        ("x.example.org/", None, "https://x.example.org/"),
        ("x.example.org/", 8443, "https://x.example.org:8443/"),
        ("x.example.org", 8443, "https://x.example.org:8443/"),
        ("https://x.example.org", None, "https://x.example.org/"),
        ("https://x.example.org/", None, "https://x.example.org/"),
        ("https://x.example.org//", None, "https://x.example.org/"),
        ("https://x.example.org/base", None, "https://x.example.org/base/"),
        ("http://127.0.0.1:8765", None, "http://127.0.0.1:8765/"),
    ],
)
def test_host_is_the_root_of_the_api(
    connection: Define, api: str, host: str, port: int | None, base: str
) -> None:
    """No `/api/` is added; RMS signs in below it, with one slash."""
    settings = settings_of(connection(**{**fields_of(api), "host": host, "port": port}))
    assert settings.base_url == base
    if api == "rms":
        assert isinstance(settings.credential, SignIn)
        assert settings.credential.token_url == f"{base}auth/token"


@pytest.mark.parametrize(
    ("cloud", "management"),
    [
        ("public", "https://management.azure.com"),
        ("usgov", "https://management.usgovcloudapi.net"),
        ("china", "https://management.chinacloudapi.cn"),
    ],
)
def test_each_cloud_has_a_management_of_its_own(connection: Define, cloud: str, management: str) -> None:
    """Address and scope of the token are of the same cloud; a managed identity gets the same scope."""
    settings = settings_of(connection(**fields_of("arm", cloud=cloud)))
    assert settings.base_url == f"{management}/"
    assert isinstance(settings.credential, SignIn)
    assert (settings.credential.cloud, settings.credential.audience) == (cloud, management)
    identity = {"extra": {"api": "arm", **ACCOUNT, "cloud": cloud, "managed_identity": "true"}}
    assert getattr(settings_of(connection(**identity)).credential, "audience", None) == management


def test_the_older_mkio(connection: Define) -> None:
    """Another host, another path, no version."""
    settings = settings_of(connection(**fields_of("mkio", legacy=True)))
    assert (settings.base_url, settings.is_legacy) == ("https://api.mk.io/", True)
    assert isinstance(AmsHook("ams_test").get_conn(), LegacyMkioService)
    assert settings_of(connection(**fields_of("mkio", legacy="true"))).is_legacy


@pytest.mark.parametrize(("api", "kind"), [("arm", ArmService), ("rms", ArmService), ("mkio", MkioService)])
def test_the_hook_opens_the_service(connection: Define, api: str, kind: type) -> None:
    """That speaks the API, and knows its name; nothing is sent."""
    service = AmsHook(connection(**fields_of(api))).get_conn()
    assert type(service) is kind
    with pytest.raises(MalformedIdError, match=f"extra.api is '{api}'"):
        service.get_job("nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1")


def test_no_repr_of_settings_shows_a_secret(connection: Define) -> None:
    """A debugger, or an assertion, prints neither key nor token."""
    for fields in GOOD.values():
        assert KEY not in repr(settings_of(connection(**fields)))
