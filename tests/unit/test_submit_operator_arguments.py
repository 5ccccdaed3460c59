"""What the submit operator is given, before it runs: mistakes, templates, and what is mapped."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_ams.api import v2_spec, v3_spec
from airflow_ams.operators.ams import AmsSubmitJobOperator
from airflow_ams.operators.arguments import check_partial_arguments, named, spec_of

ASSET = "nb:cid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
TASK = {
    "processor": "Media Encoder Standard",
    "configuration": "H264 Single Bitrate 720p",
    "outputs": ["out"],
}
V2: dict[str, Any] = {"name": "clip", "input_asset_ids": [ASSET], "tasks": [TASK]}
V3: dict[str, Any] = {"transform_name": "t", "job_name": "clip", "inputs": ["a"], "outputs": ["b"]}


def chain(*tasks: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with these tasks, each a change of the usual one."""
    return {**V2, "tasks": [{**TASK, **task} for task in tasks]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "says nothing of what to encode"),
    "both APIs": ({**V2, **V3}, "both name.*and transform_name"),
    "no input": ({**V2, "input_asset_ids": []}, "input_asset_ids"),
    "no input of v3": ({**V3, "inputs": []}, "inputs of the job spec"),
    "no output of v3": ({**V3, "outputs": None}, "outputs of the job spec"),
    "no transform": ({**V3, "transform_name": ""}, "lacks transform_name"),
    "no id": ({**V2, "input_asset_ids": "x"}, "nb:cid:UUID"),
    "a circle": (
        chain({"inputs": ["b"], "outputs": ["a"]}, {"inputs": ["a"], "outputs": ["b"]}),
        "wait for each other",
    ),
    "no such output": (chain({"inputs": ["nowhere"]}), "'nowhere'"),
    "one output twice": (chain({}, {}), "'out'"),
    "no preset": (chain({"configuration": ""}), "lacks configuration"),
    "a long name": ({**V2, "name": "x" * 257}, "257 characters"),
    "no list": ({**V2, "tasks": "[{"}, "tasks of the job spec is.*give a list of dicts"),
    "a list that is none": ({**V2, "tasks": "[{]"}, "tasks.*looks like a list"),
    "no room for a mark": ({**V2, "name": "x" * 235}, "235 characters; give it 234 at most"),
    "no room for a mark on v3": ({**V3, "job_name": "x" * 239}, "239 characters; give it 238 at most"),
    "no room in a document": ({"job": {"Name": "x" * 235, "Tasks": []}}, "235 characters"),
    "a name with a slash": ({**V3, "job_name": "a/b"}, "job_name of the job spec is 'a/b'.*other than /"),
    "a name with a query": ({**V3, "job_name": "a?b#c"}, "job_name"),
    "no name": ({**V3, "job_name": ".."}, "job_name"),
    "a transform with a slash": ({**V3, "transform_name": "a/b"}, "transform_name"),
    "an output with a slash": ({**V3, "outputs": ["../.."]}, "outputs.*'../..'"),
    "an input with a slash": ({**V3, "inputs": "a/b"}, "inputs.*'a/b'"),
    "a list for a name": ({**V2, "name": ["a"]}, "name"),
    "a number for inputs": ({**V2, "input_asset_ids": 5}, "input_asset_ids '?5"),
    "a number for outputs": (chain({"outputs": 5.5}), "outputs of task 1"),
    "a number for a task's inputs": (chain({"inputs": 1}), "reads '1'"),
    "no priority": ({**V2, "priority": float("inf")}, "priority 'inf'"),
    "a number for a word": ({**V3, "priority": 5}, "priority.*give one of Low, Normal, High"),
    "no normal priority": ({**V3, "priority": 0}, "priority.*give one of Low, Normal, High"),
    "no text": (chain({"configuration": {"a": b"1"}}), "configuration of task 1.*bytes"),
    "no texts": ({**V3, "correlation_data": {"a": b"1"}}, "correlation_data"),
    "no JSON": ({"job": {"Tasks": [{"Configuration": {1}}]}}, "job document.*set"),
    "no tasks": ({"input_asset_ids": [ASSET]}, "lacks tasks$"),
    "no dict": ({"job": ["Tasks"]}, "give a dict"),
    "a word": ({**V2, "resubmit": "maybe"}, "resubmit.*'maybe'"),
    "no seconds": ({**V2, "poke_interval": "soon"}, "poke_interval"),
    "too often": ({**V2, "poke_interval": 0.5}, "at least 1 s"),
    "two documents": ({"job": {"Tasks": []}, "input_asset_ids": [ASSET]}, "input_asset_ids"),
}


@pytest.mark.parametrize(("given", "said"), BAD.values(), ids=BAD)
def test_mistakes_are_found_when_the_dag_is_read(given: dict[str, Any], said: str) -> None:
    """As far as they can be; the message names the task, or the argument."""
    with pytest.raises((TypeError, ValueError), match=said):
        AmsSubmitJobOperator(task_id="encode", **given)


