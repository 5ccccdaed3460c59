"""An Airflow connection of type ``ams`` becomes a media service; every mistake in it names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_ams.api.errors import RefusedError
from airflow_ams.hooks.credentials import cloud_of, credential
from airflow_ams.hooks.fields import checked_url, flag, needed, positive, read_extra, verify, words
from airflow_ams.hooks.job_urls import checked_template, job_url
from airflow_ams.provider_info import CONN_FIELDS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_ams.api import MediaService
    from airflow_ams.api.tokens import SignIn, StaticToken
    from airflow_ams.api.transport import Transport

_APIS = CONN_FIELDS["api"]["schema"]["enum"]
_FIELDS_OF = {
    "subscription_id": ("arm", "rms"),
    "resource_group": ("arm", "rms"),
    "account_name": ("arm", "rms"),
    "project": ("mkio",),
    "legacy": ("mkio",),
    "redirect_hosts": ("v2",),
    "api_version": ("v2", "arm", "rms"),
}
"""The fields that mean something to some APIs only."""

_PATHS = {
    "arm": re.compile(r"/subscriptions/", re.IGNORECASE),
    "rms": re.compile(r"/subscriptions/", re.IGNORECASE),
    "mkio": re.compile(r"/api/(v1/(projects/|$)|ams/)", re.IGNORECASE),
}
"""Where the paths of an API begin, below the base that a connection gives."""

_JSON = {"Accept": "application/json"}


@dataclass(frozen=True)
class Settings:
    """What a connection says, checked.

    :param api: which dialect to speak
    :param base_url: what requests are relative to, with its last slash
    :param credential: the token itself, or how to get one
    :param timeout: seconds that one answer may take
    :param account: subscription, resource group and name of the account (arm, rms)
    :param project: the project (mkio)
    :param is_legacy: speak to the older addresses (mkio)
    """

    api: str
    base_url: str
    credential: SignIn | StaticToken
    api_version: str
    timeout: float
    verify: bool | str
    redirect_hosts: tuple[str, ...] = ()
    account: tuple[str, str, str] = ("", "", "")
    project: str = ""
    is_legacy: bool = False
    job_url_template: str = ""

    def job_url(self, job_id: str) -> str | None:
        """Return the address of a job in a portal; None if the connection has no template for it."""
        names = ("subscription_id", "resource_group", "account_name")
        account = {**dict(zip(names, self.account, strict=True)), "project": self.project}
        return job_url(self.job_url_template, job_id, account)


def read_settings(connection: Connection) -> Settings:
    """Check an Airflow connection and return what it says.

    :raises RefusedError: a field is missing, unknown or does not go with another; the message names it
    """
    from airflow_ams.api.wire import READ_TIMEOUT

    extra = read_extra(connection.extra)
    api = str(extra.get("api") or "v2")
    _check_api(api, extra)
    allow_http = flag(extra, "allow_http")
    timeout = positive(extra, "timeout", READ_TIMEOUT)
    bundle = verify(extra)
    if connection.schema:
        # It is not shown: a key with a slash that was not encoded in a URI ends up here.
        raise RefusedError(
            "schema means nothing here: leave it empty; in the URI form, a / in the key must be "
            "percent-encoded (%2F)"
        )
    is_legacy = flag(extra, "legacy")
    base_url = _base_url(connection.host, connection.port, allow_http, api, extra)
    if api == "mkio":
        _check_generation(base_url, is_legacy)
    return Settings(
        api=api,
        base_url=base_url,
        credential=credential(
            connection, api, base_url, extra, verify=bundle, timeout=timeout, allow_http=allow_http
        ),
        api_version=_api_version(extra, api),
        timeout=timeout,
        verify=bundle,
        redirect_hosts=tuple(words(extra.get("redirect_hosts") or [])),
        account=_account(extra, api),
        project=needed(extra, "project", api) if api == "mkio" else "",
        is_legacy=is_legacy,
        job_url_template=checked_template(str(extra.get("job_url_template") or "")),
    )


def connect(settings: Settings) -> MediaService:
    """Open a conversation with the service that the settings name; nothing is sent yet."""
    if settings.api == "v2":
        return _connect_v2(settings)
    if settings.api == "mkio":
        return _connect_mkio(settings)
    return _connect_arm(settings)


def _connect_v2(settings: Settings) -> MediaService:
    from airflow_ams.api.v2 import ADVICE, V2Service, request_headers

    headers = request_headers(settings.api_version)
    return V2Service(
        _transport(settings, headers=headers, redirect_hosts=settings.redirect_hosts, advice=ADVICE)
    )


def _connect_arm(settings: Settings) -> MediaService:
    from airflow_ams.api.arm import ADVICE, Account, ArmService
    from airflow_ams.api.pace import shared_reads_left

    pace = shared_reads_left((settings.base_url, settings.account[0], settings.credential))
    advice = ADVICE[settings.api]
    transport = _transport(settings, headers=_JSON, redirect_hosts=None, advice=advice, pace=pace)
    account = Account(*settings.account)
    return ArmService(transport, account, api=settings.api, api_version=settings.api_version)


def _connect_mkio(settings: Settings) -> MediaService:
    from airflow_ams.api.mkio import (
        ADVICE,
        AFTER_REFUSAL,
        BURST,
        READS_A_MINUTE,
        LegacyMkioService,
        MkioService,
        read_legacy_error,
    )
    from airflow_ams.api.pace import shared_budget
    from airflow_ams.api.tokens import StaticToken

    pace = shared_budget((settings.base_url, settings.project), READS_A_MINUTE, BURST, AFTER_REFUSAL)
    headers, service, read_error = dict(_JSON), MkioService, None
    if settings.is_legacy:
        service, read_error = LegacyMkioService, read_legacy_error
        if isinstance(settings.credential, StaticToken):
            # The oldest generation of tokens is known by this header only.
            headers["x-mkio-token"] = settings.credential.value
    transport = _transport(
        settings, headers=headers, redirect_hosts=None, advice=ADVICE, read_error=read_error, pace=pace
    )
    return service(transport, settings.project)


def _transport(settings: Settings, **options: Any) -> Transport:
    from airflow_ams.api.tokens import StaticToken, shared_tokens
    from airflow_ams.api.transport import Transport
    from airflow_ams.api.wire import Wire

    credential = settings.credential
    return Transport(
        settings.base_url,
        credential if isinstance(credential, StaticToken) else shared_tokens(credential),
        Wire(verify=settings.verify, read_timeout=settings.timeout),
        **options,
    )


def settings_of(connection: Connection, conn_id: str) -> Settings:
    """Check an Airflow connection as `read_settings` does; an error's message names the connection, too."""
    try:
        return read_settings(connection)
    except RefusedError as exc:
        raise RefusedError(f"Connection '{conn_id}': {exc.message}") from exc


