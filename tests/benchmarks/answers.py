"""How the services to measure against write their answers."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

LIGHT = "application/json;odata=minimalmetadata;streaming=true;charset=utf-8"


class UnknownRequest(Exception):
    """The request is none that this service knows: 400."""


def answer(status: int, body: bytes, kind: str = LIGHT, more: str = "DataServiceVersion: 3.0;\r\n") -> bytes:
    """Write an HTTP answer.

    :param more: further header lines, each with its end
    """
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nCache-Control: no-cache\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: {kind}\r\n"
        f"X-Content-Type-Options: nosniff\r\n{more}\r\n"
    )
    return head.encode() + body


def in_json(status: int, document: Any) -> bytes:
    """Write an answer of JSON."""
    return answer(status, json.dumps(document).encode(), "application/json")
