"""What each request of MK.IO does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.odata import DATETIME, STRING, as_datetime
from airflow_ams.emulator.records import Asset, Job, State, Transform
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.settings import SUBSCRIPTION
from airflow_ams.emulator.v3 import documents, submission
from airflow_ams.emulator.v3.call import Answer, Call, Handlers
from airflow_ams.emulator.v3.documents import Document, cut, seconds_text
from airflow_ams.emulator.v3.lists import ListKind, Row, page_of
from airflow_ams.emulator.v3.operations import Operations

NextLink = Callable[[Call, str], str]
"""Writes the link to another page: the older URLs had it relative, the newer have all of it."""

# There is no such group; the identifiers of the service look like those of ARM all the same.
_PROJECTS = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/default/providers/Microsoft.Media/mediaservices"
_TYPE = "Microsoft.Media/mediaservices"
_OPTIONS = ("$filter", "$orderby", "$top", "$skiptoken")
_JOB_FIELDS = {
    "created": DATETIME,
    "createdBy": STRING,
    "id": STRING,
    "name": STRING,
    "properties/created": DATETIME,
    "properties/lastModified": DATETIME,
    "properties/state": STRING,
    "transform": STRING,
    "updated": DATETIME,
    "updatedBy": STRING,
}
_SORTABLE_JOB = tuple(name for name in _JOB_FIELDS if name != "transform")
_JOBS = ListKind("Job", _JOB_FIELDS, _SORTABLE_JOB, options=_OPTIONS)
_FIELDS = {"name": STRING, "properties/created": DATETIME, "properties/lastModified": DATETIME}
_TRANSFORMS = ListKind("Transform", _FIELDS, tuple(_FIELDS), options=_OPTIONS)
_ASSETS = ListKind("Asset", _FIELDS, tuple(_FIELDS), options=_OPTIONS)
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?", re.ASCII)


def write_time(seconds: float) -> str:
    """Return a time: always microseconds."""
    return seconds_text(seconds, 6)


class MkioCalls:
    """MK.IO without HTTP: a call comes in, an answer goes out, refusals are raised.

    :param service: the emulator.
    :param next_link: writes links to further pages.
    """

    def __init__(self, service: Service, next_link: NextLink) -> None:
        self._service = service
        self._next_link = next_link
        self._do = Operations(service)
        self.handlers: Handlers = {
            ("GET", "transforms"): self._list_transforms,
            ("GET", "transforms/*"): lambda call: self._transform(200, self._do.transform(*_in(call))),
            ("PUT", "transforms/*"): self._put_transform,
            ("DELETE", "transforms/*"): self._delete_transform,
            ("GET", "assets"): self._list_assets,
            ("GET", "assets/*"): lambda call: self._asset(200, self._do.asset(*_in(call))),
            ("PUT", "assets/*"): self._put_asset,
            ("DELETE", "assets/*"): lambda call: _deleted(self._do.delete_asset(*_in(call))),
            ("GET", "jobs"): self._list_all_jobs,
            ("GET", "transforms/*/jobs"): self._list_jobs,
            ("GET", "transforms/*/jobs/*"): lambda call: self._job(200, self._do.job(*_in(call)), "get"),
            ("GET", "transforms/*/jobs/*/state"): self._state,
            ("PUT", "transforms/*/jobs/*"): self._create_job,
            ("PATCH", "transforms/*/jobs/*"): self._patch_job,
            ("DELETE", "transforms/*/jobs/*"): lambda call: _deleted(self._do.delete_job(*_in(call))),
            ("POST", "transforms/*/jobs/*/canceljob"): self._cancel_job,
        }

    def _list_transforms(self, call: Call) -> Answer:
        rows = [(_row(one.name, one), one) for one in self._service.jobs.transforms.all(call.account)]
        return self._page(call, rows, _TRANSFORMS, _transform_document)

    def _transform(self, status: int, transform: Transform) -> Answer:
        return Answer(status, _transform_document(transform))

    def _put_transform(self, call: Call) -> Answer:
        transform, new = self._do.put_transform(*_in(call), properties=call.properties())
        return self._transform(201 if new else 200, transform)

    def _delete_transform(self, call: Call) -> Answer:
        return _deleted(self._service.jobs.transforms.delete(*_in(call)))

    def _list_assets(self, call: Call) -> Answer:
        assets = self._service.store.all(Asset, call.account)
        rows = [(_row(asset.asset_name, asset), asset) for asset in assets]
        return self._page(call, rows, _ASSETS, self._asset_document)

    def _asset(self, status: int, asset: Asset) -> Answer:
        return Answer(status, self._asset_document(asset))

    def _asset_document(self, asset: Asset) -> Document:
        container = self._service.assets.folder(asset.id).name
        return {
            "name": asset.asset_name,
            "id": f"{_PROJECTS}/{asset.account}/assets/{asset.asset_name}",
            "type": f"{_TYPE}/assets",
            "properties": documents.asset_properties(asset, container, write_time),
        }

    def _put_asset(self, call: Call) -> Answer:
        asset, new = self._do.put_asset(*_in(call), properties=call.properties())
        return self._asset(201 if new else 200, asset)

    def _list_all_jobs(self, call: Call) -> Answer:
        return self._page_of_jobs(call, self._service.jobs.all(call.account))

    def _list_jobs(self, call: Call) -> Answer:
        transform = self._do.transform(*_in(call))
        return self._page_of_jobs(call, self._service.jobs.all_of(call.account, transform.name))

    def _page_of_jobs(self, call: Call, jobs: Iterable[Job]) -> Answer:
        return self._page(call, ((_job_row(job), job) for job in jobs), _JOBS, self._job_document)

    def _job(self, status: int, job: Job, operation: str) -> Answer:
        project = {"id": SUBSCRIPTION, "name": job.account}
        supplemental = {"operation": operation, "subscription": project}
        return Answer(status, {**self._job_document(job), "supplemental": supplemental})

    def _job_document(self, job: Job) -> Document:
        properties = documents.job_properties(documents.view_of(self._service, job), write_time)
        properties["lastModified"] = write_time(job.modified)
        source = properties["input"]
        if source["@odata.type"] == "#Microsoft.Media.JobInputs" and len(source["inputs"]) == 1:
            properties["input"] = source["inputs"][0]
        for output in properties["outputs"]:
            output.pop("presetOverride", None)
            output.get("error", {}).pop("details", None)
        if job.state == State.Finished and (job.ended or 0) - (job.started or 0) < 1:
            # Some of the recorded jobs have no start; why is not known. Here it is the short ones.
            properties.pop("startTime", None)
        return {
            "name": job.job_name,
            "id": _job_id(job),
            "type": documents.JOB_TYPE,
            "properties": properties,
            "systemData": documents.system_data(job.account, job.created, job.modified, write_time),
        }

    def _state(self, call: Call) -> Answer:
        job = self._do.job(*_in(call))
        return Answer(200, {"status": {"state": documents.state_name(job.state)}})

    def _create_job(self, call: Call) -> Answer:
        transform, name = self._do.transform(call.account, call.names[0]), call.names[1]
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"'{name}' cannot be the name of a job.")
        find = partial(self._do.asset_id, call.account)
        request = submission.read_job(call.properties(), transform, name, find)
        job = self._service.submit(call.account, request)
        # A script may let it appear later.
        return self._job(201, self._service.jobs.find(call.account, job.id) or job, "create")

    def _patch_job(self, call: Call) -> Answer:
        properties = call.properties()
        for name in ("input", "outputs"):
            if not properties.get(name):
                raise InvalidRequest(f"'{name}' is required.")
        correlation = submission.read_correlation(properties)
        kept = self._do.patch_job(*_in(call), properties=properties)
        if correlation is not None:
            kept.correlation = correlation
            self._service.store.put(kept)
        return self._job(200, self._do.job(*_in(call)), "update")

    def _cancel_job(self, call: Call) -> Answer:
        self._do.cancel_job(*_in(call))
        return Answer(200)

    def _page(
        self,
        call: Call,
        rows: Iterable[tuple[Row, Any]],
        kind: ListKind,
        document: Callable[[Any], Document],
    ) -> Answer:
        page = page_of(rows, call.options, kind, self._service.limits.page_size)
        count = len(page.items)
        pagination = {"start": page.start, "end": page.start + count, "records": count, "total": page.total}
        supplemental = {"count": count, "kind": kind.name, "operation": "list", "pagination": pagination}
        body: Document = {"value": [document(item) for item in page.items], "supplemental": supplemental}
        if page.next is not None:
            body["@odata.nextLink"] = self._next_link(call, page.next)
        return Answer(200, body)


def _in(call: Call) -> tuple[str, ...]:
    """Return the project and the names of a path, the arguments of most operations."""
    return (call.account, *call.names)


def _job_id(job: Job) -> str:
    return f"{_PROJECTS}/{job.account}/transforms/{job.transform}/jobs/{job.job_name}"


def _transform_document(transform: Transform) -> Document:
    return {
        "name": transform.name,
        "id": f"{_PROJECTS}/{transform.account}/transforms/{transform.name}",
        "type": f"{_TYPE}/transforms",
        "properties": documents.transform_properties(transform, write_time),
    }


def _row(name: str, record: Transform | Asset) -> Row:
    return {
        "name": name,
        "properties/created": _shown(record.created),
        "properties/lastModified": _shown(record.modified),
    }


def _job_row(job: Job) -> Row:
    created, modified = _shown(job.created), _shown(job.modified)
    return {
        "created": created,
        "createdBy": job.account,
        "id": _job_id(job),
        "name": job.job_name,
        "properties/created": created,
        "properties/lastModified": modified,
        "properties/state": documents.state_name(job.state),
        "transform": job.transform,
        "updated": modified,
        "updatedBy": job.account,
    }


def _shown(seconds: float) -> datetime | None:
    """Return a time as answers show it, so that a filter with that time finds it."""
    return as_datetime(cut(seconds, 6))


def _deleted(existed: bool) -> Answer:
    return Answer(200 if existed else 204)
