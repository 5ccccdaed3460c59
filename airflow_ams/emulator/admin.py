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
from airflow_ams.emulator.errors import EmulatorError, InvalidRequest, NotAllowed
from airflow_ams.emulator.faults import read_rules
from airflow_ams.emulator.jobs import JobRequest, OutputRequest, TaskRequest
from airflow_ams.emulator.records import SCRIPTED
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.settings import CONTROL_HEADER


def create_admin_app(service: Service) -> Starlette:
    """Return the controls as an application to be mounted at ``/_emulator``."""
    admin = Admin(service)
    return Starlette(
        routes=[
            Route("/health", admin.health),
            Route("/faults", admin.faults, methods=["PUT", "DELETE"]),
            Route("/clock", admin.clock, methods=["GET", "POST"]),
            Route("/requests", admin.requests, methods=["GET", "DELETE"]),
            Route("/jobs", admin.jobs, methods=["POST"]),
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

    async def jobs(self, request: Request) -> Response:
        """POST ``{"name": …, "script": {…}, "account": …}``: a scripted job without the ceremony."""
        _check_control(request)
        document = _keys(await _json(request), {"name", "script", "account"})
        account = document.get("account", next(iter(self._service.settings.accounts)))
        if account not in self._service.settings.accounts:
            raise InvalidRequest(f"There is no account {account!r}.")
        name, script = str(document.get("name", "scripted")), json.dumps(document.get("script", {}))
        task = TaskRequest(SCRIPTED, script, (OutputRequest(0, f"{name} output", 0),), name=name)
        job = self._service.submit(account, JobRequest(name, (task,)))
        return JSONResponse({"id": job.id}, 201)

    async def reset(self, request: Request) -> Response:
        """POST: jobs, assets, faults, log and clock as they were at the start."""
        _check_control(request)
        await self._service.reset()
        return Response(status_code=204)

    def _time(self) -> dict[str, Any]:
        clock = self._service.clock
        return {"now": clock.now(), "frozen": clock.frozen_at is not None}


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
    return JSONResponse({"error": str(error)}, 403 if isinstance(error, NotAllowed) else 400)
