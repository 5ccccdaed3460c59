"""The controls that tests use, under ``/_emulator/``.

They answer callers on this machine only, no web pages, and want the header ``X-AMS-Emulator``.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_ams import __version__
from airflow_ams.emulator.errors import EmulatorError, InvalidRequest, NotAllowed, NotFound
from airflow_ams.emulator.faults import read_rules
from airflow_ams.emulator.jobs import JobRequest, OutputRequest, TaskRequest
from airflow_ams.emulator.records import SCRIPTED, Job
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.settings import CONTROL_HEADER
from airflow_ams.emulator.tokens import PERSONAL_LIFETIME

_STATUSES = {NotAllowed: 403, NotFound: 404}


def create_admin_app(service: Service) -> Starlette:
    """Return the controls as an application to be mounted at ``/_emulator``."""
    admin = Admin(service)
    return Starlette(
        routes=[
            Route("/health", admin.health),
            Route("/faults", admin.faults, methods=["PUT", "DELETE"]),
            Route("/clock", admin.clock, methods=["GET", "POST"]),
            Route("/requests", admin.requests, methods=["GET", "DELETE"]),
            Route("/limits", admin.limits, methods=["PUT"]),
            Route("/tokens", admin.tokens, methods=["POST"]),
            Route("/api-key", admin.api_key, methods=["PUT"]),
            Route("/jobs", admin.jobs, methods=["GET", "POST"]),
            Route("/reset", admin.reset, methods=["POST"]),
        ],
        exception_handlers={EmulatorError: _refuse},
    )


class Admin:
    """The control endpoints.

    :param service: what they control.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """GET: version, accounts by name, and the clock."""
        _check_caller(request)
        return JSONResponse(
            {"version": __version__, "accounts": list(self._service.settings.accounts), **self._time()}
        )

    async def faults(self, request: Request) -> Response:
        """PUT a list of fault rules in place of those in force; DELETE them."""
        _check_control(request)
        self._service.faults.replace(read_rules(await _json(request)) if request.method == "PUT" else [])
        return Response(status_code=204)

    async def clock(self, request: Request) -> Response:
        """GET the time; POST ``{"advance": seconds}`` and ``{"frozen": true|false}``, or both."""
        _check_control(request)
        if request.method == "POST":
            change = _keys(await _json(request), {"advance", "frozen"})
            seconds, frozen = change.get("advance", 0), change.get("frozen")
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                raise InvalidRequest(f"'advance' is a number of seconds, not {seconds!r}.")
            if frozen not in (True, False, None):
                raise InvalidRequest(f"'frozen' is true or false, not {frozen!r}.")
            clock = self._service.clock
            if frozen is not None:
                clock.freeze() if frozen else clock.unfreeze()
            clock.advance(seconds)
            self._service.keep_clock()
        return JSONResponse(self._time())

    async def requests(self, request: Request) -> Response:
        """GET the log of requests, oldest first; DELETE it."""
        _check_control(request)
        if request.method == "DELETE":
            self._service.log.clear()
            return Response(status_code=204)
        return JSONResponse(self._service.log.as_json())

    async def limits(self, request: Request) -> Response:
        """PUT page size and request limits, or some of them; `Limits.change` has an example."""
        _check_control(request)
        self._service.limits.change(await _json(request))
        return Response(status_code=204)

    async def tokens(self, request: Request) -> Response:
        """POST ``{"account": …, "capabilities": […], "lifetime": seconds}``: a personal token of MK.IO.

        All keys may be left out. Without capabilities, or if they are null, it gives full access.
        """
        _check_control(request)
        document = _keys(await _json(request), {"account", "capabilities", "lifetime"})
        capabilities, lifetime = document.get("capabilities"), document.get("lifetime", PERSONAL_LIFETIME)
        if capabilities is not None and not _is_list_of_texts(capabilities):
            raise InvalidRequest(f"'capabilities' is a list of texts or null, not {capabilities!r}.")
        if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not lifetime > 0:
            raise InvalidRequest(f"'lifetime' is a number of seconds above 0, not {lifetime!r}.")
        token = self._service.tokens.issue_personal(self._account(document), capabilities, lifetime)
        return JSONResponse({"token": token}, 201)

    async def api_key(self, request: Request) -> Response:
        """PUT ``{"expired": true|false}``: whether RMS takes the accounts' keys as API keys no more."""
        _check_control(request)
        expired = _keys(await _json(request), {"expired"}).get("expired")
        if not isinstance(expired, bool):
            raise InvalidRequest(f"'expired' is true or false, not {expired!r}.")
        self._service.tokens.api_keys_expired = expired
        return Response(status_code=204)

    async def jobs(self, request: Request) -> Response:
        """POST ``{"name": …, "script": {…}, "account": …}``: a scripted job without the ceremony.

        ``transform`` and ``job_name`` are what it is called in v3. GET with these two in the query finds a
        job by them; both answers have its names in all dialects.
        """
        _check_control(request)
        if request.method == "GET":
            return JSONResponse(_names(self._find(dict(request.query_params))))
        document = _keys(await _json(request), {"name", "script", "account", "transform", "job_name"})
        name, script = str(document.get("name", "scripted")), json.dumps(document.get("script", {}))
        task = TaskRequest(SCRIPTED, script, (OutputRequest(0, f"{name} output", 0),), name=name)
        transform, job_name = (str(document.get(key, "")) for key in ("transform", "job_name"))
        asked = JobRequest(name, (task,), transform=transform, job_name=job_name)
        return JSONResponse(_names(self._service.submit(self._account(document), asked)), 201)

    def _find(self, query: dict[str, str]) -> Job:
        """Return the job that a query names."""
        wanted = _keys(query, {"account", "transform", "job_name"})
        names = [wanted.get(key, "").lower() for key in ("transform", "job_name")]
        for job in self._service.jobs.all(self._account(wanted)):
            if [job.transform.lower(), job.job_name.lower()] == names:
                return job
        raise NotFound(f"There is no job {'/'.join(names)!r}.")

    def _account(self, document: dict[str, Any]) -> str:
        """Return the account that a document names, the first one if it names none."""
        accounts = self._service.settings.accounts
        account = str(document.get("account", next(iter(accounts))))
        if account not in accounts:
            raise InvalidRequest(f"There is no account {account!r}.")
        return account

    async def reset(self, request: Request) -> Response:
        """POST: jobs, assets, faults, limits, log and clock as they were at the start."""
        _check_control(request)
        await self._service.reset()
        return Response(status_code=204)

    def _time(self) -> dict[str, Any]:
        clock = self._service.clock
        return {"now": clock.now(), "frozen": clock.frozen_at is not None}


