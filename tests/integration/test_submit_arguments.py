"""What the submit operator is given: templates, texts, documents, and mistakes."""

from __future__ import annotations

import json
from collections import UserList
from typing import TYPE_CHECKING, Any

import pytest

from airflow_ams.exceptions import AmsRefused
from tests.integration.submits import Try, creates, encode, operator
from tests.integration.waits import WIRES, all_apis, on

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_ams.emulator.process import Emulator
ASSET = "nb:cid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
TASK = {
    "processor": "Media Encoder Standard",
    "configuration": "H264 Single Bitrate 720p",
    "outputs": ["out"],
}
V2: dict[str, Any] = {"name": "clip", "input_asset_ids": [ASSET], "tasks": [TASK]}
V3: dict[str, Any] = {"transform_name": "t", "job_name": "clip", "inputs": ["a"], "outputs": ["b"]}


@pytest.mark.parametrize("given", [V2, V3])
def test_mistakes_in_templates_are_found_before_a_request(ams_emulator: Emulator, given: Any) -> None:
    """What is known only when the task runs ends it without a retry; nothing was sent."""
    ams_emulator.api = "v2" if given is V2 else "arm"
    made = operator(dict.fromkeys(given, "{{ params.x }}"))
    for key in given:
        setattr(made, key, [])
    with pytest.raises(AmsRefused):
        Try().run(made)
    assert not [r for r in ams_emulator.requests() if "token" not in r["path"] and "OAuth" not in r["path"]]


BROKEN: dict[str, list[dict[str, Any]]] = {
    "v2": [
        {"tasks": [{**TASK, "configuration": {"a": b"1"}}]},
        {"tasks": [{**TASK, "outputs": 5.5}]},
        {"priority": float("inf")},
        {"name": ["a"]},
        {"name": "x" * 235},
    ],
    "others": [
        {"correlation_data": {"a": b"1"}},
        {"outputs": ["../.."]},
        {"priority": 0},
        {"inputs": "a/b"},
        {"job_name": "x" * 239},
    ],
}


@all_apis
@pytest.mark.parametrize("number", range(5))
def test_mistakes_that_a_template_makes_are_found_before_a_request(ams: Emulator, number: int) -> None:
    """No bare error of Python's comes of any of them."""
    broken = BROKEN["v2" if ams.api == "v2" else "others"][number]
    made = operator({**(V2 if ams.api == "v2" else V3), **dict.fromkeys(broken, "{{ params.x }}")})
    for argument, value in broken.items():
        setattr(made, argument, value)
    with pytest.raises(AmsRefused):
        Try().run(made)
    assert not [r for r in ams.requests() if "token" not in r["path"] and "OAuth" not in r["path"]]


@all_apis
def test_the_other_apis_arguments_are_refused(ams: Emulator) -> None:
    """The message says what the connection's API takes."""
    with pytest.raises(AmsRefused, match=r"A job spec of .* API has no \["):
        Try().run(operator(V3 if ams.api == "v2" else V2))
    assert creates(ams) == 0


@on("v2")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"processor": "No Such Encoder"}, "no media processor 'No Such Encoder'"),
        ({"processor": f"nb:mpid:UUID:{ASSET[-36:]}"}, f"nb:mpid:UUID:{ASSET[-36:]}"),
    ],
)
def test_a_processor_that_is_not_there(ams: Emulator, changes: dict[str, str], said: str) -> None:
    """The message names it."""
    given = encode(ams)
    given["tasks"] = [{**TASK, **changes}]
    with pytest.raises(AmsRefused, match=said):
        Try().run(operator(given))
    assert creates(ams) == 0


@on("v2")
def test_a_preset_that_is_not_there(ams: Emulator, tmp_path: Path) -> None:
    """The service takes the job, and fails it with its reason."""
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    given = {**V2, "input_asset_ids": ams.upload(tmp_path / "clip.mp4")}
    given["tasks"] = [{**TASK, "configuration": "H264 Imaginary"}]
    with pytest.raises(Exception, match=r"ErrorParsingConfiguration.*H264 Imaginary"):
        Try().run(operator(given))


@on("arm", "rms", "mkio")
def test_a_transform_that_is_not_there(ams: Emulator) -> None:
    """The message names it."""
    with pytest.raises(AmsRefused, match="transform 'imaginary'"):
        Try().run(operator({**V3, "transform_name": "imaginary"}))
    assert not [r for r in ams.requests("assets/") if r["method"] == "PUT"]


@on("v2")
def test_an_input_that_is_not_there(ams: Emulator) -> None:
    """The service does not say which; the message says what was asked for."""
    with pytest.raises(AmsRefused, match=f"not found.*input_asset_ids {ASSET}"):
        Try().run(operator({**V2, "input_asset_ids": ASSET}))


@on("arm", "rms", "mkio")
@pytest.mark.parametrize("name", ["a/b", "a?b", "..", "a%2Fb"])
def test_a_name_that_cannot_be(ams: Emulator, name: str) -> None:
    """It would change the address; nothing is sent."""
    made = operator({**V3, "job_name": "{{ params.name }}"})
    made.job_name = name
    with pytest.raises(AmsRefused, match="job_name of the job spec"):
        Try().run(made)
    assert not list(ams.requests(WIRES[ams.api].job))


