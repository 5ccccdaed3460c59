"""How a job spec becomes the service's own document, and which specs are refused before anything is sent."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ams.api.errors import MalformedIdError, RefusedError
from airflow_ams.api.retries import NO_RETRIES
from airflow_ams.api.tokens import StaticToken
from airflow_ams.api.transport import Transport
from airflow_ams.api.v2 import V2Service
from airflow_ams.api.wire import Answer
from tests.unit.stub_wire import StubWire

BASE = "https://media.windows.net/api/"
GUID = "f3c43f94-327f-2347-90bb-3bf79f8559f1"
ASSET = f"nb:cid:UUID:{GUID}"
MES = "nb:mpid:UUID:ff4df607-d419-42f0-bc17-a481b1331e56"
JOB = {"Id": f"nb:jid:UUID:{GUID}", "Name": "x", "State": 0}


class Wire(StubWire):
    """Knows two processors and takes every job."""

    def answer(self, method: str, url: str) -> Answer:
        """Answer a look-up of processors, or echo a job."""
        document: Any = {"d": JOB}
        if method == "GET":
            versions = [("old", "1.0"), (MES, "1.1"), ("older", "0.9")]
            named = "'Media%20Encoder%20Standard'" in url
            document = {"value": [{"Id": key, "Version": v} for key, v in versions if named]}
        return Answer(200, "OK", {}, json.dumps(document).encode())


def submit(spec: Any) -> list[dict[str, Any]]:
    """Submit a spec; return what was sent, with the body read."""
    wire = Wire()
    V2Service(Transport(BASE, StaticToken("t"), wire, retries=NO_RETRIES)).submit_job(spec)
    return [{**sent, "body": sent["body"] and json.loads(sent["body"])} for sent in wire.sent]


def task(**fields: Any) -> dict[str, Any]:
    """One task of a spec, with some fields other."""
    return {"processor": MES, "configuration": "H264 Single Bitrate 720p", "outputs": ["out"], **fields}


def spec(*tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Make a spec with these tasks."""
    return {"name": "Encode clip", "input_asset_ids": [ASSET], "tasks": list(tasks) or [task()], **fields}


