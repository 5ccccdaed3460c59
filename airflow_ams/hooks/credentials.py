"""What an Airflow connection of type ``ams`` says of where the token comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_ams.api.errors import RefusedError
from airflow_ams.hooks.fields import checked_url, needed
from airflow_ams.provider_info import CONN_FIELDS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_ams.api.tokens import SignIn, StaticToken

CLOUDS = CONN_FIELDS["cloud"]["schema"]["enum"]
AUTHS = {
    "v2": ("bearer", "acs", "entra"),
    "arm": ("entra", "bearer"),
    "rms": ("api_key", "bearer"),
    "mkio": ("bearer",),
}
"""How each API may be signed in to; unless it is v2, the first is meant if none is given."""

_AUTH_HELP = (
    "give password alone (bearer: it is the token), login and password (acs: account name and key), "
    "login, password and extra.tenant_id (entra: service principal), or extra.managed_identity (entra)"
)


def credential(
    connection: Connection,
    api: str,
    base_url: str,
    extra: Mapping[str, Any],
    *,
    verify: bool | str,
    timeout: float,
    allow_http: bool,
) -> SignIn | StaticToken:
    """Return the token of a connection, or how to get one.

    :param base_url: where the API is, of which RMS makes its tokens itself
    :raises RefusedError: a field is missing, or does not go with another
    """
    from airflow_ams.api.tokens import SignIn

    login, password = (connection.login or "").strip(), (connection.password or "").strip()
    auth = str(extra.get("auth") or (_infer_auth(login, password, extra) if api == "v2" else AUTHS[api][0]))
    token_url = str(extra.get("token_url") or "")
    if token_url:
        checked_url("extra.token_url", token_url, allow_http)
    known = CONN_FIELDS["auth"]["schema"]["enum"]
    if auth not in known:
        raise RefusedError(f"extra.auth {auth!r} is not known; it is one of {', '.join(known)}")
    if auth not in AUTHS[api]:
        raise RefusedError(
            f"extra.auth '{auth}' does not go with extra.api '{api}', which takes {' or '.join(AUTHS[api])}"
        )
    if auth == "bearer":
        return _bearer(password)
    if auth == "acs":
        return _acs(login, password, token_url, verify, timeout)
    if auth == "api_key":
        if not password:
            raise RefusedError("auth 'api_key' needs password: it is the API key")
        subscription = needed(extra, "subscription_id", api)
        url = token_url or f"{base_url}auth/token"
        return SignIn("api_key", subscription, password, token_url=url, verify=verify, timeout=timeout)
    return _entra(login, password, extra, token_url, api, verify, timeout)


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


def cloud_of(extra: Mapping[str, Any]) -> str:
    """Return the national cloud that is meant."""
    cloud = str(extra.get("cloud") or "public")
    if cloud not in CLOUDS:
        raise RefusedError(f"extra.cloud {cloud!r} is not known; it is one of {', '.join(CLOUDS)}")
    return cloud


def _entra(
    login: str,
    password: str,
    extra: Mapping[str, Any],
    token_url: str,
    api: str,
    verify: bool | str,
    timeout: float,
) -> SignIn:
    from airflow_ams.api import tokens
    from airflow_ams.api.tokens import SignIn

    cloud = cloud_of(extra)
    # Left out, it is the v2 service.
    resource = tokens.CLOUDS[cloud].management if api == "arm" else ""
    identity = _managed_identity(extra)
    if identity is not None:
        if login or password:
            raise RefusedError("extra.managed_identity needs no login and no password: leave them empty")
        return SignIn(
            "entra",
            identity,
            managed_identity=True,
            cloud=cloud,
            resource=resource,
            verify=verify,
            timeout=timeout,
        )
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
        resource=resource,
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
