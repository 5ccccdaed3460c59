"""What can be said of the submit operator's arguments when the DAG is read, and what they make."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from airflow_ams.api import v2_spec, v3_spec
from airflow_ams.api.errors import RefusedError
from airflow_ams.api.spec import shown, structure
from airflow_ams.api.submission import marked
from airflow_ams.operators.stand_ins import UNKNOWN, is_open, with_stand_ins

_V2 = tuple(key for key in v2_spec.KEYS if key not in v3_spec.KEYS)
_V3 = tuple(key for key in v3_spec.KEYS if key not in v2_spec.KEYS)
_ARGUMENTS = dict.fromkeys((*v2_spec.KEYS, *v3_spec.KEYS, "job"))
_NAME_CHARACTERS = 200


def check_choice(what: str, value: Any, choices: Collection[str], task_id: Any) -> None:
    """Raise ValueError if a value is none of those that there are."""
    if value not in choices:
        raise ValueError(f"{what} of task '{task_id}' is {value!r}; give one of {', '.join(choices)}")


def spec_of(operator: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a job is to be made of, by the arguments of the operator that were given.

    :raises RefusedError: one that should be a dict is none
    """
    given = _plain(_given(operator))
    job = structure("job", given.pop("job", {}))
    if not isinstance(job, Mapping):
        raise RefusedError(f"job is {shown(job)}; give a dict: the service's own document of a job")
    return {**job, **given}


def named(spec: Mapping[str, Any], default: str) -> dict[str, Any]:
    """Return a spec whose job has a name, to which a mark can be added.

    :param default: its name if it has none; what is too long, or no service's, is cut
    :raises RefusedError: there is no room for the mark
    """
    key = "job_name" if is_v3(spec) else v2_spec.name_key(spec)
    most = v3_spec.MAX_NAME if is_v3(spec) else v2_spec.MAX_NAME
    name = _anywhere(default) if spec.get(key) in (None, "") else spec[key]
    marked(str(name), "", "", most)
    return {**spec, key: name}


def _anywhere(name: str) -> str:
    """Return what every service takes for a name: ASCII letters and digits, and hyphens between them."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)[:_NAME_CHARACTERS].strip("-") or "job"


def is_v3(spec: Mapping[str, Any]) -> bool:
    """Whether a spec is for an API with transforms."""
    return any(key in spec for key in _V3)


def check_arguments(operator: Mapping[str, Any], task_id: Any) -> None:
    """Raise ValueError if no job can be made of the arguments, as far as known without templates."""
    given = _given(operator)
    _check_is_of_one_api(given, task_id)
    if not any(key in given for key in (*_V2, *_V3, "job")):
        raise ValueError(
            f"Task '{task_id}' says nothing of what to encode: give input_asset_ids and tasks on the v2 API, "
            "transform_name, inputs and outputs on the others, or job"
        )
    if is_open(given.get("job")):
        check_partial_arguments(given, task_id)
        return
    with _as_value_error(task_id):
        _check(spec_of(given))


def check_partial_arguments(kwargs: Mapping[str, Any], task_id: Any) -> None:
    """Raise ValueError if no job can be made of the arguments, whatever is added to them.

    :param kwargs: those of a mapped task that are not mapped, and any others
    """
    given = _given(kwargs)
    _check_is_of_one_api(given, task_id)
    with _as_value_error(task_id):
        spec = spec_of({key: value for key, value in given.items() if key != "job" or not is_open(value)})
        if v2_spec.is_document(spec):
            _check(spec)
        elif is_v3(spec):
            rest = ("transform_name", *(() if "properties" in spec else ("inputs", "outputs")))
            _check({**dict.fromkeys(rest, UNKNOWN), **spec})
        elif any(key in spec for key in _V2):
            _check({"input_asset_ids": UNKNOWN, "tasks": UNKNOWN, **spec})


def texts_in(value: Any) -> Iterator[str]:
    """Yield all texts that a value holds, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts_in([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def _plain(value: Any) -> Any:
    """Make lists of what Airflow hands over in their place: the outputs of a mapped task."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_plain(part) for part in value]
    return value


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: arguments[key] for key in _ARGUMENTS if arguments.get(key) is not None}


def _check_is_of_one_api(given: Mapping[str, Any], task_id: Any) -> None:
    mixed = [[key for key in keys if key in given] for keys in (_V2, _V3)]
    if all(mixed):
        raise ValueError(
            f"Task '{task_id}' has both {mixed[0][0]}, which is of the v2 API, and {mixed[1][0]}, which is "
            "of the others: give the arguments of one"
        )


def _check(spec: Mapping[str, Any]) -> None:
    spec = named(with_stand_ins(spec), "name")
    read = v3_spec.read_spec if is_v3(spec) else v2_spec.read_spec
    read(spec)


@contextmanager
def _as_value_error(task_id: Any) -> Iterator[None]:
    try:
        yield
    except RefusedError as exc:
        raise ValueError(f"Task '{task_id}': {exc.message}") from exc
