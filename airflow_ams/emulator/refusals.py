"""Answers that refuse a request before any dialect has seen it, each in the words of the service asked."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

_ARM = re.compile(r"subscriptions/|auth/token$", re.IGNORECASE)
_MKIO = re.compile(r"(v1/projects|ams)/", re.IGNORECASE)


def surface_of(path: str) -> str:
    """Return whose a path of the request log is: ``arm`` (RMS, too), ``mkio``, or ``v2`` for all the rest."""
    if _ARM.match(path):
        return "arm"
    return "mkio" if _MKIO.match(path) else "v2"


def refusal(path: str, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer with an error as the service at *path* writes it.

    :param path: as the request log has it.
    :param status: of the answer.
    :param text: what is wrong.
    :param headers: further headers.
    """
    body = json.dumps(_body(surface_of(path), status, text))
    return Response(body, status, dict(headers or {}), "application/json")


def _body(surface: str, status: int, text: str) -> dict[str, Any]:
    if surface == "arm":
        return {"error": {"code": _code(status), "message": text}}
    if surface == "mkio":
        error = {"code": _code(status), "detail": text, "extraDetail": {}}
        return {"error": error, "status": status, "ref": str(uuid.uuid4())}
    return {"odata.error": {"code": "", "message": {"lang": "en-US", "value": text}}}


def _code(status: int) -> str:
    """Return for instance ``TooManyRequests``."""
    known = status in HTTPStatus.__members__.values()
    return re.sub("[^A-Za-z]", "", HTTPStatus(status).phrase) if known else f"Status{status}"
