"""What each request of the ARM surface does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from functools import partial
from typing import Any

from airflow_ams.emulator.assets import DELETE, LIST, READ, WRITE
from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.filters import version_4
from airflow_ams.emulator.odata import DATETIME, STRING, as_datetime
from airflow_ams.emulator.records import Asset, Job, State, Transform
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.settings import RESOURCE_GROUP, SUBSCRIPTION
from airflow_ams.emulator.v3 import documents, submission
from airflow_ams.emulator.v3.call import Answer, Call, Handlers
from airflow_ams.emulator.v3.documents import Document, WriteTime, cut, seconds_text
from airflow_ams.emulator.v3.lists import ListKind, Row, page_of
from airflow_ams.emulator.v3.operations import Operations

_GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}"
_ACCOUNTS = f"{_GROUP}/providers/Microsoft.Media/mediaservices"
_TYPE = "Microsoft.Media/mediaservices"
_JOB_STATE = "Microsoft.Media.JobState"
_TIMES = {"properties/created": DATETIME, "properties/lastModified": DATETIME}
_SORTABLE = ("name", *_TIMES)
_JOBS = ListKind(
    "Microsoft.Media.Job",
    {"name": STRING, "properties/state": _JOB_STATE, **_TIMES},
    _SORTABLE,
    version_4({_JOB_STATE: {state.name.lower() for state in State}}),
)
_TRANSFORMS = ListKind("Microsoft.Media.Transform", {"name": STRING, **_TIMES}, _SORTABLE)
_ASSETS = ListKind(
    "Microsoft.Media.Asset",
    {"name": STRING, "properties/alternateId": STRING, "properties/created": DATETIME},
    ("name", "properties/created"),
    options=("$filter", "$orderby", "$top", "$skiptoken"),
)
_PERMISSIONS = {
    "Read": READ | LIST,
    "ReadWrite": READ | WRITE | LIST,
    "ReadWriteDelete": READ | WRITE | DELETE | LIST,
}
_EXPIRY = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


def read_time(seconds: float) -> str:
    """Return a time as reads have it: milliseconds, or no fraction at all."""
    text = seconds_text(seconds, 3)
    return text.replace(".000Z", "Z")


def created_time(seconds: float) -> str:
    """Return a time as the answers have it that create something."""
    return seconds_text(seconds, 7)


class ArmCalls:
    """The ARM surface without HTTP: a call comes in, an answer goes out, refusals are raised.

    :param service: the emulator.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._do = Operations(service)
        self.handlers: Handlers = {
            ("GET", ""): self._account,
            ("GET", "transforms"): self._list_transforms,
            ("GET", "transforms/*"): lambda call: self._transform(200, self._do.transform(*_in(call))),
            ("PUT", "transforms/*"): self._put_transform,
            ("PATCH", "transforms/*"): self._patch_transform,
            ("DELETE", "transforms/*"): self._delete_transform,
            ("GET", "assets"): self._list_assets,
            ("GET", "assets/*"): lambda call: self._asset(200, self._do.asset(*_in(call))),
            ("PUT", "assets/*"): self._put_asset,
            ("DELETE", "assets/*"): lambda call: _deleted(self._do.delete_asset(*_in(call))),
            ("POST", "assets/*/listcontainersas"): self._share_asset,
            ("GET", "transforms/*/jobs"): self._list_jobs,
            ("GET", "transforms/*/jobs/*"): lambda call: self._job(self._do.job(*_in(call))),
            ("PUT", "transforms/*/jobs/*"): self._create_job,
            ("PATCH", "transforms/*/jobs/*"): self._patch_job,
            ("DELETE", "transforms/*/jobs/*"): lambda call: _deleted(self._do.delete_job(*_in(call))),
            ("POST", "transforms/*/jobs/*/canceljob"): self._cancel_job,
        }

    def _account(self, call: Call) -> Answer:
        storage = f"{_GROUP}/providers/Microsoft.Storage/storageAccounts/emulator"
        accounts = [{"id": storage, "type": "Primary"}]
        return Answer(
            200,
            {
                "name": call.account,
                "id": f"{_ACCOUNTS}/{call.account}",
                "type": _TYPE,
                "location": "West Europe",
                "properties": {"mediaServiceId": SUBSCRIPTION, "storageAccounts": accounts},
            },
        )

    def _transform(self, status: int, transform: Transform, write: WriteTime = read_time) -> Answer:
        return Answer(status, self._transform_document(transform, write))

    def _transform_document(self, transform: Transform, write: WriteTime = read_time) -> Document:
        return {
            "name": transform.name,
            "id": f"{_ACCOUNTS}/{transform.account}/transforms/{transform.name}",
            "type": f"{_TYPE}/transforms",
            "properties": documents.transform_properties(transform, write),
            "systemData": documents.system_data(
                transform.account, transform.created, transform.modified, write
            ),
        }

    def _list_transforms(self, call: Call) -> Answer:
        rows = [(_row(one), one) for one in self._service.jobs.transforms.all(call.account)]
        return self._page(call, rows, _TRANSFORMS, self._transform_document)

    def _put_transform(self, call: Call) -> Answer:
        transform, new = self._do.put_transform(*_in(call), properties=call.properties())
        return self._transform(201 if new else 200, transform, created_time)

    def _patch_transform(self, call: Call) -> Answer:
        return self._transform(200, self._do.patch_transform(*_in(call), properties=call.properties()))

    def _delete_transform(self, call: Call) -> Answer:
        return _deleted(self._service.jobs.transforms.delete(*_in(call)))

    def _asset(self, status: int, asset: Asset, write: WriteTime = read_time) -> Answer:
        return Answer(status, self._asset_document(asset, write))

    def _asset_document(self, asset: Asset, write: WriteTime = read_time) -> Document:
        container = self._service.assets.folder(asset.id).name
        return {
            "name": asset.asset_name,
            "id": f"{_ACCOUNTS}/{asset.account}/assets/{asset.asset_name}",
            "type": f"{_TYPE}/assets",
            "properties": documents.asset_properties(asset, container, write),
            "systemData": documents.system_data(asset.account, asset.created, asset.modified, write),
        }

    def _list_assets(self, call: Call) -> Answer:
        rows = [
            ({**_row(asset), "name": asset.asset_name, "properties/alternateId": asset.alternate_id}, asset)
            for asset in self._service.store.all(Asset, call.account)
        ]
        return self._page(call, rows, _ASSETS, self._asset_document)

    def _put_asset(self, call: Call) -> Answer:
        asset, new = self._do.put_asset(*_in(call), properties=call.properties())
        return self._asset(201 if new else 200, asset, created_time)

    def _share_asset(self, call: Call) -> Answer:
        asset, wanted = self._do.asset(*_in(call)), submission.read_object(call.body)
        permissions = _PERMISSIONS.get(str(wanted.get("permissions", "Read")))
        if permissions is None:
            raise InvalidRequest(f"'permissions' is one of {', '.join(_PERMISSIONS)}.")
        expires = _seconds(submission.text(wanted, "expiryTime"), self._service.clock.now() + 3600)
        query = self._service.assets.share(asset.id, permissions, expires)
        url = f"{call.root}/blob/{self._service.assets.folder(asset.id).name}?{query}"
        # The service gave one for each of the storage account's two keys; here there is one key.
        return Answer(200, {"assetContainerSasUrls": [url, url]})

    def _job(self, job: Job) -> Answer:
        return Answer(200, self._job_document(job))

    def _job_document(self, job: Job) -> Document:
        document = self._bare_job_document(job, read_time)
        source = document["properties"]["input"]
        if source["@odata.type"] != "#Microsoft.Media.JobInputs":
            # Reads wrap what the answer to the PUT has bare.
            wrapped = {"@odata.type": "#Microsoft.Media.JobInputs", "inputs": [source]}
            document["properties"]["input"] = wrapped
        return document

    def _bare_job_document(self, job: Job, write: WriteTime) -> Document:
        modified = job.created if job.patched is None else job.patched
        return {
            "name": job.job_name,
            "id": f"{_ACCOUNTS}/{job.account}/transforms/{job.transform}/jobs/{job.job_name}",
            "type": documents.JOB_TYPE,
            "properties": documents.job_properties(documents.view_of(self._service, job), write),
            "systemData": documents.system_data(job.account, job.created, modified, write),
        }

    def _list_jobs(self, call: Call) -> Answer:
        transform = self._do.transform(*_in(call))
        jobs = self._service.jobs.all_of(call.account, transform.name)
        return self._page(call, ((_job_row(job), job) for job in jobs), _JOBS, self._job_document)

    def _create_job(self, call: Call) -> Answer:
        transform, name = self._do.transform(call.account, call.names[0]), call.names[1]
        find = partial(self._do.asset_id, call.account)
        request = submission.read_job(call.properties(), transform, name, find)
        # Every sample makes the output asset first, so it is taken to be necessary.
        for task in request.tasks:
            find(task.outputs[0].asset_name)
        # A job that is there already is a conflict. No source says what the services do.
        job = self._service.submit(call.account, request)
        # A script may let it appear later.
        current = self._service.jobs.find(call.account, job.id) or job
        return Answer(201, self._bare_job_document(current, created_time))

    def _patch_job(self, call: Call) -> Answer:
        self._do.patch_job(*_in(call), properties=call.properties())
        return self._job(self._do.job(*_in(call)))

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
        body: Document = {"value": [document(item) for item in page.items]}
        if page.next is not None:
            body["@odata.nextLink"] = call.root + call.page_path(page.next)
        return Answer(200, body)


def _in(call: Call) -> tuple[str, ...]:
    """Return the account and the names of a path, the arguments of most operations."""
    return (call.account, *call.names)


def _row(record: Transform | Asset) -> dict[str, Any]:
    return {
        "name": record.name,
        "properties/created": _shown(record.created),
        "properties/lastModified": _shown(record.modified),
    }


def _job_row(job: Job) -> Row:
    return {
        "name": job.job_name,
        "properties/state": documents.state_name(job.state).lower(),
        "properties/created": _shown(job.created),
        "properties/lastModified": _shown(job.created if job.patched is None else job.patched),
    }


def _shown(seconds: float) -> datetime | None:
    """Return a time as reads show it, so that a filter with that time finds it."""
    return as_datetime(cut(seconds, 3))


def _deleted(existed: bool) -> Answer:
    return Answer(200 if existed else 204)


def _seconds(text: str | None, default: float) -> float:
    if text is None:
        return default
    match = _EXPIRY.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"'{text}' is no time.")
    zone = "+00:00" if match[2] == "Z" else match[2]
    return datetime.fromisoformat(match[1] + zone).astimezone(timezone.utc).timestamp()
