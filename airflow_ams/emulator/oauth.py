"""Token endpoints: Access Control Service (ACS), Entra in its two versions, and RMS."""

from __future__ import annotations

import json
import time
import uuid
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from airflow_ams.emulator.errors import NotAuthenticated
from airflow_ams.emulator.exchange import exchange_of
from airflow_ams.emulator.refusals import refusal
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.tokens import ACS_SCOPE

_ACS_TYPE = "http://schemas.xmlsoap.org/ws/2009/11/swt-token-profile-1.0"
_WELL_KNOWN = ".well-known/openid-configuration"


def token_routes(service: Service) -> list[Route]:
    """Return the routes of the token endpoints; they answer on the front host too."""
    endpoints = TokenEndpoints(service)
    return [
        Route("/v2/OAuth2-13", endpoints.acs, methods=["POST"]),
        Route("/auth/token", endpoints.rms, methods=["POST"]),
        Route("/{tenant}/oauth2/token", endpoints.entra_v1, methods=["POST"]),
        Route("/{tenant}/oauth2/v2.0/token", endpoints.entra_v2, methods=["POST"]),
        Route("/{tenant}/v2.0/" + _WELL_KNOWN, endpoints.discovery),
        Route("/{tenant}/" + _WELL_KNOWN, endpoints.discovery),
    ]


class TokenEndpoints:
    """Client credentials or an API key in, token out.

    :param service: knows the accounts and signs the tokens.
    """

    def __init__(self, service: Service) -> None:
        self._tokens = service.tokens

    async def acs(self, request: Request) -> Response:
        """Answer as the Access Control Service; its ``expires_in`` is text."""
        form = await _form(request)
        if problem := self._problem(request, form):
            return _refusal(*problem)
        return JSONResponse(
            {
                "token_type": _ACS_TYPE,
                "access_token": self._tokens.issue_swt(form["client_id"]),
                "expires_in": _whole(self._tokens.acs_lifetime),
                "scope": ACS_SCOPE,
            }
        )

    async def entra_v1(self, request: Request) -> Response:
        """Answer as Entra's first version: it wants a ``resource`` and writes numbers as text."""
        form = await _form(request)
        if problem := self._problem(request, form, needs="resource"):
            return _refusal(*problem)
        lifetime, now = self._tokens.entra_lifetime, time.time()
        token = self._tokens.issue_jwt(form["client_id"], request.path_params["tenant"], form["resource"])
        return JSONResponse(
            {
                "token_type": "Bearer",
                "expires_in": _whole(lifetime),
                "ext_expires_in": _whole(lifetime),
                "expires_on": _whole(now + lifetime),
                "not_before": _whole(now),
                "resource": form["resource"],
                "access_token": token,
            }
        )

    async def entra_v2(self, request: Request) -> Response:
        """Answer as Entra's second version: it wants a ``scope`` and writes numbers as numbers."""
        form = await _form(request)
        if problem := self._problem(request, form, needs="scope"):
            return _refusal(*problem)
        audience = form["scope"].removesuffix("/.default")
        token = self._tokens.issue_jwt(form["client_id"], request.path_params["tenant"], audience)
        lifetime = int(self._tokens.entra_lifetime)
        return JSONResponse(
            {
                "token_type": "Bearer",
                "expires_in": lifetime,
                "ext_expires_in": lifetime,
                "access_token": token,
            }
        )

    async def rms(self, request: Request) -> Response:
        """Answer as RMS: an API key in JSON, and the bare token as text."""
        exchange = exchange_of(request.scope)
        try:
            document = json.loads(await request.body())
            subscription, key = document["subscriptionId"], document["apiKey"]
        except (ValueError, KeyError, TypeError):
            subscription = key = None
        if not isinstance(subscription, str) or not isinstance(key, str):
            text = "A JSON object with the texts subscriptionId and apiKey was expected."
            return refusal(exchange.path, 400, text)
        try:
            account = self._tokens.account_with_key(subscription, key)
        except NotAuthenticated as error:
            # No source says which status it is.
            return refusal(exchange.path, 401, str(error))
        exchange.account = account
        return PlainTextResponse(self._tokens.issue_rms(account))

    async def discovery(self, request: Request) -> Response:
        """Answer with the OpenID configuration; its endpoints point back to this server."""
        tenant = request.path_params["tenant"]
        root = f"{request.url.scheme}://{request.url.netloc}/{tenant}"
        return JSONResponse(
            {
                "issuer": f"{root}/v2.0",
                "token_endpoint": f"{root}/oauth2/v2.0/token",
                "authorization_endpoint": f"{root}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{root}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{root}/discovery/v2.0/keys",
                "response_types_supported": ["token"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["HS256"],
            }
        )

    def _problem(
        self, request: Request, form: dict[str, str], needs: str | None = None
    ) -> tuple[int, str, str] | None:
        """Return status, code and text of what is wrong with *form*, None if nothing is."""
        if form.get("grant_type") != "client_credentials":
            return 400, "unsupported_grant_type", "The grant type must be client_credentials."
        if needs and not form.get(needs):
            return 400, "invalid_request", f"The request body must contain the parameter '{needs}'."
        try:
            self._tokens.check(form.get("client_id", ""), form.get("client_secret", ""))
        except NotAuthenticated as error:
            return 401, "invalid_client", str(error)
        exchange_of(request.scope).account = form["client_id"]
        return None


async def _form(request: Request) -> dict[str, str]:
    """Return the form; amspy puts a space after the secret, so values are trimmed."""
    body = (await request.body()).decode("utf-8", "replace")
    return {name: value.strip() for name, value in parse_qsl(body)}


def _refusal(status: int, error: str, description: str) -> Response:
    body = {
        "error": error,
        "error_description": description,
        "error_codes": [],
        "timestamp": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        "trace_id": str(uuid.uuid4()),
        "correlation_id": str(uuid.uuid4()),
    }
    return JSONResponse(body, status)


def _whole(seconds: float) -> str:
    return str(int(seconds))