def open_service(connection: Connection, conn_id: str) -> MediaService:
    """Open a conversation with the service of an Airflow connection; nothing is sent yet.

    :raises RefusedError: as `settings_of` does
    """
    return connect(settings_of(connection, conn_id))


def _check_api(api: str, extra: Mapping[str, Any]) -> None:
    if api not in _APIS:
        raise RefusedError(f"extra.api {api!r} is not known; it is one of {', '.join(_APIS)}")
    for field, apis in _FIELDS_OF.items():
        # In the URI form a box that is not ticked is a text.
        if api not in apis and extra.get(field) not in (None, False, "false", []):
            raise RefusedError(f"extra.{field} is of the API {' or '.join(apis)}, but extra.api is '{api}'")


def _base_url(
    host: str | None, port: int | None, allow_http: bool, api: str, extra: Mapping[str, Any]
) -> str:
    host = (host or "").strip()
    if not host:
        if port:
            raise RefusedError(f"port {port} is given without a host")
        return _default_base(api, extra)
    path = "/api/" if api == "v2" else "/"
    if "://" not in host:
        host = host.removesuffix("/")
        if "/" in host or "@" in host:
            shown = host.rpartition("@")[2]
            raise RefusedError(f"host {shown!r} is neither a bare host nor a full URL (https://HOST{path})")
        return checked_url(
            "host", f"https://{host}:{port}{path}" if port else f"https://{host}{path}", allow_http
        )
    if port:
        raise RefusedError(f"port {port} is given beside a full URL: write it into host")
    base = checked_url("host", host, allow_http).rstrip("/") + "/"
    _check_root(base, api)
    return base


def _check_root(base: str, api: str) -> None:
    """Raise RefusedError if the API's own path, which each request brings along, is in the base already."""
    if api in _PATHS and (found := _PATHS[api].search(urlsplit(base).path)):
        root = base[: len(base) - len(urlsplit(base).path) + found.start()]
        raise RefusedError(f"host holds the path '{found[0]}', which each request brings along: give {root}/")


def _check_generation(base: str, is_legacy: bool) -> None:
    """Raise RefusedError if MK.IO's own address has no paths of the generation that is to be spoken."""
    from airflow_ams.api.mkio import DEFAULT_BASE

    if is_legacy and urlsplit(base).hostname == urlsplit(DEFAULT_BASE).hostname:
        raise RefusedError(
            f"host is {DEFAULT_BASE}, but extra.legacy is true: leave host empty, or set extra.legacy to "
            "false"
        )


def _default_base(api: str, extra: Mapping[str, Any]) -> str:
    if api == "rms":
        raise RefusedError("host is missing: give the address of your RMS deployment")
    if api == "arm":
        from airflow_ams.api.tokens import CLOUDS

        return f"{CLOUDS[cloud_of(extra)].management}/"
    if api == "mkio":
        from airflow_ams.api.mkio import DEFAULT_BASE, LEGACY_BASE

        return LEGACY_BASE if flag(extra, "legacy") else DEFAULT_BASE
    from airflow_ams.api import v2

    return v2.DEFAULT_BASE


def _account(extra: Mapping[str, Any], api: str) -> tuple[str, str, str]:
    if api not in ("arm", "rms"):
        return ("", "", "")
    return (
        needed(extra, "subscription_id", api),
        needed(extra, "resource_group", api),
        needed(extra, "account_name", api),
    )


def _api_version(extra: Mapping[str, Any], api: str) -> str:
    if api == "mkio":
        return ""
    if api == "v2":
        from airflow_ams.api.v2 import DEFAULT_API_VERSION as DEFAULT

        pattern = r"\d+\.\d+"
    else:
        from airflow_ams.api.arm import DEFAULT_API_VERSION as DEFAULT

        pattern = r"\d{4}-\d\d-\d\d"
    value = str(extra.get("api_version") or DEFAULT)
    if not re.fullmatch(pattern, value):
        raise RefusedError(f"extra.api_version {value!r} is no version; one looks like {DEFAULT}")
    return value
