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


_CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")


@given(st.text(_CHARACTERS).filter(str.strip))
def test_no_name_breaks_out_of_the_task_body(name: str) -> None:
    """Quotes, brackets and ampersands in an output's name stay a name."""
    (sent,) = submit(spec(task(outputs=[name])))
    assert references(sent["body"]["Tasks"][0]["TaskBody"])[1] == [("JobOutputAsset(0)", name)]


def test_a_preset_may_be_a_dict() -> None:
    """A custom preset is sent as JSON text."""
    (sent,) = submit(spec(task(configuration={"Version": 1.0, "Codecs": []})))
    assert json.loads(sent["body"]["Tasks"][0]["Configuration"]) == {"Version": 1.0, "Codecs": []}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("{'Version': 1.0, 'Codecs': [True]}", '{"Version": 1.0, "Codecs": [true]}'),
        ('{"Version":1.0,  "Codecs": []}', '{"Version":1.0,  "Codecs": []}'),
        ("H264 Single Bitrate 720p", "H264 Single Bitrate 720p"),
        ("<Preset>{}</Preset>", "<Preset>{}</Preset>"),
        ("{no dict}", "{no dict}"),
        ("[preset] 720p", "[preset] 720p"),
    ],
)
def test_a_preset_may_be_the_text_of_a_dict(given: str, sent: str) -> None:
    """A template writes a dict as Python does; what is JSON, or no dict, is not touched."""
    (posted,) = submit(spec(task(configuration=given)))
    assert posted["body"]["Tasks"][0]["Configuration"] == sent


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("['a', 'b']", ["a", "b"]),
        (' ["a", "b"] ', ["a", "b"]),
        ("a", ["a"]),
        ("[clip] a.mp4", ["[clip] a.mp4"]),
        (("a", "b"), ["a", "b"]),
    ],
)
def test_outputs_may_be_a_text(given: Any, names: list[str]) -> None:
    """A template writes a list as Python does; any other text is a name."""
    (sent,) = submit(spec(task(outputs=given)))
    assert [name for _, name in references(sent["body"]["Tasks"][0]["TaskBody"])[1]] == names


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["0"], ["JobInputAsset(0)"]),
        ("1", ["JobInputAsset(1)"]),
        (1, ["JobInputAsset(1)"]),
        (0, ["JobInputAsset(0)"]),
        ("[1, 'clip 7']", ["JobInputAsset(1)", "JobOutputAsset(0)"]),
        ("clip 7", ["JobOutputAsset(0)"]),
        (["7", 0], ["JobOutputAsset(1)", "JobInputAsset(0)"]),
        ("", ["JobInputAsset(0)", "JobInputAsset(1)"]),
    ],
)
def test_inputs_of_a_task_may_be_texts(given: Any, read: list[str]) -> None:
    """One needs no list; digits are an index, unless an output has that name."""
    tasks = task(outputs=["clip 7", "7"]), task(inputs=given, outputs=["b"])
    (sent,) = submit(spec(*tasks, input_asset_ids=f"['{ASSET}', '{ASSET}']"))
    assert references(sent["body"]["Tasks"][1]["TaskBody"])[0] == read


@pytest.mark.parametrize(("given", "sent"), [("7", 7), (-3, -3), (None, 0), ("", 0), (2**31 - 1, 2**31 - 1)])
def test_a_priority_is_a_whole_number(given: Any, sent: int) -> None:
    """A text will do, as a template writes one."""
    (posted,) = submit(spec(priority=given))
    assert posted["body"]["Priority"] == sent


