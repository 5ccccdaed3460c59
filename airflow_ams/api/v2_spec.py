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

Templates write lists and dicts as texts; those are read back, a task's, too: a text with brackets, or braces
at both ends; ``[clip] a.mp4`` is a name. Where a list is wanted, one text will do. A task's input in digits
that is not the name of an output is an index. A configuration that is JSON, or no dict, is sent as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.ids import parsed
from airflow_ams.api.spec import as_json, check_keys, items, names, shown, structure, text
from airflow_ams.api.v2_ids import is_id, known_id

MAX_NAME = 256
"""Characters of a job's Name (the newer of the references' two numbers)."""

MAX_CONFIGURATION = 100_000
"""Characters of a task's Configuration ("Task")."""

KEYS = ("name", "priority", "input_asset_ids", "tasks")
"""What a spec holds that is not the service's own document."""

_TASK_KEYS = ("name", "processor", "configuration", "outputs", "inputs")
_NEEDED = ("processor", "configuration", "outputs")


class _Task(NamedTuple):
    """One of ``tasks``, read.

    :param number: its place there, from 1
    :param inputs: none: all input assets
    """

    number: int
    name: str
    processor: str
    configuration: str
    outputs: list[str]
    inputs: list[Any]


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
    check_keys("A job spec of the v2 API", spec, KEYS)
    ids = items("input_asset_ids", spec.get("input_asset_ids") or (), "the id of an asset, or a list of ids")
    inputs = [known_id(one, "cid", "input_asset_ids") for one in ids]
    tasks = _in_order(_tasks(spec.get("tasks") or ()))
    if missing := [key for key, found in (("input_asset_ids", inputs), ("tasks", tasks)) if not found]:
        raise RefusedError(f"The job spec lacks {' and '.join(missing)}")
    document = {
        "Name": checked_name(spec.get("name")),
        "Priority": _priority(spec.get("priority")),
        "Tasks": [
            {
                "Name": task.name,
                "Configuration": task.configuration,
                "MediaProcessorId": task.processor,
                "TaskBody": body,
            }
            for task, body in zip(tasks, _task_bodies(tasks, len(inputs)), strict=True)
        ],
    }
    return document, inputs


def checked_name(given: Any) -> str:
    """Return a job's name; raise RefusedError if the service would not take it."""
    name = text("The job's name", "" if given is None else given)
    if len(name) > MAX_NAME:
        raise RefusedError(f"The job's name has {len(name)} characters; the service takes {MAX_NAME}")
    return name


def _check_document(spec: Mapping[str, Any]) -> None:
    if own := sorted(set(spec) & {*KEYS}):
        raise RefusedError(
            f"A job document of the service's own has no {own}: give its fields (Name, Tasks, …)"
        )
    checked_name(spec.get("Name"))
    as_json("The job document", spec)


def _tasks(given: Any) -> list[_Task]:
    given = structure("tasks of the job spec", given)
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise RefusedError(f"tasks of the job spec is {shown(given)}; give a list of dicts")
    return [_task(one, number) for number, one in enumerate(given, 1)]


def _task(given: Any, number: int) -> _Task:
    task = structure(f"Task {number} in tasks", given)
    check_keys(f"Task {number} in tasks", task, _TASK_KEYS)
    if missing := [key for key in _NEEDED if not task.get(key)]:
        raise RefusedError(f"Task {number} of the job spec lacks {', '.join(missing)}")
    processor = text(f"processor of task {number}", task["processor"])
    if is_id(processor):
        known_id(processor, "mpid", f"processor of task {number}")
    return _Task(
        number,
        text(f"name of task {number}", task.get("name") or processor),
        processor,
        _configuration(task["configuration"], number),
        names(
            f"outputs of task {number}", task["outputs"], "the name of an asset to make, or a list of names"
        ),
        sources(task.get("inputs"), number),
    )


