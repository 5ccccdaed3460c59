"""A posted job becomes a `JobRequest`: its properties, its tasks, and the XML of their TaskBody."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from airflow_ams.emulator.errors import InvalidRequest, NotOffered
from airflow_ams.emulator.ids import canonical_id
from airflow_ams.emulator.jobs import JobRequest, OutputRequest, TaskRequest
from airflow_ams.emulator.odata import INT32, STRING
from airflow_ams.emulator.v2.bodies import read_asset_links, read_collection, read_properties

_JOB = {
    "Name": STRING,
    "Priority": INT32,
    "TemplateId": STRING,
    "InputMediaAssets": "Asset",
    "Tasks": "Task",
    "JobNotificationSubscriptions": "Collection",
}
_TASK = {
    "Name": STRING,
    "Configuration": STRING,
    "MediaProcessorId": STRING,
    "TaskBody": STRING,
    "Priority": INT32,
    "Options": INT32,
    "EncryptionKeyId": STRING,
    "EncryptionScheme": STRING,
    "EncryptionVersion": STRING,
    "InitializationVector": STRING,
    "TaskNotificationSubscriptions": "Collection",
}
_ENCRYPTION = ("EncryptionKeyId", "EncryptionVersion", "InitializationVector")
_REFERENCE = re.compile(r"\s*Job(Input|Output)Asset\((\d{1,4})\)\s*")


def read_job(document: Mapping[str, Any], *, verbose: bool) -> JobRequest:
    """Return the job that *document* asks for; Job (REST reference).

    :param document: the decoded JSON.
    :param verbose: whether its Content-Type is ``odata=verbose``.
    :raises InvalidRequest: it is not a job.
    :raises NotOffered: it uses templates, notifications or protected configurations.
    """
    values = read_properties(document, _JOB)
    if values.get("TemplateId"):
        raise NotOffered("Job.TemplateId (job templates)")
    if read_collection(document, "JobNotificationSubscriptions"):
        raise NotOffered("Job.JobNotificationSubscriptions")
    tasks = [task for task in read_collection(document, "Tasks") if isinstance(task, dict)]
    return JobRequest(
        name=values.get("Name") or "",
        priority=values.get("Priority") or 0,
        inputs=tuple(
            canonical_id(asset, "cid")
            for asset in read_asset_links(document, "InputMediaAssets", verbose=verbose)
        ),
        tasks=tuple(_read_task(task) for task in tasks),
    )


def _read_task(document: Mapping[str, Any]) -> TaskRequest:
    values = read_properties(document, _TASK)
    if read_collection(document, "TaskNotificationSubscriptions"):
        raise NotOffered("Task.TaskNotificationSubscriptions")
    if any(values.get(name) for name in _ENCRYPTION):
        raise NotOffered("Task.Options ProtectedConfiguration")
    for name in ("MediaProcessorId", "TaskBody"):
        if not values.get(name):
            raise InvalidRequest(f"Task.{name} must not be empty.")
    job_inputs, chained_inputs, outputs = read_task_body(values["TaskBody"])
    return TaskRequest(
        processor=canonical_id(values["MediaProcessorId"], "mpid"),
        configuration=values.get("Configuration") or "",
        outputs=outputs,
        job_inputs=job_inputs,
        chained_inputs=chained_inputs,
        name=values.get("Name") or "",
        priority=values.get("Priority") or 0,
        options=values.get("Options") or 0,
        body=values["TaskBody"],
    )


def read_task_body(text: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[OutputRequest, ...]]:
    """Return the job inputs, the chained inputs and the outputs that a TaskBody names.

    :raises InvalidRequest: it is not a TaskBody; the text says why.
    """
    if "<!DOCTYPE" in text:
        raise InvalidRequest("Task.TaskBody must not have a document type.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InvalidRequest(f"Task.TaskBody is not well-formed XML: {error}.") from None
    if root.tag != "taskBody":
        raise InvalidRequest(f"The root of Task.TaskBody is taskBody, not '{root.tag}'.")
    job_inputs, chained_inputs, outputs = [], [], []
    for element in root:
        if element.tag not in ("inputAsset", "outputAsset"):
            raise InvalidRequest(f"Task.TaskBody has an unknown element '{element.tag}'.")
        match = _REFERENCE.fullmatch(element.text or "")
        if match is None:
            raise InvalidRequest(
                f"'{element.text}' in Task.TaskBody is neither JobInputAsset(n) nor JobOutputAsset(n)."
            )
        number = int(match[2])
        if element.tag == "outputAsset":
            outputs.append(_read_output(element, match[1], number))
        elif match[1] == "Input":
            job_inputs.append(number)
        else:
            chained_inputs.append(number)
    return tuple(job_inputs), tuple(chained_inputs), tuple(outputs)


def _read_output(element: ElementTree.Element, direction: str, number: int) -> OutputRequest:
    if direction != "Output":
        raise InvalidRequest(f"An outputAsset in Task.TaskBody is a JobOutputAsset, not '{element.text}'.")
    options = element.get("assetCreationOptions", "1")
    if options not in ("0", "1", "2", "4"):
        raise InvalidRequest(f"assetCreationOptions is 0, 1, 2 or 4, not '{options}'.")
    return OutputRequest(number, element.get("assetName"), int(options))