@on("mkio")
@pytest.mark.parametrize("name", ["-clip", "clip ü", "a b", "a:b"])
def test_a_name_that_mkio_refuses(ams: Emulator, name: str) -> None:
    """Nothing is sent here, either."""
    with pytest.raises(AmsRefused, match="cannot be the name of a job on MK"):
        Try().run(operator({**V3, "job_name": name}))
    assert not list(ams.requests(WIRES[ams.api].job))


@on("rms", "mkio")
def test_signatures_in_a_mapped_tasks_outputs_are_masked(ams: Emulator) -> None:
    """They are read when the task is about to run."""
    from airflow.providers.common.compat.sdk import redact

    signature = f"of{ams.api}%2Foutputs"
    url = f"https://clips.blob.example/7.mp4?sv=2024&sig={signature}"
    made = operator(encode(ams), wait_for_completion=False)
    made.inputs = UserList([url])
    Try().run(made)
    assert signature not in str(redact({"inputs": [url]}))


@all_apis
def test_arguments_may_be_texts(ams: Emulator) -> None:
    """So a template makes them unless the DAG renders native objects."""
    given = encode(ams, states=["Finished"])
    texts = {
        k: v if isinstance(v, str) else (json.dumps(v) if n % 2 else str(v))
        for n, (k, v) in enumerate(given.items())
    }
    assert Try().run(operator(texts))["state"] == "Finished"


@all_apis
def test_a_spec_of_the_hook_is_one_argument(ams: Emulator) -> None:
    """`job` takes what `AmsHook.submit_job` does, as a dict or a text."""
    given = encode(ams, states=["Finished"])
    assert Try().run(operator({"job": given}))["state"] == "Finished"
    assert Try(run_id="manual__2").run(operator({"job": json.dumps(given)}))["state"] == "Finished"


@all_apis
def test_the_services_own_document(ams: Emulator) -> None:
    """It is sent as it is, but for the name."""
    given = encode(ams, states=["Finished"])
    if ams.api == "v2":
        from airflow_ams.api.v2_spec import read_spec

        document, inputs = read_spec(given)
        document["Tasks"][0]["MediaProcessorId"] = "nb:mpid:UUID:5c819ed0-0000-4000-8000-a1f10a35c819"
        uri = f"{ams.base_url}Assets('{inputs[0]}')"
        job = {**document, "InputMediaAssets": [{"__metadata": {"uri": uri}}]}
        made = operator({"job": job})
    else:
        properties = {
            "input": {"@odata.type": "#Microsoft.Media.JobInputAsset", "assetName": "source"},
            "outputs": [{"@odata.type": "#Microsoft.Media.JobOutputAsset", "assetName": "out"}],
        }
        names = {"transform_name": given["transform_name"], "job_name": "clip"}
        made = operator({**names, "job": {"properties": properties}})
    done = Try().run(made)
    assert done["state"] == "Finished"
    assert done["name"].startswith("clip-")


@all_apis
def test_a_job_without_a_name_has_the_tasks(ams: Emulator) -> None:
    """DAG and task, so that people find it in a portal; in characters that each service takes."""
    given = encode(ams, states=["Finished"])
    given.pop("name", None)
    given.pop("job_name", None)
    one = Try(dag_id="_nightly.ü")
    assert one.run(operator(given))["name"].startswith("nightly-encode-")


@all_apis
def test_priority_and_correlation_data_arrive(ams: Emulator) -> None:
    """Each API's own."""
    given = encode(ams, states=["Finished"])
    more: dict[str, Any] = (
        {"priority": 7} if ams.api == "v2" else {"priority": "High", "correlation_data": {"o": "17"}}
    )
    made = operator({**given, **more})
    job = Try().run(made)
    with made.hook as hook:
        found = hook.get_job(job["id"])
    assert found.priority == more["priority"]
    if ams.api != "v2":
        assert found.raw["properties"]["correlationData"] == {"o": "17"}


@all_apis
def test_templates_are_rendered_however_deep(ams: Emulator) -> None:
    """In lists of dicts, too; what is no text stays what it is."""
    given = encode(ams, states=["Finished"])
    params = {"word": "nested", "out": "out", "n": 7}
    if ams.api == "v2":
        task = {
            **given["tasks"][0],
            "name": "{{ params.word }}",
            "outputs": ["{{ params.out }} {{ run_id }}"],
        }
        made = operator({**given, "tasks": [task], "priority": "{{ params.n }}"})
    else:
        data = {"word": "{{ params.word }}"}
        made = operator({**given, "outputs": ["{{ params.out }} {{ run_id }}"], "correlation_data": data})
    made.render_template_fields({"params": params, "run_id": "r1"})
    job = Try().run(made)
    assert [output["name"] for output in job["outputs"]] == ["out r1"]
    with made.hook as hook:
        found = hook.get_conn().with_tasks(hook.get_job(job["id"]))
    if ams.api == "v2":
        assert found.priority == 7
        assert [task.name for task in found.tasks] == ["nested"]
    else:
        assert found.raw["properties"]["correlationData"] == {"word": "nested"}


@all_apis
def test_nested_texts_of_lists_and_dicts_are_read(ams: Emulator) -> None:
    """So a template makes them of a list or dict in another; one asset is made for each name."""
    given = encode(ams, states=["Finished"])
    if ams.api == "v2":
        (task,) = given["tasks"]
        texts = {"outputs": "['a']", "inputs": ["0"], "configuration": str(task["configuration"])}
        given["tasks"] = [str({**task, **texts})]
    else:
        given |= {"outputs": "['a']", "inputs": "[clip] a.mp4"}
    assert [output["name"] for output in Try().run(operator(given))["outputs"]] == ["a"]
