"""Every way to write an `ams` connection, as Airflow reads it; every mistake names its field."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from airflow.providers.common.compat.sdk import Connection

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.tokens import SignIn, StaticToken
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.hooks.connection import Settings, read_settings

Define = Callable[..., str]
KEY = "pA55w0rd/with+odd=chars&more"
ACS = {"login": "account", "password": KEY}


def settings_of(conn_id: str) -> Settings:
    """Read a connection as the hook does."""
    return read_settings(AmsHook.get_connection(conn_id))


@pytest.mark.parametrize(
    ("host", "port", "base"),
    [
        (None, None, "https://media.windows.net/api/"),
        ("", None, "https://media.windows.net/api/"),
        ("  ", None, "https://media.windows.net/api/"),
        ("media.windows.net", None, "https://media.windows.net/api/"),
        (" ams.example.org ", None, "https://ams.example.org/api/"),
        ("ams.example.org", 8443, "https://ams.example.org:8443/api/"),
        ("ams.example.org:8443", None, "https://ams.example.org:8443/api/"),
        ("127.0.0.1", 8765, "https://127.0.0.1:8765/api/"),
        (
            "https://acc.restv2.westeurope.media.azure.net/api/",
            None,
            "https://acc.restv2.westeurope.media.azure.net/api/",
        ),
        ("https://ams.example.org/api", None, "https://ams.example.org/api/"),
        ("https://ams.example.org", None, "https://ams.example.org/"),
        ("https://ams.example.org:8443/base/api", None, "https://ams.example.org:8443/base/api/"),
        ("http://127.0.0.1:8765/api/", None, "http://127.0.0.1:8765/api/"),
        ("http://localhost:8765/api/", None, "http://localhost:8765/api/"),
        ("http://[::1]:8765/api/", None, "http://[::1]:8765/api/"),
    ],
)
def test_host_is_the_api_base(connection: Define, host: str | None, port: int | None, base: str) -> None:
    """Empty, a bare host with or without port, or a full URL as it is."""
    assert settings_of(connection(host=host, port=port, **ACS)).base_url == base


def test_the_uri_form_of_the_readme_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ams://account:key@media.windows.net`, with the key percent-encoded."""
    monkeypatch.setenv("AIRFLOW_CONN_AMS_URI", f"ams://account:{quote(KEY, safe='')}@media.windows.net")
    settings = settings_of("ams_uri")
    assert settings.base_url == "https://media.windows.net/api/"
    assert settings.credential == SignIn("acs", "account", KEY)


