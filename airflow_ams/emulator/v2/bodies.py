"""What v2 clients send: JSON, verbose and light, and JSON that only the real service would take."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote

from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.odata import BOOLEAN, DATETIME, DOUBLE, INT32, INT64, STRING

_PARSING = "Parsing request content failed due to"
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', re.DOTALL)
_ASSET_URI = re.compile(r"Assets\('(?P<id>[^']+)'\)$", re.IGNORECASE)
_INT32 = range(-(2**31), 2**31)


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in *body*.

    Like the service's own reader it takes strings in single quotes and with tabs or line ends in them.

    :raises InvalidRequest: it is no JSON object.
    """
    try:
        text = body.decode("utf-8-sig")
        try:
            document = json.loads(text, strict=False)
        except ValueError:
            document = json.loads(_STRINGS.sub(_double_quoted, text), strict=False)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{_PARSING}: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"{_PARSING}: a JSON object was expected.")
    return document


def _double_quoted(match: re.Match[str]) -> str:
    text = match[0]
    if text.startswith('"'):
        return text
    inner = re.sub(r"\\(.)|\"", lambda part: {"'": "'", None: '\\"'}.get(part[1], part[0]), text[1:-1])
    return f'"{inner}"'


def read_properties(document: Mapping[str, Any], allowed: Mapping[str, str]) -> dict[str, Any]:
    """Return the properties in *document* as Python values; times become seconds since the epoch.

    :param document: an entity as the client wrote it; ``__metadata`` and annotations are passed over.
    :param allowed: the names that may be there, with their types.
    :raises InvalidRequest: a property is unknown or not of its type.
    """
    values = {}
    for name, value in document.items():
        if name == "__metadata" or "@" in name or name.startswith("odata."):
            continue
        if name not in allowed:
            raise InvalidRequest(
                f"{_PARSING}: The property '{name}' does not exist on the type. "
                "Make sure to only use property names that are defined by the type."
            )
        values[name] = None if value is None else _read(name, value, allowed[name])
    return values


def _read(name: str, value: Any, edm: str) -> Any:
    try:
        if edm == STRING and isinstance(value, str):
            return value
        if edm in (INT32, INT64) and isinstance(value, (int, str)) and not isinstance(value, bool):
            number = int(value)
            if edm == INT64 or number in _INT32:
                return number
        if edm == DOUBLE and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
        if edm == BOOLEAN and str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        if edm == DATETIME and isinstance(value, str):
            return _read_time(value)
        if edm.startswith("Collection") or not edm.startswith("Edm."):
            return value
    except ValueError:
        pass
    raise InvalidRequest(f"{_PARSING}: Cannot convert the value of '{name}' to the expected type '{edm}'.")


def _read_time(text: str) -> float:
    """Return seconds since the epoch; without a zone it is UTC."""
    if match := re.fullmatch(r"/Date\((-?\d+)\)/", text):
        return int(match[1]) / 1000
    # Python 3.10 reads neither Z nor seven digits.
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?(Z|[+-]\d\d:\d\d)?", text)
    if match is None:
        raise ValueError(text)
    zone = match[3] if match[3] and match[3] != "Z" else "+00:00"
    moment = datetime.fromisoformat(match[1] + zone).astimezone(timezone.utc)
    return moment.timestamp() + float(f"0.{match[2] or 0}")


def read_collection(document: Mapping[str, Any], name: str) -> list[Any]:
    """Return the list under *name*: a bare array (light) or ``{"results": [...]}`` (verbose)."""
    value = document.get(name)
    if isinstance(value, dict):
        value = value.get("results")
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"{_PARSING}: '{name}' is not a collection.")
    return value


def read_asset_links(document: Mapping[str, Any], name: str, *, verbose: bool) -> list[str]:
    """Return the identifiers of the assets that a new entity is linked to.

    :param document: the entity; verbose JSON links by ``__metadata.uri``, light by ``@odata.bind``.
    :param name: the navigation property.
    :param verbose: whether the Content-Type said so; a bind is an error then.
    """
    bound = document.get(f"{name}@odata.bind")
    if bound is not None and verbose:
        raise InvalidRequest(f"{_PARSING}: '{name}@odata.bind' does not go with odata=verbose.")
    uris = list(bound) if isinstance(bound, list) else []
    for entry in read_collection(document, name):
        metadata = entry.get("__metadata") if isinstance(entry, dict) else None
        uris.append((metadata or {}).get("uri"))
    return [_asset_id(uri) for uri in uris]


def _asset_id(uri: Any) -> str:
    match = _ASSET_URI.search(unquote(uri)) if isinstance(uri, str) else None
    if match is None:
        raise InvalidRequest(f"{_PARSING}: {uri!r} is not the URI of an asset.")
    return match["id"]
