"""Keeping callers to the limits: 429, as Azure Resource Manager and MK.IO say it."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_ams.emulator.errors import NotAuthenticated
from airflow_ams.emulator.exchange import exchange_of
from airflow_ams.emulator.limits import Limits
from airflow_ams.emulator.refusals import refusal, surface_of
from airflow_ams.emulator.tokens import Bearer, Tokens

REMAINING = "x-ms-ratelimit-remaining-subscription-reads"


class Throttled:
    """ASGI middleware: GETs beyond the limits are 429.

    Only requests with a good token count. On the ARM paths that is an Entra token, since RMS has hosts of
    its own, whose limits nobody knows.

    :param app: what answers the others.
    :param limits: how many there may be.
    :param tokens: tells who asks.
    """

    def __init__(self, app: ASGIApp, limits: Limits, tokens: Tokens) -> None:
        self._app = app
        self._limits = limits
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        bearer, surface = self._bearer(scope), surface_of(exchange_of(scope).path)
        kind = None if bearer is None else bearer.kind
        if bearer is not None and (surface, kind) == ("arm", "entra"):
            await self._arm(bearer.account, scope, receive, send)
        elif bearer is not None and (surface, kind) == ("mkio", "personal"):
            await self._mkio(bearer.account, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _bearer(self, scope: Scope) -> Bearer | None:
        headers = Headers(scope=scope)
        token = headers.get("x-mkio-token")
        try:
            return self._tokens.bearer_of(f"Bearer {token}" if token else headers.get("authorization"))
        except NotAuthenticated:
            return None

    async def _arm(self, account: str, scope: Scope, receive: Receive, send: Send) -> None:
        left, seconds = self._limits.take_arm_read(account)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REMAINING] = str(left)
            await send(message)

        if not seconds:
            await self._app(scope, receive, counted)
            return
        text = f"Number of read requests exceeded the limit. Please try again after {seconds} seconds."
        answer = refusal(exchange_of(scope).path, 429, text, {"Retry-After": str(seconds)})
        await answer(scope, receive, counted)

    async def _mkio(self, project: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._limits.take_mkio_get(project):
            await self._app(scope, receive, send)
            return
        answer = refusal(exchange_of(scope).path, 429, "Too many requests for this project.")
        await answer(scope, receive, send)