def test_the_uri_form_takes_a_full_url_and_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A percent-encoded base as the host, and extra fields in the query."""
    host = quote("http://127.0.0.1:8765/api/", safe="")
    token_url = quote("http://127.0.0.1:8765/v2/OAuth2-13", safe="")
    uri = f"ams://account:{quote(KEY, safe='')}@{host}?token_url={token_url}&timeout=5&allow_http=true"
    monkeypatch.setenv("AIRFLOW_CONN_AMS_URI", uri)
    settings = settings_of("ams_uri")
    assert settings.base_url == "http://127.0.0.1:8765/api/"
    assert settings.timeout == 5
    assert settings.credential == SignIn(
        "acs", "account", KEY, token_url="http://127.0.0.1:8765/v2/OAuth2-13", timeout=5
    )


@pytest.mark.parametrize(
    "host", ["media.windows.net", "http://127.0.0.1:8765/api/", "https://ams.test:8443/api/"]
)
def test_a_connection_survives_airflows_own_uri(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """What Airflow writes as a URI (exports, its secrets cache) is read as the same connection."""
    fields: dict[str, Any] = {**ACS, "host": host, "extra": json.dumps({"timeout": 5})}
    made = Connection(conn_id="x", conn_type="ams", **fields)
    monkeypatch.setenv("AIRFLOW_CONN_AMS_URI", made.get_uri())
    assert settings_of("ams_uri") == read_settings(made)


def test_a_key_that_was_not_encoded_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `/` in the key moves its rest into schema: the error names schema, and shows no part of the key."""
    monkeypatch.setenv("AIRFLOW_CONN_AMS_URI", "ams://account:12/SEKRETrest==@media.windows.net")
    with pytest.raises(RefusedError, match="schema") as caught:
        settings_of("ams_uri")
    assert "SEKRET" not in str(caught.value)
    assert "percent-encoded" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "credential"),
    [
        ({"password": "token"}, StaticToken("token")),
        ({"password": "Bearer token"}, StaticToken("token")),
        ({"password": " token\n"}, StaticToken("token")),
        (ACS, SignIn("acs", "account", KEY)),
        (
            {**ACS, "extra": {"tenant_id": "tenant"}},
            SignIn("entra", "account", KEY, tenant_id="tenant"),
        ),
        ({"extra": {"managed_identity": "true"}}, SignIn("entra", managed_identity=True)),
        ({"extra": {"managed_identity": True}}, SignIn("entra", managed_identity=True)),
        ({"extra": {"managed_identity": "client"}}, SignIn("entra", "client", managed_identity=True)),
        ({**ACS, "extra": {"managed_identity": "false"}}, SignIn("acs", "account", KEY)),
        ({**ACS, "extra": {"managed_identity": False}}, SignIn("acs", "account", KEY)),
        ({**ACS, "extra": {"auth": "bearer"}}, StaticToken(KEY)),
        ({**ACS, "extra": {"auth": "acs", "tenant_id": "tenant"}}, SignIn("acs", "account", KEY)),
        (
            {**ACS, "extra": {"auth": "entra", "token_url": "https://sts.test/oauth2/token"}},
            SignIn("entra", "account", KEY, token_url="https://sts.test/oauth2/token"),
        ),
        (
            {**ACS, "extra": {"tenant_id": "t", "cloud": "usgov", "authority": "https://login.test"}},
            SignIn("entra", "account", KEY, tenant_id="t", cloud="usgov", authority="https://login.test"),
        ),
    ],
)
def test_where_the_token_comes_from(connection: Define, fields: dict[str, Any], credential: Any) -> None:
    """Left out, auth follows from the fields that are there; given, it is what it says."""
    assert settings_of(connection(**fields)).credential == credential


def test_fields_that_the_form_left_empty_mean_nothing(connection: Define) -> None:
    """Airflow's forms save every field: empty texts and nulls are as if they were not there."""
    names = ("auth", "tenant_id", "managed_identity", "cloud", "authority", "token_url", "api_version")
    empty: dict[str, Any] = dict.fromkeys(names, "")
    empty |= {"timeout": "", "verify": "", "redirect_hosts": "", "allow_http": False}
    plain = settings_of(connection("plain", host="media.windows.net", **ACS))
    assert settings_of(connection(host="media.windows.net", schema="", extra=empty, **ACS)) == plain
    nulls = dict.fromkeys(empty)
    assert settings_of(connection("nulls", host="media.windows.net", extra=nulls, **ACS)) == plain


def test_the_defaults(connection: Define) -> None:
    """2.19, thirty seconds, the usual certificates, no further hosts."""
    settings = settings_of(connection(**ACS))
    assert (settings.api_version, settings.timeout, settings.verify, settings.redirect_hosts) == (
        "2.19",
        30.0,
        True,
        (),
    )


def test_every_extra_field_arrives(connection: Define, tmp_path: Path) -> None:
    """Values from a form are texts, from JSON numbers and lists: both are taken."""
    bundle = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    for hosts in ("a.test, *.b.test,", ["a.test", "*.b.test"]):
        extra = {"timeout": "7.5", "verify": str(bundle), "redirect_hosts": hosts, "api_version": "2.11"}
        settings = settings_of(connection(extra=extra, **ACS))
        assert settings.timeout == 7.5
        assert settings.verify == str(bundle)
        assert settings.redirect_hosts == ("a.test", "*.b.test")
        assert settings.api_version == "2.11"
        assert isinstance(settings.credential, SignIn)
        assert (settings.credential.timeout, settings.credential.verify) == (7.5, str(bundle))