def sources(given: Any, number: int) -> list[Any]:
    """Return what a task reads: indexes of input assets, names of outputs; none if it does not say.

    :param number: of the task, for messages
    """
    if given in (None, ""):
        return []
    is_index = isinstance(given, int) and not isinstance(given, bool)
    wanted = "a list with indexes of input assets, and names of other tasks' outputs"
    return [given] if is_index else items(f"inputs of task {number}", given, wanted)


def _configuration(given: Any, number: int) -> str:
    what = f"configuration of task {number}"
    if isinstance(given, str) and not _is_json(given):
        with suppress(ValueError):
            given = parsed(given, what, ("[", "{"))
    if not isinstance(given, Mapping | list):
        if not isinstance(given, str | int) or isinstance(given, bool):
            raise RefusedError(f"{what} is {shown(given)}; give the name of a preset, a text or a dict")
        given = str(given)
    written = given if isinstance(given, str) else as_json(what, given)
    if len(written) > MAX_CONFIGURATION:
        raise RefusedError(f"{what} has {len(written)} characters; the service takes {MAX_CONFIGURATION}")
    return written


def _is_json(given: str) -> bool:
    try:
        json.loads(given)
    except (RecursionError, ValueError):
        return False
    return True


def _in_order(tasks: list[_Task]) -> list[_Task]:
    """Put each task behind those whose outputs it reads; in the given order, if that will do."""
    makers = {name: index for index, task in enumerate(tasks) for name in task.outputs}
    reads = {
        index: {makers[source] for source in task.inputs if isinstance(source, str) and source in makers}
        for index, task in enumerate(tasks)
    }
    if all(other < index for index, others in reads.items() for other in others):
        return tasks
    try:
        return [tasks[index] for index in TopologicalSorter(reads).static_order()]
    except CycleError as exc:
        circle = " → ".join(f"task {index + 1}" for index in reversed(exc.args[1]))
        raise RefusedError(f"The tasks of the job spec wait for each other's outputs: {circle}") from exc


def _priority(value: Any) -> int:
    if value in (None, ""):
        return 0
    with suppress(ValueError):
        number = int(value) if isinstance(value, str) else value
        if isinstance(number, int) and not isinstance(number, bool) and -(2**31) <= number < 2**31:
            return number
    raise RefusedError(f"The job's priority {shown(value)} is no whole number of 32 bits")


def _task_bodies(tasks: Sequence[_Task], inputs: int) -> list[str]:
    """Write each task's ``TaskBody`` ("Task", TaskBody), numbering the outputs through the whole job."""
    # Whoever only waits needs none, and a DAG file is read often.
    from xml.etree import ElementTree

    outputs: list[str] = []
    bodies = []
    for task in tasks:
        root = ElementTree.Element("taskBody")
        for source in task.inputs or range(inputs):
            reference = _input_reference(source, task.number, inputs, outputs)
            ElementTree.SubElement(root, "inputAsset").text = reference
        for name in task.outputs:
            if name in outputs:
                raise RefusedError(f"Two outputs of the job spec are called {shown(name)}")
            output = ElementTree.SubElement(root, "outputAsset", assetCreationOptions="0", assetName=name)
            output.text = f"JobOutputAsset({len(outputs)})"
            outputs.append(name)
        bodies.append(ElementTree.tostring(root, encoding="unicode"))
    return bodies


def _input_reference(source: Any, number: int, inputs: int, outputs: Sequence[str]) -> str:
    if isinstance(source, str) and source in outputs:
        return f"JobOutputAsset({outputs.index(source)})"
    is_digits = isinstance(source, str) and re.fullmatch(r"[0-9]{1,9}", source) is not None
    index = int(source) if is_digits else source
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < inputs:
        return f"JobInputAsset({index})"
    raise RefusedError(
        f"Task {number} of the job spec reads {shown(source)}, which is neither the index of one of its "
        f"{inputs} input assets nor the name of another task's output"
    )
