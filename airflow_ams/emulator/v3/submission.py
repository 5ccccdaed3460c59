"""What v3 clients send: a transform, or a job that becomes a `JobRequest`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from airflow_ams.emulator.errors import InvalidRequest, NotOffered
from airflow_ams.emulator.jobs import JobRequest, OutputRequest, TaskRequest, check_name
from airflow_ams.emulator.presets import BUILT_IN
from airflow_ams.emulator.records import MEDIA_ENCODER_STANDARD, SCRIPTED, Transform
from airflow_ams.emulator.script import read_script
from airflow_ams.emulator.transforms import SCRIPTED_PRESET
from airflow_ams.emulator.v3.documents import PRIORITIES

_TYPE = "@odata.type"
_BUILT_IN = "#Microsoft.Media.BuiltInStandardEncoderPreset"
_INPUT_ASSET, _INPUT_HTTP = "#Microsoft.Media.JobInputAsset", "#Microsoft.Media.JobInputHttp"
_INPUTS, _OUTPUT_ASSET = "#Microsoft.Media.JobInputs", "#Microsoft.Media.JobOutputAsset"
_ON_ERROR = ("StopProcessingJob", "ContinueJob")


def read_properties(body: bytes) -> dict[str, Any]:
    """Return the object under ``properties`` of the JSON in *body*; an asset may have none.

    :raises InvalidRequest: it is something else.
    """
    return _object(read_object(body).get("properties", {}), "properties")


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in *body*.

    :raises InvalidRequest: it is none.
    """
    try:
        return _object(json.loads(body or b"{}"), "The body")
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON.") from None


def text(properties: Mapping[str, Any], name: str) -> str | None:
    """Return a text, None if it is not there.

    :raises InvalidRequest: it is something else.
    """
    value = properties.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"'{name}' is a text, not {value!r}.")
    return value


def read_priority(properties: Mapping[str, Any]) -> int | None:
    """Return a job's priority, None if none is given."""
    return (
        None
        if properties.get("priority") is None
        else PRIORITIES[_one_of(properties, "priority", PRIORITIES)]
    )