@pytest.mark.parametrize("value", [True, "true", "True"])
def test_plain_http_can_be_allowed(connection: Define, value: Any) -> None:
    """`allow_http` lets API and sign-in go over plain http to another machine."""
    extra = {"allow_http": value, "token_url": "http://ams.internal/token"}
    assert settings_of(connection(host="http://ams.internal/api/", extra=extra, **ACS)).base_url == (
        "http://ams.internal/api/"
    )


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "bearer.*acs.*entra"),
    ({"login": "account"}, "bearer.*acs.*entra"),
    ({**ACS, "extra": {"auth": "magic"}}, r"extra\.auth 'magic'.*bearer, acs, entra"),
    ({**ACS, "extra": {"auth": 5}}, r"extra\.auth"),
    ({"login": "a", "extra": {"auth": "bearer"}}, "password"),
    ({"password": "   ", "extra": {"auth": "bearer"}}, "password"),
    ({"password": KEY, "extra": {"auth": "acs"}}, "login"),
    ({"login": "a", "extra": {"auth": "acs"}}, "password"),
    ({**ACS, "extra": {"auth": "entra"}}, r"extra\.tenant_id"),
    ({"login": "a", "extra": {"tenant_id": "t"}}, "password"),
    ({"password": KEY, "extra": {"tenant_id": "t"}}, "login"),
    ({**ACS, "extra": {"managed_identity": "true"}}, r"extra\.managed_identity"),
    ({**ACS, "extra": {"tenant_id": "t", "cloud": "mars"}}, r"extra\.cloud 'mars'.*public, usgov, china"),
    ({**ACS, "extra": {"tenant_id": "t", "authority": "http://login.test"}}, r"extra\.authority"),
    ({**ACS, "schema": "https"}, "schema"),
    ({**ACS, "port": 443}, "port"),
    ({**ACS, "host": "https://a.test/api/", "port": 443}, "port"),
    ({**ACS, "host": "http://ams.example.org/api/"}, r"host.*extra\.allow_http"),
    ({**ACS, "host": "http://127.0.0.1.evil.test/api/"}, r"host.*extra\.allow_http"),
    ({**ACS, "host": "http://h.test/", "extra": {"allow_http": "maybe"}}, r"extra\.allow_http"),
    ({**ACS, "host": "ftp://a.test/api/"}, "host"),
    ({**ACS, "host": "https://"}, "host"),
    ({**ACS, "host": "https://a.test:port/"}, "host"),
    ({**ACS, "host": "https://[::1/api/"}, "host"),
    ({**ACS, "host": "a.test/api"}, "host"),
    ({**ACS, "host": f"user:{KEY}@a.test"}, "host"),
    ({**ACS, "host": f"https://user:{KEY.replace('/', '')}@a.test/"}, "host"),
    ({**ACS, "host": f"https://:{KEY.replace('/', '')}@a.test/"}, "host"),
    ({**ACS, "host": "https://a.test/api/?x=1"}, "host"),
    ({**ACS, "host": "https://a.test/api/#x"}, "host"),
    ({**ACS, "extra": {"token_url": "http://sts.test/token"}}, r"extra\.token_url"),
    ({**ACS, "extra": {"token_url": "sts.test"}}, r"extra\.token_url"),
    ({**ACS, "extra": {"timeout": "soon"}}, r"extra\.timeout"),
    ({**ACS, "extra": {"timeout": 0}}, r"extra\.timeout"),
    ({**ACS, "extra": {"timeout": True}}, r"extra\.timeout"),
    ({**ACS, "extra": {"timeout": "nan"}}, r"extra\.timeout"),
    ({**ACS, "extra": {"timeout": [1]}}, r"extra\.timeout"),
    ({**ACS, "extra": {"verify": False}}, r"extra\.verify"),
    ({**ACS, "extra": {"verify": "false"}}, r"extra\.verify"),
    ({**ACS, "extra": {"verify": "/no/such/bundle.pem"}}, r"extra\.verify"),
    ({**ACS, "extra": {"redirect_hosts": 5}}, r"extra\.redirect_hosts"),
    ({**ACS, "extra": {"redirect_hosts": [5]}}, r"extra\.redirect_hosts"),
    ({**ACS, "extra": {"api_version": "2.19\r\nX-Evil: 1"}}, r"extra\.api_version"),
]


