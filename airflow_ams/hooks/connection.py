"""Reads an Airflow connection of type ``ams``; every mistake in it is an error that names the field."""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.redirects import is_loopback
from airflow_ams.provider_info import CONN_FIELDS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_ams.api import MediaService
    from airflow_ams.api.tokens import SignIn, StaticToken

log = logging.getLogger(__name__)

_CLOUDS = CONN_FIELDS["cloud"]["schema"]["enum"]
_AUTHS = CONN_FIELDS["auth"]["schema"]["enum"]
_AUTH_HELP = (
    "give password alone (bearer: it is the token), login and password (acs: account name and key), "
    "login, password and extra.tenant_id (entra: service principal), or extra.managed_identity (entra)"
)


@dataclass(frozen=True)
class Settings:
    """What a connection says, checked.

    :param base_url: the API's base, with its last slash
    :param credential: the token itself, or how to get one
    :param timeout: seconds that one answer may take
    """

    base_url: str
    credential: SignIn | StaticToken
    api_version: str
    timeout: float
    verify: bool | str
    redirect_hosts: tuple[str, ...]


def read_settings(connection: Connection) -> Settings:
    """Check an Airflow connection and return what it says.

    :raises RefusedError: a field is missing, unknown or does not go with another; the message names it
    """
    from airflow_ams.api.v2 import DEFAULT_API_VERSION
    from airflow_ams.api.wire import READ_TIMEOUT

    extra = _read_extra(connection.extra)
    allow_http = _flag(extra, "allow_http")
    timeout = _positive(extra, "timeout", READ_TIMEOUT)
    verify = _verify(extra)
    if connection.schema:
        # It is not shown: a key with a slash that was not encoded in a URI ends up here.
        raise RefusedError(
            "schema means nothing here: leave it empty; in the URI form, a / in the key must be "
            "percent-encoded (%2F)"
        )
    hosts = extra.get("redirect_hosts") or []
    return Settings(
        base_url=_base_url(connection.host, connection.port, allow_http),
        credential=_credential(connection, extra, verify, timeout, allow_http),
        api_version=_api_version(extra, DEFAULT_API_VERSION),
        timeout=timeout,
        verify=verify,
        redirect_hosts=tuple(_words(hosts)),
    )


def connect(settings: Settings) -> MediaService:
    """Open a conversation with the service that the settings name; nothing is sent yet."""
    from airflow_ams.api.tokens import StaticToken, shared_tokens
    from airflow_ams.api.transport import Transport
    from airflow_ams.api.v2 import V2Service, request_headers
    from airflow_ams.api.wire import Wire

    credential = settings.credential
    return V2Service(
        Transport(
            settings.base_url,
            credential if isinstance(credential, StaticToken) else shared_tokens(credential),
            Wire(verify=settings.verify, read_timeout=settings.timeout),
            headers=request_headers(settings.api_version),
            redirect_hosts=settings.redirect_hosts,
        )
    )


def open_service(connection: Connection, conn_id: str) -> MediaService:
    """Open a conversation with the service of an Airflow connection; nothing is sent yet.

    :raises RefusedError: as `read_settings` does; the message names the connection, too
    """
    try:
        return connect(read_settings(connection))
    except RefusedError as exc:
        raise RefusedError(f"Connection '{conn_id}': {exc.message}") from exc


def _read_extra(text: str | None) -> dict[str, Any]:
    try:
        extra = json.loads(text or "{}")
    except ValueError:
        # The text is not shown: it may hold secrets.
        raise RefusedError('extra is not JSON; give an object such as {"tenant_id": "…"}') from None
    if not isinstance(extra, dict):
        raise RefusedError('extra is JSON, but no object; give one such as {"tenant_id": "…"}')
    # The forms of Airflow keep a field that was left empty as an empty string.
    known = {key: value for key, value in extra.items() if key in CONN_FIELDS and value not in ("", None)}
    if unknown := sorted(set(extra) - set(CONN_FIELDS)):
        log.warning("extra fields %s are not known here; known are %s", unknown, sorted(CONN_FIELDS))
    return known


def _base_url(host: str | None, port: int | None, allow_http: bool) -> str:
    from airflow_ams.api.v2 import DEFAULT_BASE

    host = (host or "").strip()
    if not host:
        if port:
            raise RefusedError(f"port {port} is given without a host")
        return DEFAULT_BASE
    if "://" not in host:
        if "/" in host or "@" in host:
            shown = host.rpartition("@")[2]
            raise RefusedError(f"host {shown!r} is neither a bare host nor a full URL (https://HOST/api/)")
        return _checked_url(
            "host", f"https://{host}:{port}/api/" if port else f"https://{host}/api/", allow_http
        )
    if port:
        raise RefusedError(f"port {port} is given beside a full URL: write it into host")
    return _checked_url("host", host, allow_http).rstrip("/") + "/"


def _checked_url(field: str, url: str, allow_http: bool) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        usable = False
    if not usable:
        raise RefusedError(f"{field} is no http(s) URL: {url.rpartition('@')[2]!r}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise RefusedError(f"{field} holds more than an address: give scheme, host, port and path only")
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname):
        raise RefusedError(
            f"{field} is plain http, which would show the token to the network: use https, or set "
            "extra.allow_http to true"
        )
    return url