LITERAL: dict[str, tuple[dict[str, Any], str]] = {
    "a circle": (
        chain({"inputs": ["b"], "outputs": ["a"]}, {"inputs": ["a"], "outputs": ["b"]}),
        "wait for each other",
    ),
    "no tasks": ({**V2, "tasks": None}, "lacks tasks"),
    "tasks that are none": ({**V2, "tasks": []}, "lacks tasks"),
    "a task that is none": ({**V2, "tasks": [{"foo": 1}]}, "foo"),
    "a priority": ({**V2, "priority": "High"}, "priority 'High'"),
    "a name": ({**V2, "name": "x" * 235}, "234 at most"),
    "a name of no output": (chain({"inputs": ["nowhere"]}), "'nowhere'"),
    "no transform": ({**V3, "transform_name": None}, "lacks transform_name"),
    "no output": ({**V3, "outputs": None}, "outputs of the job spec"),
    "a name of v3": ({**V3, "job_name": "a/b"}, "job_name"),
    "a priority of v3": ({**V3, "priority": 5}, "priority"),
    "one text of two": ({**V3, "correlation_data": {"a": 5.5, "b": "{{ x }}"}}, "correlation_data"),
}


@pytest.mark.parametrize(("given", "said"), LITERAL.values(), ids=LITERAL)
def test_mistakes_beside_a_template_are_found_when_the_dag_is_read(given: dict[str, Any], said: str) -> None:
    """One template does not keep the rest from being checked."""
    templated = "inputs" if "job_name" in given else "input_asset_ids"
    with pytest.raises(ValueError, match=said):
        AmsSubmitJobOperator(task_id="encode", **{**given, templated: "{{ params.a }}"})


DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)
with DAG("submits", schedule=None, start_date=DAY) as dag:
    UPSTREAM = AmsSubmitJobOperator(task_id="upstream", **V3).output


@pytest.mark.parametrize(
    "given",
    [
        {**chain({"inputs": [3, "7"]}), "input_asset_ids": UPSTREAM},
        chain({"outputs": ["{{ params.x }}"]}, {"inputs": ["nowhere"]}),
        chain({"outputs": ["{{ params.x }}"]}, {"outputs": ["{{ params.x }}"], "inputs": "{{ params.x }}"}),
        chain({"inputs": ["{{ params.x }}"]}, {"outputs": UPSTREAM, "configuration": {"a": UPSTREAM}}),
        {**V2, "tasks": ["{{ params.task }}", {**TASK, "inputs": ["nowhere"]}]},
        {**V2, "tasks": [UPSTREAM]},
        {**V2, "tasks": UPSTREAM, "priority": "{{ params.n }}", "input_asset_ids": ["{{ params.a }}", ASSET]},
        {**V2, "name": "{{ 'x' }}" * 100},
        {**V3, "transform_name": "{{ a / b }}", "inputs": ["{{ params.a }}"], "outputs": UPSTREAM},
        {
            **V3,
            "priority": UPSTREAM,
            "correlation_data": {"a": UPSTREAM},
            "job_name": "{% if a %}b{% endif %}",
        },
        {"job": "{{ params.job }}"},
        {"job": UPSTREAM, "priority": "High"},
        {"job": UPSTREAM, "job_name": "clip"},
        {"job": {**V3, "outputs": "{{ params.outputs }}"}},
        {"job": {"transform_name": "t", "properties": {"input": UPSTREAM, "outputs": [UPSTREAM]}}},
        {"job": {"transform_name": "t", "properties": "{{ params.properties }}"}},
        {"job": {"Name": "{{ params.x }}", "Tasks": UPSTREAM}},
    ],
)
def test_what_only_the_run_will_tell_is_no_mistake(given: dict[str, Any]) -> None:
    """Nor is what depends on it: an index into unknown inputs, the name of an unknown output."""
    task_id = f"encode-{len(dag.tasks)}"
    with dag:
        assert AmsSubmitJobOperator(task_id=task_id, **given) in dag.tasks


@pytest.mark.parametrize(
    ("given", "said"), [({"resubmit": "maybe"}, "resubmit"), ({"poke_interval": 0.1}, "at least 1 s")]
)
def test_mistakes_of_mapped_tasks_are_found_when_the_dag_is_read(given: dict[str, Any], said: str) -> None:
    """As far as they are not mapped."""
    with pytest.raises(ValueError, match=said):
        AmsSubmitJobOperator.partial(task_id="encode", transform_name="t", **given)