def _names(job: Job) -> dict[str, str]:
    return {"id": job.id, "transform": job.transform, "job_name": job.job_name}


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _check_control(request: Request) -> None:
    """Raise unless a request may change or read what tests see; health needs less, it is asked by hand."""
    _check_caller(request)
    # The controls have no token. A page of another site cannot send this header, not even by a form.
    if CONTROL_HEADER not in request.headers:
        raise NotAllowed(f"The controls of the emulator need the header {CONTROL_HEADER}, with any value.")


def _check_caller(request: Request) -> None:
    """Raise unless a request comes from this machine, and not from a web page that a browser on it shows."""
    if not _is_loopback(request.client.host if request.client else ""):
        raise NotAllowed("The controls of the emulator answer callers on its own machine only.")
    if "origin" in request.headers:
        raise NotAllowed("The controls of the emulator do not answer web pages (there is an Origin header).")
    # A name that was made to lead here (DNS rebinding) is still in Host.
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    if name.lower() != "localhost" and not _is_loopback(name.removeprefix("[").removesuffix("]")):
        raise NotAllowed(
            f"The controls of the emulator answer as localhost, 127.0.0.1 or [::1], not as '{host}'."
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise InvalidRequest(f"The body is no JSON: {error}.") from None


def _keys(document: Any, known: set[str]) -> dict[str, Any]:
    if not isinstance(document, dict) or set(document) - known:
        raise InvalidRequest(f"A JSON object with the keys {', '.join(sorted(known))} was expected.")
    return document


async def _refuse(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 400)
    return JSONResponse({"error": str(error)}, status)
