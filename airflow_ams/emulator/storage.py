"""Blob storage as far as assets need it: PUT a file through a locator, GET and HEAD it, with ranges."""

from __future__ import annotations

import uuid
from email.utils import format_datetime
from pathlib import Path
from xml.sax.saxutils import escape

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from airflow_ams.emulator.assets import READ, WRITE, check_file_name
from airflow_ams.emulator.errors import EmulatorError, InvalidRequest, NotAllowed, NotFound, NotOffered
from airflow_ams.emulator.odata import as_datetime
from airflow_ams.emulator.service import Service

_XML = '<?xml version="1.0" encoding="utf-8"?>'
# Status and error codes (public documentation of the Blob service).
_ERRORS: dict[type[EmulatorError], tuple[int, str]] = {
    InvalidRequest: (400, "InvalidInput"),
    NotAllowed: (403, "AuthenticationFailed"),
    NotFound: (404, "BlobNotFound"),
    NotOffered: (501, "NotImplemented"),
}


def create_storage_app(service: Service) -> Starlette:
    """Return the storage as an application to be mounted at ``/blob``."""
    storage = Storage(service)
    return Starlette(
        routes=[
            Route("/{container}/{name:path}", storage.put, methods=["PUT"]),
            Route("/{container}/{name:path}", storage.get, methods=["GET", "HEAD"]),
        ],
        exception_handlers={EmulatorError: _refuse},
    )


class Storage:
    """The requests that a locator's URL takes.

    :param service: has the assets.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def put(self, request: Request) -> Response:
        """Store a block blob; it is a file of the asset at once."""
        asset_id = self._open(request, WRITE)
        name = check_file_name(request.path_params["name"])
        if "comp" in request.query_params:
            raise NotOffered(f"Put blob with comp={request.query_params['comp']}")
        if request.headers.get("x-ms-blob-type") != "BlockBlob":
            raise InvalidRequest("The header x-ms-blob-type must be BlockBlob.")
        folder = self._service.assets.folder(asset_id)
        folder.mkdir(parents=True, exist_ok=True)
        await _receive(request, folder / name)
        file = self._service.assets.record_file(
            asset_id, name, mime_type=request.headers.get("x-ms-blob-content-type")
        )
        return Response(status_code=201, headers=_headers(file.modified))

    async def get(self, request: Request) -> Response:
        """Send a file of the asset, or the range of it that is asked for."""
        asset_id = self._open(request, READ)
        name = check_file_name(request.path_params["name"])
        asset_job = self._service.assets.job_of(asset_id)
        for file in self._service.assets.files(asset_id):
            path = self._service.assets.path(file)
            if file.name == name and path.is_file():
                if asset_job is not None and not self._service.jobs.outputs_ready(asset_job):
                    break
                media_type = file.mime_type or "application/octet-stream"
                return FileResponse(path, headers=_headers(file.modified), media_type=media_type)
        raise NotFound("The specified blob does not exist.")

    def _open(self, request: Request, permission: int) -> str:
        query, container = request.query_params, request.path_params["container"]
        if "si" not in query:
            return self._service.assets.open_shared(container, query, permission)
        return self._service.assets.open_with(container, query["si"], query.get("sig", ""), permission)


async def _receive(request: Request, target: Path) -> None:
    """Write the body beside *target* and move it there when it is complete."""
    partial = target.with_name(f".{uuid.uuid4()}.partial")
    try:
        with partial.open("wb") as stream:
            async for chunk in request.stream():
                stream.write(chunk)
        partial.replace(target)
    except ClientDisconnect:
        raise InvalidRequest("The upload was cut off.") from None
    finally:
        partial.unlink(missing_ok=True)


def _headers(modified: float) -> dict[str, str]:
    moment = as_datetime(modified)
    return {
        "Server": "Windows-Azure-Blob/1.0 Microsoft-HTTPAPI/2.0",
        "x-ms-request-id": str(uuid.uuid4()),
        "x-ms-version": "2012-02-12",
        "Last-Modified": format_datetime(moment, usegmt=True) if moment else "",
    }


async def _refuse(request: Request, error: Exception) -> Response:
    status, code = next(value for kind, value in _ERRORS.items() if isinstance(error, kind))
    message = escape(str(error))
    body = f"{_XML}<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(body, status, {"x-ms-error-code": code}, "application/xml")