def test_what_a_spec_lacks_is_told_alone() -> None:
    """What is there is not asked for."""
    with pytest.raises(RefusedError) as caught:
        submit({"input_asset_ids": [ASSET]})
    assert "input_asset_ids" not in str(caught.value)
    with pytest.raises(RefusedError) as caught:
        submit({"tasks": [task()]})
    assert str(caught.value) == "The job spec lacks input_asset_ids"


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
    (spec(input_asset_ids=5), "input_asset_ids '?5"),
    (spec(input_asset_ids={"a": 1}), "input_asset_ids is"),
    (spec(input_asset_ids=ASSET.encode()), "input_asset_ids is"),
    (spec(task(outputs=5.5)), "outputs of task 1 is '5.5'"),
    (spec(task(outputs={"a": 1})), "outputs of task 1"),
    (spec(task(outputs=[None])), "outputs of task 1"),
    (spec(task(outputs=[["x"]])), "outputs of task 1"),
    (spec(task(outputs=["a", ""])), "outputs of task 1"),
    (spec(task(outputs="['a', b]")), "outputs of task 1 is.*looks like a list"),
    (spec(task(outputs=["a\x00"])), "outputs of task 1.*cannot be sent"),
    (spec(task(), task(outputs=["b"], inputs=7.5)), "inputs of task 2"),
    (spec(task(inputs=1)), "reads '1'"),
    (spec(task(inputs=True)), "inputs of task 1"),
    (spec(task(inputs={"a": 0})), "inputs of task 1"),
    (spec(task(inputs=["9" * 5000])), "Task 1 .* reads '999"),
    (spec(task(configuration=True)), "configuration of task 1 is 'True'"),
    (spec(task(configuration=b"H264")), "configuration of task 1 is"),
    (spec(task(configuration={"a": b"1"})), "configuration of task 1.*bytes"),
    (spec(task(configuration={"a": {1}})), "configuration of task 1.*set"),
    (spec(task(configuration={"a": float("inf")})), "configuration of task 1.*JSON"),
    (spec(task(processor=["a"])), "processor of task 1"),
    (spec(task(processor=ASSET)), "processor of task 1.*nb:mpid"),
    (spec(task(name=["a"])), "name of task 1"),
    (spec(tasks=[{5: 1, "a": 2}]), r"Task 1 in tasks has no \['5', 'a'\]"),
    (spec(name=["a"]), "name"),
    (spec(name="a\ud800"), "name.*cannot be sent"),
    (spec(priority=True), "priority 'True'"),
    (spec(priority=1.5), "priority '1.5'"),
    (spec(priority=float("inf")), "priority 'inf'"),
    (spec(priority=10**30), "priority '1000"),
    (spec(priority=2**31), "priority '2147483648'"),
    (spec(priority="9" * 5000), "priority '999"),
    (spec(priority=[]), "priority"),
    ({"Tasks": [], "Name": ["a"]}, "name"),
    ({"Tasks": [{"Configuration": b"1"}]}, "job document.*bytes"),
]


@pytest.mark.parametrize(("bad", "named"), BAD)
def test_a_bad_spec_is_refused_before_a_job_is_made(bad: Any, named: str) -> None:
    """Each mistake is an error that names it, and nothing is posted."""
    wire = Wire()
    service = V2Service(Transport(BASE, StaticToken("t"), wire, retries=NO_RETRIES))
    with pytest.raises(RefusedError, match=named):
        service.submit_job(bad)
    assert [sent["method"] for sent in wire.sent if sent["method"] != "GET"] == []
    if "No Such Encoder" not in named:
        with pytest.raises(RefusedError, match=named):
            service.check_spec(bad)
        assert wire.sent == []


@pytest.mark.parametrize("bad", [GUID, f"nb:jid:UUID:{GUID}", "x", None])
def test_a_malformed_asset_id_is_refused(bad: Any) -> None:
    """The message names the field and shows a good one."""
    with pytest.raises(MalformedIdError, match=r"input_asset_ids.*nb:cid:UUID:"):
        submit(spec(input_asset_ids=[bad]))


@pytest.mark.parametrize(
    "spot",
    [
        lambda url: {"input_asset_ids": [url]},
        lambda url: {"tasks": [task(inputs=[url])]},
        lambda url: {"tasks": [task(outputs={url: url})]},
        lambda url: {"tasks": [task(outputs=[url, url])]},
        lambda url: {"tasks": [task(configuration={url})]},
        lambda url: {"tasks": url},
        lambda url: {"tasks": [{url: 1}]},
        lambda url: {"priority": url},
    ],
)
def test_no_refusal_tells_a_signature(spot: Any) -> None:
    """Whoever has one may read the input."""
    with pytest.raises(RefusedError) as caught:
        submit({**spec(), **spot("https://a.test/7.mp4?sv=1&sig=secret%3D")})
    assert "secret" not in str(caught.value)