MAPPED: dict[str, tuple[dict[str, Any], str]] = {
    "both APIs": ({"tasks": [TASK], "outputs": ["a"]}, "both tasks.*and outputs"),
    "a circle": (
        {"tasks": chain({"inputs": ["b"], "outputs": ["a"]}, {"inputs": ["a"], "outputs": ["b"]})["tasks"]},
        "wait for each other",
    ),
    "a task that lacks": ({"tasks": [{"processor": "x"}]}, "lacks configuration, outputs"),
    "no tasks": ({"tasks": []}, "lacks tasks"),
    "a priority": ({"input_asset_ids": [ASSET], "priority": "High"}, "priority"),
    "a priority of v3": ({"transform_name": "t", "priority": 5}, "priority"),
    "a name": ({"job_name": "a/b"}, "job_name"),
    "a transform": ({"transform_name": ".."}, "transform_name"),
    "an output": ({"outputs": ["a/b"]}, "outputs"),
    "a long name": ({"name": "x" * 235}, "234 at most"),
    "a document": ({"job": {"properties": {"outputs": [{"assetName": "a/b"}]}}}, "assetName"),
}


@pytest.mark.parametrize(("given", "said"), MAPPED.values(), ids=MAPPED)
def test_mistakes_of_what_is_not_mapped_are_found(given: dict[str, Any], said: str) -> None:
    """Whatever is mapped beside it."""
    with pytest.raises(ValueError, match=said):
        check_partial_arguments({"task_id": "encode", **given}, "encode")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"priority": "High"},
        {"tasks": [{**TASK, "inputs": [5]}]},
        {"input_asset_ids": [ASSET]},
        {"transform_name": "t"},
        {"job_name": "clip", "job": UPSTREAM},
        {"job": {"properties": {"outputs": []}}},
        {"job": {"Tasks": []}},
    ],
)
def test_what_is_mapped_is_not_missing(given: dict[str, Any]) -> None:
    """It comes with each of the tasks."""
    check_partial_arguments(given, "encode")


@pytest.mark.parametrize("key", ["job", "input_asset_ids", "transform_name", "job_name", "tasks"])
def test_no_refusal_tells_a_signature(key: str) -> None:
    """Whoever has one may read the input."""
    url = "https://clips.blob.example/7.mp4?sv=2024&sig=secret%3D"
    given = {**(V2 if key in V2 else V3), key: url}
    with pytest.raises(ValueError, match="clips") as caught:
        AmsSubmitJobOperator(task_id="encode", **given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("is_template", [True, False])
def test_signatures_of_input_urls_are_masked(is_template: bool) -> None:
    """Airflow shows the rendered arguments; whoever has a signature may read the input."""
    from airflow.providers.common.compat.sdk import redact

    signature = f"abc%2Fdef{is_template}secret"
    url = f"https://clips.blob.example/7.mp4?sv=2024&sig={signature}&se=1"
    given = {**V3, "inputs": ["{{ params.url }}" if is_template else url]}
    made = AmsSubmitJobOperator(task_id="encode", **given)
    made.render_template_fields({"params": {"url": url}})
    assert made.inputs == [url]
    assert signature not in str(redact({"inputs": made.inputs}))
    assert "clips.blob.example" in str(redact({"inputs": made.inputs}))


class Lazy(Sequence[Any]):
    """Stands for what Airflow makes of a mapped task's output; only a running task has one."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)


@pytest.mark.parametrize(
    ("default", "name"),
    [("_a.b-encode", "a-b-encode"), ("夜", "job"), ("x" * 300, "x" * 200)],
)
def test_a_name_that_each_service_takes(default: str, name: str) -> None:
    """DAGs and tasks may be called otherwise."""
    assert named({"transform_name": "t"}, default)["job_name"] == name


def test_the_outputs_of_a_mapped_task_stand_anywhere() -> None:
    """In nested places, too."""
    properties = {"input": {"inputs": Lazy({"assetName": "a"})}, "outputs": Lazy({"assetName": "b"})}
    found = spec_of({"transform_name": "t", "job": {"properties": properties}})
    assert found["properties"] == {"input": {"inputs": [{"assetName": "a"}]}, "outputs": [{"assetName": "b"}]}
    assert spec_of({"input_asset_ids": Lazy(ASSET)})["input_asset_ids"] == [ASSET]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({**V3, "outputs": [20240101]}, "20240101"),
        ({**V3, "inputs": 7}, "'assetName': '7'"),
        ({**V3, "correlation_data": {"order": 17}}, "'order': '17'"),
        (chain({"outputs": [20240101]}), 'assetName="20240101"'),
        (chain({"configuration": 720}), "'Configuration': '720'"),
    ],
)
def test_a_number_may_be_the_text_that_native_rendering_has_read(given: dict[str, Any], written: str) -> None:
    """A template that writes digits makes a number of them."""
    read = v3_spec.read_spec if "transform_name" in given else v2_spec.read_spec
    assert written in str(read(given))
