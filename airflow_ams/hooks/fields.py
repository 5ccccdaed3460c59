"""Reads the fields of an Airflow connection of type ``ams`` one by one; a mistake names the field."""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.redirects import is_loopback
from airflow_ams.provider_info import CONN_FIELDS

log = logging.getLogger("airflow_ams.hooks.connection")

_NO_NAME = re.compile(r"\.{1,2}|.*[/\x00-\x1f\x7f].*", re.DOTALL)
"""What would change the path of a request."""


def read_extra(text: str | None) -> dict[str, Any]:
    """Return the fields of the extra that are known here and filled in."""
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


def checked_url(field: str, url: str, allow_http: bool) -> str:
    """Return a URL; raise RefusedError if a token had better not go there."""
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


def needed(extra: Mapping[str, Any], key: str, api: str) -> str:
    """Return a field that must be there, and is a name in the path of requests."""
    value = str(extra.get(key) or "").strip()
    if not value:
        raise RefusedError(f"extra.{key} is missing, which the API '{api}' needs")
    if _NO_NAME.fullmatch(value):
        raise RefusedError(f"extra.{key} {value[:200]!r} is no name: give the name alone, without any path")
    return value


def flag(extra: Mapping[str, Any], key: str) -> bool:
    """Return a field that is true or false; left out, it is false."""
    value = str(extra.get(key, "false")).lower()
    if value not in ("true", "false"):
        raise RefusedError(f"extra.{key} {extra[key]!r} is neither true nor false")
    return value == "true"


def positive(extra: Mapping[str, Any], key: str, default: float) -> float:
    """Return a number of seconds."""
    try:
        number = 0.0 if isinstance(extra.get(key), bool) else float(extra.get(key, default))
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise RefusedError(f"extra.{key} {extra[key]!r} is no number of seconds above 0")
    return number


def verify(extra: Mapping[str, Any]) -> bool | str:
    """Return the path of the CA bundle, or True."""
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


def words(value: Any) -> list[str]:
    """Return a list, which may be a text with commas."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise RefusedError("extra.redirect_hosts is neither a list nor a comma-separated text of hosts")
    return [word.strip() for word in value if word.strip()]
