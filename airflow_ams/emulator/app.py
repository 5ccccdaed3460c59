"""The emulator as one ASGI application: a mount for each dialect, around them what concerns every request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_ams.emulator.admin import create_admin_app
from airflow_ams.emulator.exchange import NormalPath, Recorded
from airflow_ams.emulator.injection import Injected
from airflow_ams.emulator.oauth import token_routes
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.storage import create_storage_app
from airflow_ams.emulator.throttling import Throttled
from airflow_ams.emulator.v2.app import create_v2_app
from airflow_ams.emulator.v3.arm import arm_routes
from airflow_ams.emulator.v3.mkio import create_legacy_app, create_mkio_app

_MOVED = (
    "<html><head><title>Object moved</title></head><body>"
    '<h2>Object moved to <a href="{0}">here</a>.</h2></body></html>'
)


class FrontHost:
    """ASGI middleware: the old global host, which knows only where the account's own endpoint is.

    It answers 301 to any verb and path, with the base of the endpoint and not the new URL of the call;
    token endpoints work.

    :param app: what answers everywhere else.
    :param port: the port it has; None if there is no front host.
    :param back_port: the port of the account's endpoint.
    """

    def __init__(self, app: ASGIApp, port: int | None, back_port: int) -> None:
        self._app = app
        self._port = port
        self._back_port = back_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        server = scope.get("server")
        front = scope["type"] == "http" and self._port is not None and server and server[1] == self._port
        if not front or "oauth2" in scope["path"].lower() or "/.well-known/" in scope["path"]:
            await self._app(scope, receive, send)
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        name = host.rpartition(":")[0] or host
        location = f"{scope['scheme']}://{name}:{self._back_port}/api/"
        headers = {"Location": location, "Server": "Microsoft-IIS/8.5"}
        await Response(_MOVED.format(location), 301, headers, "text/html")(scope, receive, send)


def create_app(service: Service, *, port: int, front_port: int | None) -> Starlette:
    """Return the emulator as an application.

    :param service: what it offers.
    :param port: the port it is served on.
    :param front_port: the port of the front host, None if there is none.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.runner.start()
        try:
            yield
        finally:
            await service.close()

    return Starlette(
        routes=[
            Mount("/api/v1/projects", create_mkio_app(service)),
            Mount("/api/ams", create_legacy_app(service)),
            Mount("/api", create_v2_app(service)),
            Mount("/blob", create_storage_app(service)),
            Mount("/_emulator", create_admin_app(service)),
            *token_routes(service),
            *arm_routes(service),
        ],
        middleware=[
            Middleware(NormalPath),
            Middleware(Recorded, log=service.log, clock=service.clock),
            Middleware(Injected, faults=service.faults),
            Middleware(Throttled, limits=service.limits, tokens=service.tokens),
            Middleware(FrontHost, port=front_port, back_port=port),
        ],
        lifespan=lifespan,
    )
