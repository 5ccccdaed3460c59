"""The v2 service over HTTP: which request goes where, and how its answer is dressed."""

from __future__ import annotations

import re
import uuid

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_ams.emulator.errors import (
    EmulatorError,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotOffered,
)
from airflow_ams.emulator.exchange import exchange_of
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.v2.call import Answer, Call
from airflow_ams.emulator.v2.handlers import Handlers
from airflow_ams.emulator.v2.paths import read_path
from airflow_ams.emulator.v2.wire import Writer

# One table from domain errors to statuses; a status that no public source gives is 400.
STATUSES: dict[type[EmulatorError], int] = {
    InvalidRequest: 400,
    NotAuthenticated: 401,
    NotAllowed: 403,
    NotFound: 404,
    NotOffered: 501,
}
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "MERGE", "DELETE"]
# Entities, and the service document (atomsvc).
_ATOM = "application/atom"
_WRITTEN = {"application/json", "application/*", "*/*"}
_VERSION = re.compile(r"2\.(?:\d|1\d)")


def create_v2_app(service: Service) -> Starlette:
    """Return the v2 service as an application to be mounted at ``/api``."""
    handlers = Handlers(service)

    async def endpoint(request: Request) -> Response:
        exchange = exchange_of(request.scope)
        check_version(request)
        exchange.account = service.tokens.account_of(request.headers.get("authorization"))
        check_form(request)
        call = Call(
            account=exchange.account,
            method=_method(request),
            path=read_path(request.path_params["path"]),
            options=dict(request.query_params),
            body=await request.body(),
            content_verbose="odata=verbose" in request.headers.get("content-type", "").lower(),
            writer=writer_for(request),
            storage=f"{request.url.scheme}://{request.url.netloc}/blob/",
        )
        return _response(request, handlers.answer(call), call.writer)

    async def refuse(request: Request, error: Exception) -> Response:
        status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
        writer = writer_for(request)
        return _response(request, Answer(status, writer.error(str(error))), writer)

    return Starlette(
        routes=[Route("/{path:path}", endpoint, methods=_METHODS)],
        exception_handlers={EmulatorError: refuse},
    )


def check_version(request: Request) -> None:
    """Raise unless the request names a version that the service had: 2.0 to 2.19."""
    version = request.headers.get("x-ms-version") or request.query_params.get("api-version")
    if version is None:
        raise InvalidRequest("The x-ms-version header is missing.")
    if not _VERSION.fullmatch(version):
        raise InvalidRequest(f"The version '{version}' is not supported; use 2.0 to 2.19.")


def check_form(request: Request) -> None:
    """Raise if a request is written in Atom, or accepts Atom and nothing that the emulator writes."""
    accepted = [
        part.partition(";")[0].strip() for part in request.headers.get("accept", "").lower().split(",")
    ]
    atom = any(form.startswith(_ATOM) for form in accepted) and not _WRITTEN.intersection(accepted)
    if atom or request.headers.get("content-type", "").lower().startswith(_ATOM):
        raise NotOffered("Atom (application/atom+xml)")


def writer_for(request: Request) -> Writer:
    """Return the writer of the form that a request accepts."""
    accept = request.headers.get("accept", "").lower()
    base = f"{request.url.scheme}://{request.url.netloc}/api/"
    return Writer(base, verbose="odata=verbose" in accept)


def _method(request: Request) -> str:
    tunnelled = request.headers.get("x-http-method")
    return tunnelled.upper() if tunnelled and request.method == "POST" else request.method


def _response(request: Request, answer: Answer, writer: Writer) -> Response:
    request_id = str(uuid.uuid4())
    headers = {
        "Cache-Control": "no-cache",
        "Server": "Microsoft-IIS/8.5",
        "x-ms-client-request-id": exchange_of(request.scope).client_request_id or str(uuid.uuid4()),
        "request-id": request_id,
        "x-ms-request-id": request_id,
        "X-Content-Type-Options": "nosniff",
        "DataServiceVersion": answer.version,
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        **answer.headers,
    }
    if answer.body is None:
        return Response(status_code=answer.status, headers=headers)
    if isinstance(answer.body, str):
        return Response(answer.body, answer.status, headers, "text/plain;charset=utf-8")
    return JSONResponse(answer.body, answer.status, headers, writer.content_type)
