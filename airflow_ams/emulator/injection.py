"""Doing what the fault rules say, down to the TCP connection where it has to be."""

from __future__ import annotations

import asyncio
from http.client import responses
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_ams.emulator.exchange import ADMIN_PREFIX, exchange_of
from airflow_ams.emulator.faults import Fault, Faults
from airflow_ams.emulator.refusals import refusal, surface_of

_TRANSPORT = "airflow_ams.transport"
_PAGE = (
    b"<html><head><title>Service Unavailable</title></head>"
    b"<body><h2>Our services are not available right now.</h2></body></html>"
)
_DRIPS = 20


class OpenProtocol(H11Protocol):
    """uvicorn's protocol, which shows its connection to the application.

    Neither cutting a connection nor a reason phrase of one's own can be said in ASGI.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the transport into the scope of each request."""
        super().connection_made(transport)
        inner: Any = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await inner({**scope, _TRANSPORT: transport}, receive, send)

        self.app = app


class Injected:
    """ASGI middleware: requests that a rule chooses go wrong.

    :param app: what answers the others.
    :param faults: the rules.
    """

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"].startswith(ADMIN_PREFIX):
            await self._app(scope, receive, send)
            return
        exchange = exchange_of(scope)
        fault = self._faults.fault_for(exchange.method, exchange.path, exchange.query)
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.kind == "drop":
            scope[_TRANSPORT].abort()
            await _until_closed(receive)
        elif fault.kind in ("slow", "truncate"):
            await self._disturb(fault, scope, receive, send)
        else:
            await _drain(receive)
            await _answer(fault, scope, receive, send)

    async def _disturb(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request be answered, but send the answer badly."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in messages[1:])
        await send(messages[0])
        if fault.kind == "truncate":
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            # Not abort: what was sent so far is to arrive.
            scope[_TRANSPORT].close()
            await _until_closed(receive)
            return
        size = max(1, -(-len(body) // _DRIPS))
        for start in range(0, len(body), size):
            await asyncio.sleep(fault.value / _DRIPS)
            await send({"type": "http.response.body", "body": body[start : start + size], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    """Read the request to its end: closing on unread data resets the connection."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass


async def _until_closed(receive: Receive) -> None:
    """Wait until the server knows that the connection is gone; before, it would try to answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
    exchange = exchange_of(scope)
    if fault.kind == "status":
        response = _status(fault, exchange.path)
        if fault.reason is not None:
            exchange.status = fault.value
            _send_raw(scope[_TRANSPORT], fault.reason, response)
            await _until_closed(receive)
            return
    elif fault.kind in ("redirect", "redirect_loop"):
        root = f"{scope['scheme']}://{exchange.host}/"
        root += "api/" if surface_of(exchange.path) == "v2" else ""
        location = fault.value if fault.kind == "redirect" else root
        response = Response(_PAGE, 301, {"Location": location}, "text/html")
    elif fault.kind == "html":
        response = Response(_PAGE, media_type="text/html")
    else:
        frame = b'{"odata.metadata":"%s"}'
        filling = b"x" * max(0, fault.value - len(frame) + 2)
        response = Response(frame % filling, media_type="application/json")
    await response(scope, receive, send)


def _status(fault: Fault, path: str) -> Response:
    if fault.body == "empty":
        return Response(status_code=fault.value, headers=fault.headers)
    if fault.body == "html":
        return Response(_PAGE, fault.value, fault.headers, "text/html")
    if fault.body == "bare":
        document = {"status": fault.value, "error": fault.reason or responses.get(fault.value, "Error")}
        return JSONResponse(document, fault.value, fault.headers)
    text = fault.reason or f"The request was refused with status {fault.value} by a fault rule."
    return refusal(path, fault.value, text, fault.headers)


def _send_raw(transport: asyncio.Transport, reason: str, response: Response) -> None:
    lines = [f"HTTP/1.1 {response.status_code} {reason}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    transport.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + bytes(response.body))
    transport.close()