def read_correlation(properties: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a job's correlationData, None if there is none."""
    value = properties.get("correlationData")
    if value is None:
        return None
    if not all(isinstance(entry, str) for entry in _object(value, "correlationData").values()):
        raise InvalidRequest("'correlationData' is an object of texts.")
    return dict(value)


def read_transform_outputs(properties: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the outputs of a transform, with the defaults filled in.

    :raises InvalidRequest: they are none, or a preset is unknown.
    :raises NotOffered: a preset is one that the emulator leaves out.
    """
    outputs = []
    for output in _objects(properties, "outputs"):
        preset = _object(output.get("preset"), "preset")
        _configuration(preset)
        on_error = _one_of({"onError": _ON_ERROR[0], **output}, "onError", _ON_ERROR)
        priority = _one_of({"relativePriority": "Normal", **output}, "relativePriority", PRIORITIES)
        outputs.append({"onError": on_error, "relativePriority": priority, "preset": preset})
    return outputs


def read_job(
    properties: Mapping[str, Any], transform: Transform, name: str, input_asset: Callable[[str], str]
) -> JobRequest:
    """Return the job that *properties* ask for; Job (REST reference).

    :param properties: the decoded JSON.
    :param transform: what it is to be a job of.
    :param name: the job's name.
    :param input_asset: gives the identifier of an asset by its name, or raises.
    :raises InvalidRequest: it is not a job of that transform.
    :raises NotOffered: it uses an input or a preset that the emulator leaves out.
    """
    check_name(name)
    outputs = _objects(properties, "outputs")
    works = [_configuration(_preset(output, transform, number)) for number, output in enumerate(outputs)]
    scripted = works[0][0] == SCRIPTED
    if not scripted and len(outputs) != len(transform.outputs):
        raise InvalidRequest(f"The transform has {len(transform.outputs)} output(s), the job {len(outputs)}.")
    source = _object(properties.get("input"), "input")
    asset, url = _read_input(source)
    # A script does not read its input, so one that is not there does no harm.
    inputs = () if asset is None or scripted else (input_asset(asset),)
    tasks = [
        TaskRequest(
            processor=processor,
            configuration=configuration,
            outputs=(_output_request(number, output),),
            job_inputs=(0,) if inputs else (),
            name=text(output, "label") or name,
            body=_task_body(number, has_input=bool(inputs)),
            url=url,
            label=text(output, "label") or "",
            tolerated=_tolerated(transform, number),
            preset_override=output.get("presetOverride"),
        )
        for number, (output, (processor, configuration)) in enumerate(zip(outputs, works, strict=True))
    ]
    return JobRequest(
        name=name,
        tasks=tuple(tasks),
        inputs=inputs,
        priority=read_priority(properties) or 0,
        transform=transform.name,
        job_name=name,
        description=text(properties, "description"),
        correlation=read_correlation(properties),
        input=source,
    )


def _preset(output: Mapping[str, Any], transform: Transform, number: int) -> Mapping[str, Any]:
    """Return the preset of a job's output; with more outputs than the transform has, its first (scripts)."""
    if output.get("presetOverride") is not None:
        return _object(output["presetOverride"], "presetOverride")
    if not transform.outputs:
        raise InvalidRequest(f"No jobs can be made of the transform '{transform.name}'.")
    preset: dict[str, Any] = transform.outputs[number if number < len(transform.outputs) else 0]["preset"]
    return preset


def _tolerated(transform: Transform, number: int) -> bool:
    return number < len(transform.outputs) and transform.outputs[number]["onError"] == "ContinueJob"


def _configuration(preset: Mapping[str, Any]) -> tuple[str, str]:
    """Return what does the work of a preset, and the configuration that tells it what to do."""
    kind = preset.get(_TYPE)
    if kind == SCRIPTED_PRESET:
        script = preset.get("script", {})
        read_script(script)
        return SCRIPTED, json.dumps(script)
    if kind == _BUILT_IN:
        name = preset.get("presetName")
        if name not in BUILT_IN:
            raise InvalidRequest(f"Unknown presetName {name!r}. Known: {', '.join(BUILT_IN)}.")
        return MEDIA_ENCODER_STANDARD, str(name)
    if isinstance(kind, str) and kind.startswith(("#Microsoft.Media.", "#MediaKind.")):
        raise NotOffered(kind)
    raise InvalidRequest(f"A preset has an '{_TYPE}', for instance '{_BUILT_IN}', not {kind!r}.")


def _read_input(document: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the name of the input asset, or the URL of the input; one is None.

    One file a job is what RMS documents.
    """
    kind = document.get(_TYPE)
    if kind == _INPUTS:
        entries = _objects(document, "inputs")
        if len(entries) != 1:
            raise InvalidRequest(f"A job has one input, not {len(entries)}.")
        return _read_input(entries[0])
    if kind == _INPUT_ASSET:
        name = text(document, "assetName")
        if not name:
            raise InvalidRequest("'assetName' of the input is missing.")
        return name, None
    if kind == _INPUT_HTTP:
        files = document.get("files")
        if not isinstance(files, list) or len(files) != 1 or not isinstance(files[0], str):
            raise InvalidRequest("'files' of the input is a list of one text.")
        url = (text(document, "baseUri") or "") + files[0]
        if not url.lower().startswith(("http://", "https://")):
            raise InvalidRequest("The input is not at an http or https URL.")
        return None, url
    if isinstance(kind, str) and kind.startswith("#Microsoft.Media."):
        raise NotOffered(kind)
    raise InvalidRequest(f"The input has an '{_TYPE}', for instance '{_INPUT_ASSET}', not {kind!r}.")


def _output_request(number: int, document: Mapping[str, Any]) -> OutputRequest:
    if document.get(_TYPE) != _OUTPUT_ASSET:
        raise InvalidRequest(f"The '{_TYPE}' of an output is '{_OUTPUT_ASSET}', not {document.get(_TYPE)!r}.")
    name = check_name(text(document, "assetName") or "")
    if not name:
        raise InvalidRequest("'assetName' of an output is missing.")
    return OutputRequest(number, name, asset_name=name)


def _task_body(number: int, *, has_input: bool) -> str:
    """Return what v2 shows as the body of the task."""
    source = "<inputAsset>JobInputAsset(0)</inputAsset>" if has_input else ""
    output = f"<outputAsset>JobOutputAsset({number})</outputAsset>"
    return f'<?xml version="1.0" encoding="utf-16"?><taskBody>{source}{output}</taskBody>'


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} is a JSON object, not {value!r}.")
    return value


def _objects(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = document.get(name)
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"'{name}' is a list with at least one entry.")
    return [_object(entry, f"An entry of '{name}'") for entry in value]


def _one_of(document: Mapping[str, Any], name: str, known: Collection[str]) -> str:
    value = document[name]
    if not isinstance(value, str) or value not in known:
        raise InvalidRequest(f"'{name}' is one of {', '.join(known)}, not {value!r}.")
    return value