@pytest.mark.parametrize(("fields", "named"), BAD)
def test_a_bad_connection_fails_at_once_by_the_fields_name(
    connection: Define, fields: dict[str, Any], named: str
) -> None:
    """The hook refuses it before anything is sent, names connection and field, shows no secret."""
    with pytest.raises(RefusedError, match=named) as caught:
        AmsHook(connection(**fields)).get_conn()
    assert "Connection 'ams_test'" in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert KEY.replace("/", "") not in shown


@pytest.mark.parametrize(
    ("extra", "named"),
    [(f"not json {KEY}", "extra is not JSON"), (f'["{KEY}"]', "extra is JSON, but no object")],
)
def test_extra_that_is_no_json_object_is_refused_unseen(extra: str, named: str) -> None:
    """The text may hold secrets. (It is set by hand: Airflow 3.1 drops such a connection otherwise.)"""
    fields: dict[str, Any] = {**ACS, "host": "media.windows.net"}
    made = Connection(conn_id="x", conn_type="ams", **fields)
    made.extra = extra
    with pytest.raises(RefusedError, match=named) as caught:
        read_settings(made)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_ca_bundle_that_is_none_is_refused(connection: Define, tmp_path: Path) -> None:
    """A file that holds no certificates would break every request, so it is named at once."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("no certificate in here")
    with pytest.raises(RefusedError, match=r"extra\.verify"):
        AmsHook(connection(extra={"verify": str(bundle)}, **ACS)).get_conn()


def test_a_directory_of_certificates_is_a_bundle(connection: Define, tmp_path: Path) -> None:
    """OpenSSL reads hashed directories too."""
    assert settings_of(connection(extra={"verify": str(tmp_path)}, **ACS)).verify == str(tmp_path)


def test_unknown_extra_fields_are_mentioned(connection: Define, caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt field is warned of by name, and its value is not shown."""
    with caplog.at_level(logging.WARNING):
        settings_of(connection(extra={"time_out": KEY}, **ACS))
    assert "time_out" in caplog.text
    assert KEY not in caplog.text


def test_no_repr_of_settings_shows_a_secret(connection: Define) -> None:
    """A debugger, or an assertion, prints neither key nor token."""
    for fields in (ACS, {"password": KEY}):
        assert KEY not in repr(settings_of(connection(**fields)))


def test_reading_a_connection_sends_nothing(connection: Define) -> None:
    """`get_conn()` opens nothing and signs in nowhere; it gives the same service until `close()`."""
    hook = AmsHook(connection(host="https://unreachable.test/api/", **ACS))
    service = hook.get_conn()
    assert hook.get_conn() is service
    hook.close()
    assert hook.get_conn() is not service


def test_the_default_connection_is_ams_default() -> None:
    """A hook without arguments speaks of `ams_default`, and its type is `ams`."""
    assert AmsHook().ams_conn_id == AmsHook.default_conn_name == "ams_default"
    assert AmsHook.conn_type == "ams"


def test_test_connection_tells_a_bad_one(connection: Define) -> None:
    """A connection that cannot be read is a plain answer, not a traceback."""
    good, sentence = AmsHook(connection(schema="x", **ACS)).test_connection()
    assert not good
    assert "schema" in sentence
    good, sentence = AmsHook("no_such_connection").test_connection()
    assert not good
    assert "no_such_connection" in sentence
