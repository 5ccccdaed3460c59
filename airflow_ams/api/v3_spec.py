"""What a v3 job is to be made of.

::

    {
        "transform_name": "encode-720p",
        "job_name": "clip-7",
        "inputs": ["clip-7-source"],  # names of assets, or http(s) URLs
        "outputs": ["clip-7-720p"],  # names of assets, one for each output of the transform
        "priority": "Normal",  # optional: Low, Normal, High
        "correlation_data": {"order": "17"},  # optional
        "description": "…",  # optional
    }

or, for all else that a service takes, its own document::

    {"transform_name": "encode-720p", "job_name": "clip-7", "properties": {"input": {…}, "outputs": […]}}

Templates write lists and dicts as texts; those are read back: a text with brackets, or braces at both ends;
``[clip] a.mp4`` is a name. One input, or output, needs no list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.model import Job
from airflow_ams.api.spec import as_json, check_keys, names, shown, structure, text

MAX_NAME = 260
"""Characters of a job's name ("Jobs - Create")."""

BAD_NAME = re.compile(
    rf"|\.{{1,2}}|.*[\x00-\x1f\x7f/<>?#%\\{{}}\ud800-\udfff].*|.{{{MAX_NAME + 1},}}", re.DOTALL
)
"""No name of a service, or one that would change the path of a request, or be another when read twice."""

PRIORITIES = ("Low", "Normal", "High")

KEYS = (
    "transform_name",
    "job_name",
    "inputs",
    "outputs",
    "priority",
    "correlation_data",
    "description",
    "properties",
)

_IN_PROPERTIES = ("inputs", "outputs", "priority", "correlation_data", "description")

_OUTPUT_KEYS = ("@odata.type", "assetName", "label")
"""What a create may say of an output on MK.IO; the rest is the service's."""


def read_spec(spec: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return the transform, the job's name, and the properties to create it with.

    :raises RefusedError: the spec lacks something, or holds what it cannot
    """
    check_keys("A job spec of this API", spec, KEYS)
    if missing := [key for key in ("transform_name", "job_name") if spec.get(key) in (None, "")]:
        raise RefusedError(f"The job spec lacks {' and '.join(missing)}")
    transform, name = (
        _name(key, text(f"{key} of the job spec", spec[key])) for key in ("transform_name", "job_name")
    )
    given = structure("properties of the job spec", spec.get("properties"))
    if given is not None and (both := [key for key in _IN_PROPERTIES if spec.get(key)]):
        raise RefusedError(f"The job spec holds properties, so it cannot have {', '.join(both)} beside them")
    return transform, name, _properties(spec) if given is None else _checked(given)


def _name(what: str, name: str) -> str:
    if BAD_NAME.fullmatch(name):
        raise RefusedError(
            f"{what} of the job spec is {shown(name)}, which cannot be a name: give 1 to {MAX_NAME} "
            "characters other than / \\ ? # % < > { } and control characters, and not . or .. alone"
        )
    return name


def _checked(properties: Any) -> dict[str, Any]:
    """Return a job document of the service's own, whose outputs become parts of addresses."""
    outputs = properties.get("outputs") if isinstance(properties, Mapping) else None
    if not isinstance(outputs, list) or not all(isinstance(output, Mapping) for output in outputs):
        raise RefusedError("properties of the job spec is no job document: it lacks the list of outputs")
    for output in outputs:
        if "assetName" in output:
            _name("assetName of the outputs", text("assetName of the outputs", output["assetName"]))
    as_json("properties of the job spec", properties)
    return dict(properties)


def _properties(spec: Mapping[str, Any]) -> dict[str, Any]:
    inputs = names("inputs of the job spec", spec.get("inputs"), "names of assets, or http(s) URLs")
    outputs = names(
        "outputs of the job spec", spec.get("outputs"), "the name of an asset, or a list of names"
    )
    each = [_input(given) for given in inputs]
    properties: dict[str, Any] = {
        "input": each[0] if len(each) == 1 else {"@odata.type": "#Microsoft.Media.JobInputs", "inputs": each},
        "outputs": [
            {"@odata.type": "#Microsoft.Media.JobOutputAsset", "assetName": _name("outputs", name)}
            for name in outputs
        ],
    }
    more = {
        "priority": _priority(spec.get("priority")),
        "correlationData": _correlation_data(spec.get("correlation_data")),
        "description": text("description of the job spec", spec.get("description") or ""),
    }
    return properties | {field: value for field, value in more.items() if value}


def _input(given: str) -> dict[str, Any]:
    if given.lower().startswith(("http://", "https://")):
        return {"@odata.type": "#Microsoft.Media.JobInputHttp", "files": [given]}
    return {"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": _name("inputs", given)}


def _priority(given: Any) -> str | None:
    """Return a priority in the service's own spelling; None if there is none."""
    if given in (None, ""):
        return None
    for word in PRIORITIES:
        if isinstance(given, str) and given.strip().lower() == word.lower():
            return word
    raise RefusedError(f"priority of the job spec is {shown(given)}; give one of {', '.join(PRIORITIES)}")


def _correlation_data(given: Any) -> dict[str, str]:
    data = structure("correlation_data of the job spec", given)
    if data in (None, ""):
        return {}
    what = "correlation_data of the job spec"
    if not isinstance(data, Mapping):
        raise RefusedError(f"{what} is {shown(given)}; give a dict of texts by names, all texts")
    return {text(what, name): text(what, value) for name, value in data.items()}


def writes_as_asked(job: Job, properties: Mapping[str, Any]) -> bool:
    """Whether a job writes to the assets that it would if it were created with these properties.

    :param job: as it was read; one that does not say where it writes to is taken to
    """
    asked = [str(output.get("assetName") or "") for output in properties["outputs"]]
    return not job.outputs or sorted(asked) == sorted(output.asset_id for output in job.outputs)


def as_created(job: Job) -> dict[str, Any]:
    """Return input and outputs of a job as a create would have them: without what the service adds.

    :param job: as it was read
    :raises RefusedError: it reads from an address; its signature, if it has one, is not in the answers
    """
    properties = job.raw["properties"]
    if _has_address(properties.get("input")):
        raise RefusedError(
            f"Job {job.id} cannot be changed: its input is an http address, which a change would have to "
            "repeat, and the service does not tell its signature"
        )
    outputs = properties.get("outputs")
    return {
        "input": properties.get("input"),
        "outputs": [
            {key: output[key] for key in _OUTPUT_KEYS if output.get(key)}
            for output in (outputs if isinstance(outputs, list) else ())
            if isinstance(output, Mapping)
        ],
    }


def _has_address(source: Any) -> bool:
    """Whether an input, or one of those that it is made of, is an address."""
    if not isinstance(source, Mapping):
        return False
    nested = source.get("inputs")
    return str(source.get("@odata.type")).endswith("JobInputHttp") or any(
        map(_has_address, nested if isinstance(nested, list) else ())
    )
