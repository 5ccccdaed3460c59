"""The documents of the v3 family: what is the same in all its dialects; each finishes them in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ams.emulator.odata import as_datetime
from airflow_ams.emulator.presets import BUILT_IN
from airflow_ams.emulator.records import SCRIPTED, Asset, Failure, Job, State, Task, Transform
from airflow_ams.emulator.service import Service

Document = dict[str, Any]
WriteTime = Callable[[float], str]

JOB_TYPE = "Microsoft.Media/mediaservices/transforms/jobs"
PRIORITIES = {"Low": -1, "Normal": 0, "High": 1}
# What the encoder says (v2's codes), in v3's.
_CODES = {
    "ErrorParsingConfiguration": "ConfigurationUnsupported",
    "ErrorDownloadingInputAssetMalformedContent": "ContentMalformed",
    "ErrorDownloadingInputAssetServiceFailure": "DownloadNotAccessible",
    "ErrorExecutingTaskMalformedContent": "ContentMalformed",
    "ErrorExecutingTaskUnsupportedFormat": "ContentUnsupported",
    "ErrorProcessingTask": "ServiceError",
}
# JobError (REST reference): the group of each code, and whether to try again with nothing changed.
_ADVICE = {
    "ServiceError": ("Service", "MayRetry"),
    "ServiceTransientError": ("Service", "MayRetry"),
    "DownloadNotAccessible": ("Download", "DoNotRetry"),
    "DownloadTransientError": ("Download", "MayRetry"),
    "UploadNotAccessible": ("Upload", "DoNotRetry"),
    "UploadTransientError": ("Upload", "MayRetry"),
    "ConfigurationUnsupported": ("Configuration", "DoNotRetry"),
    "ContentMalformed": ("Content", "DoNotRetry"),
    "ContentUnsupported": ("Content", "DoNotRetry"),
    "IdentityUnsupported": ("Account", "DoNotRetry"),
}


def seconds_text(seconds: float, digits: int) -> str:
    """Return a time with so many digits of its fraction (0 to 7), cut and not rounded."""
    whole, ticks = divmod(round(seconds * 10**7), 10**7)
    moment = as_datetime(whole)
    fraction = f".{ticks:07d}"[: digits + 1] if digits else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def cut(seconds: float, digits: int) -> float:
    """Return a time as `seconds_text` shows it."""
    return float(round(seconds * 10**7) // 10 ** (7 - digits) / 10**digits)


def state_name(state: int) -> str:
    """Return a state as v3 writes it; an integer that is none stands for one that no client knows."""
    return State(state).name if state in State.__members__.values() else f"State{state}"


def priority_name(priority: int) -> str:
    """Return a priority, any integer in v2, as v3 has it."""
    return "Normal" if priority == 0 else "High" if priority > 0 else "Low"


def present(**values: Any) -> Document:
    """Return those values that are known; the services leave out the others."""
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class JobView:
    """A job as it is now, with what its document shows of other records."""

    job: Job
    tasks: list[Task]
    input: Document
    output_names: list[str]


def view_of(service: Service, job: Job) -> JobView:
    """Return what the document of *job* is made from."""
    tasks = service.jobs.tasks(job)
    names = [_asset_name(service, task.outputs[0]) for task in tasks]
    return JobView(job, tasks, _input_of(service, job), names)


def _asset_name(service: Service, asset_id: str) -> str:
    asset = service.store.get(Asset, asset_id)
    return "" if asset is None else asset.asset_name


def _input_of(service: Service, job: Job) -> Document:
    if job.input is not None:
        return _filled(job.input)
    inputs = [_input_asset(_asset_name(service, asset_id)) for asset_id in job.inputs]
    if len(inputs) == 1:
        return inputs[0]
    return {"@odata.type": "#Microsoft.Media.JobInputs", "inputs": inputs}


def _input_asset(name: str) -> Document:
    return _filled({"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": name})


def _filled(document: Mapping[str, Any]) -> Document:
    """Return a job's input as answers have it: with empty lists, and without the queries of URLs."""
    if "inputs" in document:
        return {**document, "inputs": [_filled(entry) for entry in document["inputs"]]}
    files = [str(file).partition("?")[0] for file in document.get("files") or []]
    base = {"baseUri": document["baseUri"].partition("?")[0]} if document.get("baseUri") else {}
    return {"inputDefinitions": [], **document, **base, "files": files}


def job_properties(view: JobView, write: WriteTime) -> Document:
    """Return the properties of a job, in the order of the services."""
    job = view.job
    return present(
        created=write(job.created),
        state=state_name(job.state),
        description=job.description,
        input=view.input,
        lastModified=write(job.created if job.patched is None else job.patched),
        outputs=[
            output_document(task, name, write)
            for task, name in zip(view.tasks, view.output_names, strict=True)
        ],
        priority=priority_name(job.priority),
        correlationData=job.correlation,
        startTime=_known(job.started, write),
        endTime=_known(job.ended, write),
    )


def output_document(task: Task, asset_name: str, write: WriteTime) -> Document:
    """Return one output of a job."""
    return {
        "@odata.type": "#Microsoft.Media.JobOutputAsset",
        **present(
            state=state_name(task.state),
            progress=int(task.progress),
            label=task.label or f"{_preset_name(task)}_{task.position}",
            error=error_document(task.failures[0]) if task.failures else None,
            presetOverride=task.preset_override,
            startTime=_known(task.started, write),
            endTime=_known(task.ended, write),
        ),
        "assetName": asset_name,
    }


def _known(seconds: float | None, write: WriteTime) -> str | None:
    return None if seconds is None else write(seconds)


def _preset_name(task: Task) -> str:
    if task.processor == SCRIPTED:
        return "ScriptedPreset"
    return "BuiltInStandardEncoderPreset" if task.configuration in BUILT_IN else "StandardEncoderPreset"


def error_document(failure: Failure) -> Document:
    """Return the error of an output; category and retry are left out of codes that v3 does not have."""
    code = _CODES.get(failure["code"], failure["code"])
    category, retry = _ADVICE.get(code, (None, None))
    return present(
        code=code,
        message=failure["message"],
        category=failure.get("category", category),
        retry=failure.get("retry", retry),
        details=failure.get("details", []),
    )


def transform_properties(transform: Transform, write: WriteTime) -> Document:
    """Return the properties of a transform."""
    return present(
        created=write(transform.created),
        description=transform.description,
        lastModified=write(transform.modified),
        outputs=transform.outputs,
    )


def asset_properties(asset: Asset, container: str, write: WriteTime) -> Document:
    """Return the properties of an asset; *container* is the name of its folder in the storage."""
    return present(
        assetId=container.removeprefix("asset-"),
        created=write(asset.created),
        lastModified=write(asset.modified),
        alternateId=asset.alternate_id,
        description=asset.description,
        container=container,
        storageAccountName="emulator",
        storageEncryptionFormat="None",
    )


def system_data(account: str, created: float, modified: float, write: WriteTime) -> Document:
    """Return who made and changed a resource, and when."""
    return {
        "createdBy": account,
        "createdByType": "Application",
        "createdAt": write(created),
        "lastModifiedBy": account,
        "lastModifiedByType": "Application",
        "lastModifiedAt": write(modified),
    }
