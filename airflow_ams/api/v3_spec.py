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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.model import Job, without_signatures

MAX_NAME = 260
"""Characters of a job's name ("Jobs - Create")."""

_KEYS = (
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
    if not isinstance(spec, Mapping):
        raise RefusedError(f"A job spec is {str(spec)[:50]!r}; give a dict with {', '.join(_KEYS)}")
    if unknown := sorted(set(spec) - set(_KEYS)):
        raise RefusedError(f"A job spec of this API has no {unknown}; it has {', '.join(_KEYS)}")
    if missing := [key for key in ("transform_name", "job_name") if not spec.get(key)]:
        raise RefusedError(f"The job spec lacks {' and '.join(missing)}")
    properties = spec.get("properties")
    if properties is not None and (both := [key for key in _IN_PROPERTIES if spec.get(key)]):
        raise RefusedError(f"The job spec holds properties, so it cannot have {', '.join(both)} beside them")
    if properties is None:
        properties = _properties(spec)
    elif not isinstance(properties, Mapping) or not _are_outputs(properties.get("outputs")):
        raise RefusedError("properties of the job spec is no job document: it lacks the list of outputs")
    return str(spec["transform_name"]), str(spec["job_name"]), dict(properties)


def _are_outputs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(output, Mapping) and isinstance(output.get("assetName", ""), str) for output in value
    )


def _properties(spec: Mapping[str, Any]) -> dict[str, Any]:
    inputs, outputs = _texts(spec, "inputs"), _texts(spec, "outputs")
    each = [_input(text) for text in inputs]
    properties: dict[str, Any] = {
        "input": each[0] if len(each) == 1 else {"@odata.type": "#Microsoft.Media.JobInputs", "inputs": each},
        "outputs": [
            {"@odata.type": "#Microsoft.Media.JobOutputAsset", "assetName": name} for name in outputs
        ],
    }
    for key, field in (("priority", "priority"), ("correlation_data", "correlationData")):
        if spec.get(key):
            properties[field] = spec[key]
    if spec.get("description"):
        properties["description"] = str(spec["description"])
    return properties


def _input(text: str) -> dict[str, Any]:
    if text.startswith(("http://", "https://")):
        return {"@odata.type": "#Microsoft.Media.JobInputHttp", "files": [text]}
    return {"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": text}


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


def _texts(spec: Mapping[str, Any], key: str) -> Sequence[str]:
    given = spec.get(key)
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(t, str) and t for t in texts):
        shown = without_signatures(str(given))[:200]
        raise RefusedError(f"{key} of the job spec is {shown!r}; give a list of names")
    return texts