def references(body: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Take inputs and outputs out of a TaskBody."""
    root = ElementTree.fromstring(body)
    assert root.tag == "taskBody"
    outputs = [(str(o.text), o.attrib["assetName"]) for o in root.iter("outputAsset")]
    return [str(i.text) for i in root.iter("inputAsset")], outputs


def test_a_small_spec_becomes_one_post() -> None:
    """Name, priority, tasks and the links of the input assets, in one POST that asks for DSV 3.0."""
    (sent,) = submit(spec(priority=5))
    assert (sent["method"], sent["url"]) == ("POST", f"{BASE}Jobs")
    assert sent["headers"]["DataServiceVersion"] == "3.0"
    assert sent["headers"]["Content-Type"] == "application/json"
    document = sent["body"]
    (one,) = document.pop("Tasks")
    assert document == {
        "Name": "Encode clip",
        "Priority": 5,
        "InputMediaAssets@odata.bind": [f"{BASE}Assets('nb%3Acid%3AUUID%3A{GUID}')"],
    }
    assert one.pop("TaskBody")
    assert one == {"Name": MES, "Configuration": "H264 Single Bitrate 720p", "MediaProcessorId": MES}


def test_tasks_are_chained_by_the_names_of_outputs() -> None:
    """Outputs are numbered through the whole job; inputs are assets by index or earlier outputs by name."""
    second = task(outputs=["c"], inputs=["b", 1, "a"])
    (sent,) = submit(spec(task(outputs=["a", "b"]), second, input_asset_ids=[ASSET, ASSET.upper()]))
    first, chained = [references(one["TaskBody"]) for one in sent["body"]["Tasks"]]
    assert first == (
        ["JobInputAsset(0)", "JobInputAsset(1)"],
        [("JobOutputAsset(0)", "a"), ("JobOutputAsset(1)", "b")],
    )
    assert chained == (
        ["JobOutputAsset(1)", "JobInputAsset(1)", "JobOutputAsset(0)"],
        [("JobOutputAsset(2)", "c")],
    )


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1))
def test_no_name_breaks_out_of_the_task_body(name: str) -> None:
    """Quotes, brackets and ampersands in an output's name stay a name."""
    (sent,) = submit(spec(task(outputs=[name])))
    assert references(sent["body"]["Tasks"][0]["TaskBody"])[1] == [("JobOutputAsset(0)", name)]


def test_a_preset_may_be_a_dict() -> None:
    """A custom preset is sent as JSON text."""
    (sent,) = submit(spec(task(configuration={"Version": 1.0, "Codecs": []})))
    assert json.loads(sent["body"]["Tasks"][0]["Configuration"]) == {"Version": 1.0, "Codecs": []}


def test_a_processor_is_looked_up_by_name_once() -> None:
    """A name becomes the id of its newest version, with one request however many tasks use it."""
    named = {"processor": "Media Encoder Standard"}
    looked_up, sent = submit(spec(task(**named), task(outputs=["b"], **named)))
    assert looked_up["url"] == f"{BASE}MediaProcessors()?$filter=Name%20eq%20'Media%20Encoder%20Standard'"
    assert [one["MediaProcessorId"] for one in sent["body"]["Tasks"]] == [MES, MES]


def test_the_services_own_document_is_sent_as_it_is() -> None:
    """A spec with Tasks, or a template's id, is not touched; a verbose one is declared as such."""
    own = {"Name": "x", "Tasks": [{"Configuration": "c"}], "Odd": True}
    (sent,) = submit(own)
    assert sent["body"] == own
    assert sent["headers"]["Content-Type"] == "application/json"
    (sent,) = submit({"Name": "x", "TemplateId": "nb:jtid:UUID:1"})
    assert sent["body"] == {"Name": "x", "TemplateId": "nb:jtid:UUID:1"}
    (sent,) = submit({**own, "InputMediaAssets": [{"__metadata": {"uri": "…"}}]})
    assert sent["headers"]["Content-Type"] == "application/json;odata=verbose"


def test_tasks_may_come_in_any_order() -> None:
    """They are sent so that each comes behind those whose outputs it reads; one asset id needs no list."""
    (sent,) = submit(
        spec(task(outputs=["b"], inputs=["a"]), task(outputs=["a"], inputs=[0]), input_asset_ids=ASSET)
    )
    assert [references(one["TaskBody"]) for one in sent["body"]["Tasks"]] == [
        (["JobInputAsset(0)"], [("JobOutputAsset(0)", "a")]),
        (["JobOutputAsset(0)"], [("JobOutputAsset(1)", "b")]),
    ]


BAD = [
    ({}, "input_asset_ids"),
    (spec(tasks=[]), "tasks"),
    (spec(input_asset_ids=[]), "input_asset_ids"),
    (spec(task={}), "task"),
    (spec(inputs=[]), "inputs"),
    (spec({"processor": MES}), "configuration, outputs"),
    (spec(task(outputs=[])), "outputs"),
    (spec(task(input=["a"])), "input"),
    (spec(task(outputs=["a", "a"])), "'a'"),
    (spec(task(), task()), "'out'"),
    (spec(task(inputs=[1])), "1"),
    (spec(task(inputs=[-1])), "-1"),
    (spec(task(inputs=["b"], outputs=["a"]), task(inputs=["a"], outputs=["b"])), "task 1.*task 2"),
    (spec(task(inputs=["out"])), "task 1 → task 1"),
    (spec(task(inputs=[True])), "True"),
    (spec(name="x" * 257), "257"),
    (spec(task(configuration="x" * 100_001)), "100001"),
    ({"Tasks": [], "input_asset_ids": [ASSET]}, "input_asset_ids"),
    ({"Tasks": [], "Name": "x" * 257}, "257"),
    (spec(task(inputs=[None])), "None"),
    (spec(tasks=["H264"]), "tasks"),
    (spec(tasks={"processor": MES}), "tasks"),
    (spec(priority="high"), "priority"),
    (spec(input_asset_ids="x"), "input_asset_ids"),
    (spec(task(processor="No Such Encoder")), "No Such Encoder"),
    ([], "spec"),
]


@pytest.mark.parametrize(("bad", "named"), BAD)
def test_a_bad_spec_is_refused_before_a_job_is_made(bad: Any, named: str) -> None:
    """Each mistake is an error that names it, and nothing is posted."""
    wire = Wire()
    service = V2Service(Transport(BASE, StaticToken("t"), wire, retries=NO_RETRIES))
    with pytest.raises(RefusedError, match=named):
        service.submit_job(bad)
    assert [sent["method"] for sent in wire.sent if sent["method"] != "GET"] == []


@pytest.mark.parametrize("bad", [GUID, f"nb:jid:UUID:{GUID}", "x", None])
def test_a_malformed_asset_id_is_refused(bad: Any) -> None:
    """The message names the field and shows a good one."""
    with pytest.raises(MalformedIdError, match=r"input_asset_ids.*nb:cid:UUID:"):
        submit(spec(input_asset_ids=[bad]))
