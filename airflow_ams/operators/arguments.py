"""What can be said of the submit operator's arguments when the DAG is read, and what they make."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from airflow_ams.api import v2_spec, v3_spec
from airflow_ams.api.errors import RefusedError
from airflow_ams.api.ids import parsed

_V2 = ("name", "input_asset_ids", "tasks")
_V3 = ("transform_name", "job_name", "inputs", "outputs", "correlation_data")
_STRUCTURED = ("job", "input_asset_ids", "tasks", "inputs", "outputs", "correlation_data")
_NAME_CHARACTERS = 200


def check_choice(what: str, value: Any, choices: Collection[str], task_id: Any) -> None:
    """Raise ValueError if a value is none of those that there are."""
    if value not in choices:
        raise ValueError(f"{what} of task '{task_id}' is {value!r}; give one of {', '.join(choices)}")


def spec_of(operator: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a job is to be made of, by the arguments of the operator that were given.

    :raises RefusedError: one that should be a dict is none
    """
    given = {key: operator.get(key) for key in (*_V2, *_V3, "priority", "job")}
    given = {key: _structure(key, value) for key, value in given.items() if value is not None}
    job = given.pop("job", {})
    if not isinstance(job, Mapping):
        raise RefusedError(f"job is {str(job)[:50]!r}; give a dict: the service's own document of a job")
    return {**job, **given}


def named(spec: Mapping[str, Any], default: str) -> dict[str, Any]:
    """Return a spec whose job has a name.

    :param default: its name if it has none; what is too long is cut
    """
    key = "job_name" if is_v3(spec) else v2_spec.name_key(spec)
    return {**spec, key: spec.get(key) or default[:_NAME_CHARACTERS]}


def is_v3(spec: Mapping[str, Any]) -> bool:
    """Whether a spec is for an API with transforms."""
    return any(key in spec for key in (*_V3, "properties"))


def check_arguments(operator: Mapping[str, Any], task_id: Any) -> None:
    """Raise ValueError if no job can be made of the arguments, as far as known without templates."""
    known = {key: operator.get(key) for key in (*_V2, *_V3, "priority", "job")}
    mixed = [[key for key in keys if known[key] is not None] for keys in (_V2, _V3)]
    if all(mixed):
        raise ValueError(
            f"Task '{task_id}' has both {mixed[0][0]}, which is of the v2 API, and {mixed[1][0]}, which is "
            "of the others: give the arguments of one"
        )
    if not any(mixed) and known["job"] is None:
        raise ValueError(
            f"Task '{task_id}' says nothing of what to encode: give {', '.join(_V2)} on the v2 API, "
            f"{', '.join(_V3)} on the others, or job"
        )
    if not all(map(_is_literal, known.values())):
        return
    try:
        spec = named(spec_of(known), "name")
        read = v3_spec.read_spec if is_v3(spec) else v2_spec.read_spec
        read(spec)
    except RefusedError as exc:
        raise ValueError(f"Task '{task_id}': {exc.message}") from exc


def texts_in(value: Any) -> Iterator[str]:
    """Yield all texts that a value holds, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts_in([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def _structure(key: str, value: Any) -> Any:
    """Return what a template has made the text of."""
    try:
        return parsed(value, key, ("[", "{")) if key in _STRUCTURED else value
    except ValueError as exc:
        raise RefusedError(str(exc)) from exc


def _is_literal(value: Any) -> bool:
    """Whether a value holds no template, and nothing that is known only when the task runs."""
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, Mapping):
        return all(map(_is_literal, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return all(map(_is_literal, value))
    return value is None or isinstance(value, int | float)
