"""The ARM surface over HTTP: which request goes where, who may, and how its answer is dressed."""

from __future__ import annotations

import json
import re
import uuid
from urllib.parse import urlsplit

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
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.settings import RESOURCE_GROUP, SUBSCRIPTION
from airflow_ams.emulator.v3.arm_calls import ArmCalls
from airflow_ams.emulator.v3.call import Answer, Call, shape_of

VERSIONS = ("2018-07-01", "2020-05-01", "2021-06-01", "2021-11-01", "2022-07-01")
# Assets had one version more than transforms and jobs.
_ASSET_VERSIONS = (*VERSIONS, "2022-08-01")
# The management endpoints of the clouds, under their names as audiences.
_MANAGEMENT = {
    "management.azure.com",
    "management.core.windows.net",
    "management.usgovcloudapi.net",
    "management.core.usgovcloudapi.net",
    "management.chinacloudapi.cn",
    "management.core.chinacloudapi.cn",
}
_PATH = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.Media/mediaServices/(?P<account>[^/]+)(?:/(?P<rest>.*))?",
    re.IGNORECASE,
)
_REFUSALS: dict[type[EmulatorError], tuple[int, str]] = {
    Conflict: (409, "Conflict"),
    InvalidRequest: (400, "BadRequest"),
    NotAuthenticated: (401, "InvalidAuthenticationToken"),
    NotAllowed: (403, "AuthorizationFailed"),
    NotFound: (404, "NotFound"),
    NotOffered: (501, "NotImplemented"),
}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Refused(EmulatorError):
    """Raised when ARM itself refuses, with a code of its own.

    :param status: of the answer.
    :param code: of its error.
    :param message: for the person who reads it.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def arm_routes(service: Service) -> list[Route]:
    """Return the route of the ARM surface; its paths compare without case, so it takes what is left over."""
    calls = ArmCalls(service)

    async def endpoint(request: Request) -> Response:
        if request.path_params["root"].lower() != "subscriptions":
            return Response("Not Found", 404, media_type="text/plain")
        try:
            return _dressed(request, _answer(service, calls, request, await request.body()))
        except EmulatorError as error:
            return _refusal(request, error)

    return [Route("/{root}/{rest:path}", endpoint, methods=_METHODS)]


def _answer(service: Service, calls: ArmCalls, request: Request, body: bytes) -> Answer:
    account = _account_of(service, request)
    path = request.scope["path"]
    match = _PATH.fullmatch(path)
    if match is None:
        raise NotOffered(path)
    shape, names = shape_of([part for part in (match["rest"] or "").rstrip("/").split("/") if part])
    version = _version(request, _ASSET_VERSIONS if shape.startswith("assets") else VERSIONS)
    _check_place(match, account)
    handler = calls.handlers.get((request.method, shape))
    if handler is None:
        raise NotOffered(f"{request.method} of {shape or 'the account'}")
    root = f"{request.url.scheme}://{request.url.netloc}"
    answer = handler(Call(account, names, dict(request.query_params), body, root, path))
    if version == VERSIONS[0] and isinstance(answer.body, dict):
        # The recordings of the oldest version have none.
        for document in answer.body.get("value", [answer.body]):
            document.pop("systemData", None)
    return answer


def _account_of(service: Service, request: Request) -> str:
    """Return the account of the request's token: an Entra one for a management endpoint, or RMS's."""
    bearer = service.tokens.bearer_of(request.headers.get("authorization"))
    if bearer.kind == "entra":
        audience = urlsplit(bearer.audience or "")
        if (audience.hostname or "").lower() not in _MANAGEMENT or audience.scheme != "https":
            raise NotAuthenticated("The access token is not for the management endpoint ('aud' is wrong).")
    elif bearer.kind != "rms":
        raise NotAuthenticated("The access token is one of another service.")
    exchange_of(request.scope).account = bearer.account
    return bearer.account


def _version(request: Request, known: tuple[str, ...]) -> str:
    options = {name.lower(): value for name, value in request.query_params.items()}
    version = options.get("api-version")
    if not version:
        raise Refused(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    if version not in known:
        raise Refused(
            400,
            "InvalidResourceType",
            f"The api-version '{version}' is not supported. The supported versions are {', '.join(known)}.",
        )
    return version


def _check_place(match: re.Match[str], account: str) -> None:
    """Raise unless the path leads to *account*; another's is as good as none."""
    if match["subscription"].lower() != SUBSCRIPTION:
        text = f"The subscription '{match['subscription']}' could not be found."
        raise Refused(404, "SubscriptionNotFound", text)
    if match["group"].lower() != RESOURCE_GROUP:
        raise Refused(404, "ResourceGroupNotFound", f"Resource group '{match['group']}' could not be found.")
    if match["account"].lower() != account.lower():
        text = (
            f"The Resource 'Microsoft.Media/mediaServices/{match['account']}' under resource group "
            f"'{match['group']}' was not found."
        )
        raise Refused(404, "ResourceNotFound", text)


def _headers(request: Request) -> dict[str, str]:
    request_id = str(uuid.uuid4())
    headers = {
        "Cache-Control": "no-cache",
        "x-ms-request-id": request_id,
        "x-ms-correlation-request-id": request_id,
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "X-Content-Type-Options": "nosniff",
    }
    if client := exchange_of(request.scope).client_request_id:
        headers["x-ms-client-request-id"] = client
    return headers


def _dressed(request: Request, answer: Answer) -> Response:
    headers = _headers(request)
    if answer.body is None:
        return Response(status_code=answer.status, headers=headers)
    text = json.dumps(answer.body, indent=2, ensure_ascii=False).replace("\n", "\r\n")
    headers |= {"odata-version": "4.0", "Content-Type": "application/json; odata.metadata=minimal"}
    return Response(text, answer.status, headers)


def _refusal(request: Request, error: EmulatorError) -> Response:
    if isinstance(error, Refused):
        status, code = error.status, error.code
    else:
        status, code = next(value for kind, value in _REFUSALS.items() if isinstance(error, kind))
    headers = _headers(request)
    if status == 401:
        headers["WWW-Authenticate"] = f'Bearer error="invalid_token", error_description="{error}"'
    body = {"error": {"code": code, "message": str(error)}}
    return JSONResponse(body, status, headers, "application/json; charset=utf-8")
