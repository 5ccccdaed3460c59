"""One request and its answer, as the log and the fault rules see them."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote_plus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_ams.emulator.clock import Clock

ADMIN_PREFIX = "/_emulator"
_KEY = "airflow_ams.exchange"
_SECRETS = re.compile(
    r"\b(sig|client_secret|access_token|token|x-mkio-token|api_?key|key)=[^&]*", re.IGNORECASE
)
_KEPT = 20_000

logger = logging.getLogger("airflow_ams.emulator")


@dataclass
class Exchange:
    """What is known of a request; the account and the status come as it is worked on.

    :param path: decoded, relative to ``/api/`` for the API, to the root for the rest.
    :param query: decoded, signatures removed.
    :param time: seconds since the epoch by the emulator's clock.
    """

    method: str
    path: str
    query: str
    host: str
    time: float
    client_request_id: str | None
    account: str | None = None
    status: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as the request log shows it."""
        return asdict(self)


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange that belongs to an ASGI scope."""
    exchange: Exchange = scope[_KEY]
    return exchange


class RequestLog:
    """The latest exchanges, oldest first."""

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque(maxlen=_KEPT)

    def add(self, exchange: Exchange) -> None:
        """Append one."""
        self._exchanges.append(exchange)

    def as_json(self) -> list[dict[str, Any]]:
        """Return all."""
        return [exchange.as_json() for exchange in self._exchanges]

    def clear(self) -> None:
        """Forget all."""
        self._exchanges.clear()


class NormalPath:
    """ASGI middleware: ``/API`` is ``/api``, and doubled slashes in it become one, as old clients need it.

    Other paths stay as they are: RMS is not known to forgive ``//auth/token``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            path = scope["path"]
            if re.match("/+api(/|$)", path, re.IGNORECASE):
                path = re.sub("/{2,}", "/", path)
                path = "/api/" + path[len("/api/") :]
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


class Recorded:
    """ASGI middleware: each request is put into the log and logged as one line.

    :param app: what answers.
    :param log: where exchanges are kept, requests to the admin endpoints aside.
    :param clock: gives their time.
    """

    def __init__(self, app: ASGIApp, log: RequestLog, clock: Clock) -> None:
        self._app = app
        self._log = log
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        exchange = Exchange(
            method=scope["method"],
            path=path.removeprefix("/api/").removeprefix("/"),
            query=_SECRETS.sub(r"\1=…", unquote_plus(scope["query_string"].decode("latin-1"))),
            host=headers.get("host", ""),
            time=self._clock.now(),
            client_request_id=headers.get("x-ms-client-request-id") or headers.get("client-request-id"),
        )
        scope[_KEY] = exchange
        if not path.startswith(ADMIN_PREFIX):
            self._log.add(exchange)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, watched)
        finally:
            elapsed = (time.perf_counter() - began) * 1000
            logger.info("%s %s %s %.0f ms", exchange.method, path, exchange.status or "-", elapsed)