def _credential(
    connection: Connection,
    extra: Mapping[str, Any],
    verify: bool | str,
    timeout: float,
    allow_http: bool,
) -> SignIn | StaticToken:
    login, password = (connection.login or "").strip(), (connection.password or "").strip()
    auth = extra.get("auth") or _infer_auth(login, password, extra)
    token_url = str(extra.get("token_url") or "")
    if token_url:
        _checked_url("extra.token_url", token_url, allow_http)
    if auth == "bearer":
        return _bearer(password)
    if auth == "acs":
        return _acs(login, password, token_url, verify, timeout)
    if auth == "entra":
        return _entra(login, password, extra, token_url, verify, timeout)
    raise RefusedError(f"extra.auth {auth!r} is not known; it is one of {', '.join(_AUTHS)}")


def _infer_auth(login: str, password: str, extra: Mapping[str, Any]) -> str:
    if "tenant_id" in extra or _managed_identity(extra) is not None:
        return "entra"
    if login and password:
        return "acs"
    if password:
        return "bearer"
    raise RefusedError(f"The connection does not say where the token comes from: {_AUTH_HELP}")


def _bearer(password: str) -> StaticToken:
    from airflow_ams.api.tokens import StaticToken

    if not password:
        raise RefusedError("auth 'bearer' needs password: it is the token")
    return StaticToken(password.removeprefix("Bearer ").strip())


def _acs(login: str, password: str, token_url: str, verify: bool | str, timeout: float) -> SignIn:
    from airflow_ams.api.tokens import SignIn

    if not (login and password):
        raise RefusedError("auth 'acs' needs login (the account's name) and password (its key)")
    return SignIn("acs", login, password, token_url=token_url, verify=verify, timeout=timeout)


def _entra(
    login: str,
    password: str,
    extra: Mapping[str, Any],
    token_url: str,
    verify: bool | str,
    timeout: float,
) -> SignIn:
    from airflow_ams.api.tokens import SignIn

    cloud = str(extra.get("cloud") or "public")
    if cloud not in _CLOUDS:
        raise RefusedError(f"extra.cloud {cloud!r} is not known; it is one of {', '.join(_CLOUDS)}")
    identity = _managed_identity(extra)
    if identity is not None:
        if login or password:
            raise RefusedError("extra.managed_identity needs no login and no password: leave them empty")
        return SignIn("entra", identity, managed_identity=True, cloud=cloud, verify=verify, timeout=timeout)
    if not (login and password):
        raise RefusedError("auth 'entra' needs login (client id) and password (client secret)")
    if "tenant_id" not in extra and not token_url:
        raise RefusedError("auth 'entra' needs extra.tenant_id: the directory of the service principal")
    authority = str(extra.get("authority") or "")
    if authority and urlsplit(authority if "://" in authority else f"https://{authority}").scheme != "https":
        raise RefusedError("extra.authority must be https; for plain http give extra.token_url")
    return SignIn(
        "entra",
        login,
        password,
        tenant_id=str(extra.get("tenant_id") or ""),
        token_url=token_url,
        cloud=cloud,
        authority=authority,
        verify=verify,
        timeout=timeout,
    )


def _managed_identity(extra: Mapping[str, Any]) -> str | None:
    """Return the identity's client id, empty for the machine's own, or None for no managed identity."""
    value = extra.get("managed_identity")
    if value is None or str(value).lower() == "false":
        return None
    return "" if str(value).lower() == "true" else str(value)


def _flag(extra: Mapping[str, Any], key: str) -> bool:
    value = str(extra.get(key, "false")).lower()
    if value not in ("true", "false"):
        raise RefusedError(f"extra.{key} {extra[key]!r} is neither true nor false")
    return value == "true"


def _positive(extra: Mapping[str, Any], key: str, default: float) -> float:
    try:
        number = 0.0 if isinstance(extra.get(key), bool) else float(extra.get(key, default))
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise RefusedError(f"extra.{key} {extra[key]!r} is no number of seconds above 0")
    return number


def _verify(extra: Mapping[str, Any]) -> bool | str:
    value = extra.get("verify", True)
    if str(value).lower() == "true":
        return True
    if str(value).lower() == "false":
        raise RefusedError("extra.verify cannot be switched off: give the path of the CA bundle to trust")
    path = Path(str(value))
    if not path.exists():
        raise RefusedError(f"extra.verify names {value!r}, which is not there: give the CA bundle's path")
    if path.is_file():
        try:
            ssl.create_default_context(cafile=path)
        except OSError as exc:
            raise RefusedError(f"extra.verify names {value!r}, which holds no certificates: {exc}") from exc
    return str(value)


def _api_version(extra: Mapping[str, Any], default: str) -> str:
    value = str(extra.get("api_version") or default)
    if not re.fullmatch(r"\d+\.\d+", value):
        raise RefusedError(f"extra.api_version {value!r} is no version; one looks like {default}")
    return value


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise RefusedError("extra.redirect_hosts is neither a list nor a comma-separated text of hosts")
    return [word.strip() for word in value if word.strip()]
