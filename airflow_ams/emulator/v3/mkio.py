"""MK.IO over HTTP, at its current and its older URLs: who may, and how an answer is dressed."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_ams.emulator.errors import (
    Conflict,
    EmulatorError,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotOffered,
)
from airflow_ams.emulator.exchange import exchange_of
from airflow_ams.emulator.refusals import refusal
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.tokens import Bearer
from airflow_ams.emulator.v3.call import Answer, Call, shape_of
from airflow_ams.emulator.v3.mkio_calls import MkioCalls

_STATUSES: dict[type[EmulatorError], int] = {
    Conflict: 409,
    InvalidRequest: 400,
    NotAuthenticated: 401,
    NotAllowed: 403,
    NotFound: 404,
    NotOffered: 501,
}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
# What the verbs need; the cancel of a job is a POST, and needs what creating one needs.
_RIGHTS = {"GET": "get", "PUT": "create", "POST": "create", "PATCH": "update", "DELETE": "delete"}


def create_mkio_app(service: Service) -> Starlette:
    """Return MK.IO at its current URLs, to be mounted at ``/api/v1/projects``."""
    calls = MkioCalls(service, lambda call, token: call.root + call.page_path(token))

    def authorization(request: Request) -> str | None:
        return request.headers.get("authorization")

    async def refuse(request: Request, error: Exception) -> Response:
        return refusal(exchange_of(request.scope).path, _status(error), str(error))

    endpoint = _endpoint(service, calls, authorization)
    return Starlette(
        routes=[Route("/{project}/media/{rest:path}", endpoint, methods=_METHODS)],
        exception_handlers={EmulatorError: refuse},
    )


def create_legacy_app(service: Service) -> Starlette:
    """Return MK.IO at its older URLs, to be mounted at ``/api/ams``."""
    calls = MkioCalls(service, lambda call, token: call.page_path(token, safe="/"))

    def authorization(request: Request) -> str | None:
        token = request.headers.get("x-mkio-token")
        return f"Bearer {token}" if token else request.headers.get("authorization")

    async def refuse(request: Request, error: Exception) -> Response:
        # The error was a plain text at times.
        status = _status(error)
        return JSONResponse({"error": str(error), "status": status, "ref": str(uuid.uuid4())}, status)

    endpoint = _endpoint(service, calls, authorization)
    return Starlette(
        routes=[Route("/{project}/{rest:path}", endpoint, methods=_METHODS)],
        exception_handlers={EmulatorError: refuse},
    )


def _endpoint(
    service: Service, calls: MkioCalls, authorization: Callable[[Request], str | None]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        bearer = service.tokens.bearer_of(authorization(request))
        if bearer.kind != "personal":
            raise NotAuthenticated("The token is not a personal token of MK.IO.")
        exchange_of(request.scope).account = bearer.account
        shape, names = shape_of([part for part in request.path_params["rest"].split("/") if part])
        if request.path_params["project"] != bearer.account:
            raise NotFound(f"The project '{request.path_params['project']}' was not found.")
        handler = calls.handlers.get((request.method, shape))
        if handler is None:
            raise NotOffered(f"{request.method} of {shape}")
        _check_right(bearer, request.method, shape)
        options, body = dict(request.query_params), await request.body()
        root = f"{request.url.scheme}://{request.url.netloc}"
        return _dressed(handler(Call(bearer.account, names, options, body, root, request.scope["path"])))

    return endpoint


def _check_right(bearer: Bearer, method: str, shape: str) -> None:
    """Raise unless a restricted token may do this; only the rights on jobs are documented."""
    kind = "job" if "jobs" in shape.split("/") else shape.partition("/")[0].removesuffix("s")
    right = f"ams.{kind}.{_RIGHTS[method]}"
    if bearer.capabilities is not None and right not in bearer.capabilities:
        raise NotAllowed(f"The token does not have the capability '{right}'.")


def _status(error: Exception) -> int:
    return next(status for kind, status in _STATUSES.items() if isinstance(error, kind))


def _dressed(answer: Answer) -> Response:
    if answer.body is None:
        return Response(status_code=answer.status)
    return JSONResponse(answer.body, answer.status)
