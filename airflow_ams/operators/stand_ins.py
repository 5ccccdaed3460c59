"""Stand-ins for what is known only when a task runs, so that the rest can be checked when the DAG is read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from airflow_ams.api import v2_spec
from airflow_ams.api.spec import structure

UNKNOWN = "{{ unknown }}"
"""Stands for what is not said yet."""

_MOST_INPUTS = 100
_ASSET_ID = "nb:cid:UUID:00000000-0000-4000-8000-000000000000"
_OPTIONAL = ("priority", "correlation_data", "description")
_numbers = count()


def is_open(value: Any) -> bool:
    """Whether a value is known only when the task runs: a template, or another task's output."""
    if isinstance(value, str):
        return any(mark in value for mark in ("{{", "{%", "{#"))
    return callable(getattr(value, "resolve", None))


def with_stand_ins(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec of which all is known; what was not passes every check that has to do with it alone."""
    said = {key: value for key, value in spec.items() if not (key in _OPTIONAL and is_open(value))}
    return {key: _READERS.get(key, _named)(value) for key, value in said.items()}


def _is_known(value: Any) -> bool:
    """Whether a value is known, however deep."""
    if isinstance(value, Mapping):
        return all(map(_is_known, value.values()))
    return all(map(_is_known, value)) if isinstance(value, list | tuple) else not is_open(value)


def _named(value: Any) -> Any:
    """Put a text of its own in place of each part of a value that is not known."""
    if isinstance(value, Mapping):
        return {key: _named(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_named(part) for part in value]
    return f"unknown {next(_numbers)}" if is_open(value) else value


def _asset_ids(value: Any) -> Any:
    """Stand in for ids; if it is not known how many there are, for as many as a job may have."""
    if isinstance(value, list | tuple):
        return [_ASSET_ID if is_open(part) else part for part in value]
    return [_ASSET_ID] * _MOST_INPUTS if is_open(value) else value


def _properties(value: Any) -> Any:
    """Stand in for a document of the service's own; of one that is not all known, outputs alone remain."""
    if _is_known(value):
        return value
    outputs = value.get("outputs") if isinstance(value, Mapping) else []
    return {"outputs": outputs if _is_known(outputs) else []}


def _tasks(value: Any) -> Any:
    """Stand in for tasks, or for what is not known of them."""
    value = [UNKNOWN] if is_open(value) else structure("tasks of the job spec", value)
    if not isinstance(value, list | tuple):
        return value
    tasks = [
        dict.fromkeys(("processor", "configuration", "outputs"), UNKNOWN) if is_open(task) else task
        for task in value
    ]
    outputs = [task.get("outputs") for task in tasks if isinstance(task, Mapping)]
    names = None if _is_known(outputs) else _texts(outputs)
    return [
        _named(_with_known_inputs(task, number, names)) if isinstance(task, Mapping) else task
        for number, task in enumerate(tasks, 1)
    ]


def _with_known_inputs(task: Mapping[str, Any], number: int, names: set[str] | None) -> dict[str, Any]:
    """Leave out the inputs of a task of which nothing can be said.

    :param names: the outputs that are known, if others are not; any other name may be one of those
    """
    inputs = task.get("inputs")
    known = [
        source
        for source in ([] if is_open(inputs) else v2_spec.sources(inputs, number))
        if not is_open(source) and (names is None or not isinstance(source, str) or source in names)
    ]
    return {**task, "inputs": known}


def _texts(outputs: list[Any]) -> set[str]:
    each = [name for given in outputs for name in (given if isinstance(given, list | tuple) else [given])]
    return {name for name in each if isinstance(name, str)}


_READERS = {"input_asset_ids": _asset_ids, "tasks": _tasks, "properties": _properties}
