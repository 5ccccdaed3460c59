"""What a v2 job is to be made of.

::

    {
        "name": "Encode clip",
        "priority": 0,  # optional
        "input_asset_ids": ["nb:cid:UUID:…"],
        "tasks": [
            {
                "name": "…",  # optional
                "processor": "Media Encoder Standard",  # or its id
                "configuration": "H264 Single Bitrate 720p",  # or a preset as a dict
                "outputs": ["clip 720p"],  # names of the assets to make
                "inputs": [0],  # optional: input assets by index, other tasks' outputs by name
            }
        ],
    }

or, for all else that the service takes, its own document (with ``Tasks``, or ``TemplateId``), sent as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any
from xml.etree import ElementTree

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.v2_ids import known_id

MAX_NAME = 256
"""Characters of a job's Name (the newer of the references' two numbers)."""

MAX_CONFIGURATION = 100_000
"""Characters of a task's Configuration ("Task")."""

_KEYS = ("name", "priority", "input_asset_ids", "tasks")
_TASK_KEYS = ("name", "processor", "configuration", "outputs", "inputs")
_NEEDED = ("processor", "configuration", "outputs")


def is_document(spec: Mapping[str, Any]) -> bool:
    """Whether a spec is the service's own document."""
    return isinstance(spec, Mapping) and ("Tasks" in spec or "TemplateId" in spec)


def name_key(spec: Mapping[str, Any]) -> str:
    """Return the key of a spec that holds the job's name."""
    return "Name" if is_document(spec) else "name"


def read_spec(spec: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the document to create a job with, and the ids of its input assets.

    What a task's ``MediaProcessorId`` holds may be a processor's name as yet.

    :raises RefusedError: the spec lacks something, or holds what it cannot
    """
    if is_document(spec):
        _check_document(spec)
        return dict(spec), []
    _check_keys("A job spec of the v2 API", spec, _KEYS)
    inputs = [known_id(text, "cid", "input_asset_ids") for text in _input_ids(spec)]
    if not inputs or not spec.get("tasks"):
        raise RefusedError("A job needs at least one of input_asset_ids and one of tasks")
    tasks = _in_order(_tasks(spec["tasks"]))
    bodies = _task_bodies(tasks, len(inputs))
    document = {
        "Name": checked_name(str(spec.get("name") or "")),
        "Priority": _priority(spec.get("priority")),
        "Tasks": [
            {
                "Name": str(task.get("name") or task["processor"]),
                "Configuration": _configuration(task, number),
                "MediaProcessorId": str(task["processor"]),
                "TaskBody": body,
            }
            for number, (task, body) in enumerate(zip(tasks, bodies, strict=True), 1)
        ],
    }
    return document, inputs


def checked_name(name: str) -> str:
    """Return a job's name; raise RefusedError if the service would not take it."""
    if len(name) > MAX_NAME:
        raise RefusedError(f"The job's name has {len(name)} characters; the service takes {MAX_NAME}")
    return name


def _check_document(spec: Mapping[str, Any]) -> None:
    if own := sorted(set(spec) & {*_KEYS}):
        raise RefusedError(
            f"A job document of the service's own has no {own}: give its fields (Name, Tasks, …)"
        )
    checked_name(str(spec.get("Name") or ""))


def _input_ids(spec: Mapping[str, Any]) -> Sequence[Any]:
    given = spec.get("input_asset_ids") or ()
    return [given] if isinstance(given, str) else list(given)


def _tasks(given: Any) -> list[Mapping[str, Any]]:
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise RefusedError(f"tasks of the job spec is {str(given)[:50]!r}; give a list of dicts")
    for number, task in enumerate(given, 1):
        _check_keys(f"Task {number} in tasks", task, _TASK_KEYS)
        if missing := [key for key in _NEEDED if not task.get(key)]:
            raise RefusedError(f"Task {number} of the job spec lacks {', '.join(missing)}")
    return list(given)


def _check_keys(what: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise RefusedError(f"{what} is {str(given)[:50]!r}; give a dict with {', '.join(known)}")
    if unknown := sorted(set(given) - set(known)):
        raise RefusedError(f"{what} has no {unknown}; it has {', '.join(known)}")


def _outputs(task: Mapping[str, Any]) -> list[str]:
    given = task["outputs"]
    return [given] if isinstance(given, str) else [str(name) for name in given]


def _in_order(tasks: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put each task behind those whose outputs it reads; in the given order, if that will do."""
    makers = {name: number for number, task in enumerate(tasks) for name in _outputs(task)}
    reads = {
        number: {
            makers[source]
            for source in task.get("inputs") or ()
            if isinstance(source, str) and source in makers
        }
        for number, task in enumerate(tasks)
    }
    if all(other < number for number, others in reads.items() for other in others):
        return tasks
    try:
        return [tasks[number] for number in TopologicalSorter(reads).static_order()]
    except CycleError as exc:
        circle = " → ".join(f"task {number + 1}" for number in reversed(exc.args[1]))
        raise RefusedError(f"The tasks of the job spec wait for each other's outputs: {circle}") from exc


def _configuration(task: Mapping[str, Any], number: int) -> str:
    given = task["configuration"]
    text = given if isinstance(given, str) else json.dumps(given)
    if len(text) > MAX_CONFIGURATION:
        raise RefusedError(
            f"The configuration of task {number} has {len(text)} characters; the service takes "
            f"{MAX_CONFIGURATION}"
        )
    return text


def _priority(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        raise RefusedError(f"The job's priority {value!r} is no number") from None


def _task_bodies(tasks: Sequence[Mapping[str, Any]], inputs: int) -> list[str]:
    """Write each task's ``TaskBody`` ("Task", TaskBody), numbering the outputs through the whole job."""
    outputs: list[str] = []
    bodies = []
    for number, task in enumerate(tasks, 1):
        root = ElementTree.Element("taskBody")
        for source in task.get("inputs") or range(inputs):
            ElementTree.SubElement(root, "inputAsset").text = _input_reference(
                source, number, inputs, outputs
            )
        for name in _outputs(task):
            if name in outputs:
                raise RefusedError(f"Two outputs of the job spec are called '{name}'")
            ElementTree.SubElement(
                root, "outputAsset", assetCreationOptions="0", assetName=name
            ).text = f"JobOutputAsset({len(outputs)})"
            outputs.append(name)
        bodies.append(ElementTree.tostring(root, encoding="unicode"))
    return bodies


def _input_reference(source: Any, number: int, inputs: int, outputs: Sequence[str]) -> str:
    is_index = isinstance(source, int) and not isinstance(source, bool)
    if is_index and 0 <= source < inputs:
        return f"JobInputAsset({source})"
    if isinstance(source, str) and source in outputs:
        return f"JobOutputAsset({outputs.index(source)})"
    raise RefusedError(
        f"Task {number} of the job spec reads {source!r}, which is neither the index of one of its "
        f"{inputs} input assets nor the name of another task's output"
    )
