"""What the emulator takes: jobs in both forms, cancel, delete, priority, assets and their files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_ams.emulator.process import Emulator, EmulatorFailed
from tests.integration.client import SCRIPTED, VERBOSE, Client, task

SLOW = json.dumps({"states": [{"state": "Queued", "seconds": 100}, "Finished"], "canceling": 5})


@pytest.fixture
def client(ams_emulator: Emulator) -> Client:
    """Return a client of the emulator, whose clock stands still."""
    ams_emulator.freeze()
    return Client(ams_emulator)


@pytest.fixture
def asset_id(client: Client) -> str:
    """Return an empty asset."""
    identifier: str = client.send("POST", "Assets", json={"Name": "in"}).json()["Id"]
    return identifier


def test_light_submission(client: Client, asset_id: str) -> None:
    """A light POST is 201 with Location, and echoes the job with seven digits and Z."""
    answer = client.submit(task(SLOW, processor=SCRIPTED), inputs=[asset_id], Priority=7)
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["Location"] == f"{client.ams.base_url}Jobs('{job['Id'].replace(':', '%3A')}')"
    assert re.fullmatch(r"[-\d]+T[:\d]+\.\d{7}Z", job["Created"])
    assert (job["Name"], job["Priority"], job["State"]) == ("job", 7, 0)
    assert [one["Id"] for one in client.value(f"Jobs('{job['Id']}')/InputMediaAssets")] == [asset_id]
    (out,) = client.value(f"Jobs('{job['Id']}')/OutputMediaAssets")
    assert (out["Name"], out["Options"]) == ("out", 1)


def test_verbose_submission(client: Client, asset_id: str) -> None:
    """A verbose POST links its assets by uri, and is answered in verbose JSON."""
    link = {"__metadata": {"uri": f"{client.ams.base_url}Assets('{asset_id.replace(':', '%3A')}')"}}
    tasks = {"results": [task(SLOW, processor=SCRIPTED)]}
    headers = {**VERBOSE, "Content-Type": "application/json;odata=verbose"}
    body = json.dumps({"Name": "v", "InputMediaAssets": [link], "Tasks": tasks})
    answer = client.send("POST", "Jobs", data=body, headers=headers)
    assert answer.status_code == 201
    assert answer.json()["d"]["Name"] == "v"
    assert answer.json()["d"]["Created"].endswith("Z")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Nonsense": 1}, "Parsing request content failed due to"),
        ({"Tasks": []}, "1 to 30 tasks"),
        ({"Tasks": [{"Configuration": "x", "MediaProcessorId": SCRIPTED}]}, "Task.TaskBody"),
        ({"Tasks": [task("x", body="<inputAsset>JobInputAsset(0)</inputAsset>")]}, "outputAsset"),
        ({"Tasks": [task("x", processor="nb:mpid:UUID:00000000-0000-0000-0000-000000000000")]}, "processor"),
        ({"Tasks": [task("x", processor=SCRIPTED)]}, "is JSON"),
        ({"Tasks": [task('{"states": ["Done"]}', processor=SCRIPTED)]}, "Unknown state"),
        ({"Tasks": [{**task("x"), "Nonsense": 1}]}, "Parsing request content failed due to"),
        ({"Priority": "high"}, "Cannot convert the value of 'Priority'"),
    ],
)
def test_bad_submission_is_refused(
    client: Client, asset_id: str, change: dict[str, Any], message: str
) -> None:
    """A job that is none is 400 with the reason, and no job is made."""
    document = {"Tasks": [task(SLOW, processor=SCRIPTED)], **change}
    answer = client.submit(*document.pop("Tasks"), inputs=[asset_id], **document)
    assert answer.status_code == 400
    assert message in answer.json()["odata.error"]["message"]["value"]
    assert client.value("Jobs") == []


def test_submission_with_what_is_left_out(client: Client, asset_id: str) -> None:
    """Templates and notifications are 501 with their names; an unknown input asset is 404."""
    scripted = task(SLOW, processor=SCRIPTED)
    subscriptions = [{"NotificationEndPointId": "nb:nepid:UUID:1", "TargetJobState": 2}]
    answer = client.submit(scripted, inputs=[asset_id], JobNotificationSubscriptions=subscriptions)
    assert (answer.status_code, "JobNotificationSubscriptions" in answer.text) == (501, True)
    assert client.submit(scripted, inputs=[asset_id], TemplateId="nb:jtid:UUID:1").status_code == 501
    missing = asset_id[:-4] + ("0000" if not asset_id.endswith("0000") else "1111")
    assert client.submit(scripted, inputs=[missing]).status_code == 404


def test_cancel_then_delete(client: Client, asset_id: str) -> None:
    """Cancel is a GET: 204 once, then 400; the job reads 6 before 5, and only then can be deleted."""
    job = client.submit(task(SLOW, processor=SCRIPTED), inputs=[asset_id]).json()["Id"]
    assert client.send("DELETE", f"Jobs('{job}')").status_code == 400
    path = f"CancelJob?jobid='{job.replace(':', '%3A')}'"
    answer = client.get(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.state(job) == 6
    assert client.get(path).status_code == 400
    client.ams.advance(5)
    assert client.state(job) == 5
    (one,) = client.value(f"Jobs('{job}')/Tasks")
    assert (one["State"], one["StartTime"], one["Progress"], one["RunningDuration"]) == (5, None, 0, 0)
    assert one["EndTime"] is not None
    (out,) = client.value(f"Jobs('{job}')/OutputMediaAssets")
    assert client.send("DELETE", f"Jobs('{job}')").status_code == 204
    assert client.get(f"Jobs('{job}')").status_code == 404
    assert client.get(f"Assets('{out['Id']}')").status_code == 200


@pytest.mark.parametrize("verb", ["MERGE", "PATCH", "PUT", "POST"])
def test_priority_of_a_queued_job(client: Client, asset_id: str, verb: str) -> None:
    """Priority is changed by any of the verbs, tunnelled too, while the job is queued, and not after."""
    job = client.submit(task(SLOW, processor=SCRIPTED), inputs=[asset_id]).json()["Id"]
    headers = {"X-HTTP-Method": "MERGE"} if verb == "POST" else {}
    answer = client.send(verb, f"Jobs('{job}')", json={"Priority": 3}, headers=headers)
    assert answer.status_code == 204
    assert client.value(f"Jobs('{job}')/Priority") == 3
    client.ams.advance(100)
    late = client.send(verb, f"Jobs('{job}')", json={"Priority": 4}, headers=headers)
    assert late.status_code == 400
    expected = "Job's priority can only be changed if the job is in Queued state"
    assert late.json()["odata.error"]["message"]["value"] == expected


def locator(client: Client, asset_id: str, permissions: int, minutes: int = 5) -> dict[str, Any]:
    """Return a fresh locator of an asset."""
    policy = {"Name": "p", "DurationInMinutes": str(minutes), "Permissions": permissions}
    policy_id = client.send("POST", "AccessPolicies", json=policy).json()["Id"]
    document = {"AccessPolicyId": policy_id, "AssetId": asset_id, "Type": 1}
    made: dict[str, Any] = client.send("POST", "Locators", json=document).json()
    return made


def into(path: str, name: str) -> str:
    """Return a locator's Path with a file's name before the question mark."""
    return path.replace("?", f"/{name}?")


def test_a_file_becomes_an_asset(client: Client, asset_id: str) -> None:
    """A PUT through a write locator is 201; the file is in the asset at once, and can be read in parts."""
    headers = {"x-ms-blob-type": "BlockBlob"}
    write, read = locator(client, asset_id, 2)["Path"], locator(client, asset_id, 1)["Path"]
    assert (
        requests.put(into(write, "a b.mp4"), data=b"0123456789", headers=headers, timeout=30).status_code
        == 201
    )
    (file,) = client.value(f"Assets('{asset_id}')/Files")
    assert (file["Name"], file["ContentFileSize"], file["IsPrimary"]) == ("a b.mp4", "10", True)
    assert client.get(f"CreateFileInfos?assetid='{asset_id.replace(':', '%3A')}'").status_code == 204
    assert len(client.value(f"Assets('{asset_id}')/Files")) == 1
    part = requests.get(into(read, "a%20b.mp4"), headers={"Range": "bytes=2-4"}, timeout=30)
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    head = requests.head(into(read, "a b.mp4"), timeout=30)
    assert (head.status_code, head.headers["Content-Length"]) == (200, "10")


def test_locators_are_checked(client: Client, asset_id: str) -> None:
    """A wrong signature, permission or time is 403 in storage's XML; bad names and headers are 400."""
    headers = {"x-ms-blob-type": "BlockBlob"}
    write = locator(client, asset_id, 2)["Path"]

    def put(url: str, **more: str) -> requests.Response:
        return requests.put(url, data=b"x", headers={**headers, **more}, timeout=30)

    assert put(into(write, "a")[:-2] + "zz").status_code == 403
    assert requests.get(into(write, "a"), timeout=30).status_code == 403
    assert put(into(write, "a"), **{"x-ms-blob-type": "PageBlob"}).status_code == 400
    assert put(into(write, "..%2F..%2Fescape")).status_code == 400
    assert put(into(write, "a") + "&comp=block").status_code == 501
    client.ams.advance(301)
    expired = put(into(write, "a"))
    assert expired.status_code == 403
    assert "<Code>AuthenticationFailed</Code>" in expired.text
    assert client.value("Files") == []


def test_assets_change_and_go(client: Client, asset_id: str) -> None:
    """An asset is renamed by MERGE, and deleted with its files and locators; the sixth locator is refused."""
    assert client.send("MERGE", f"Assets('{asset_id}')", json={"Name": "new"}).status_code == 204
    assert client.value(f"Assets('{asset_id}')/Name") == "new"
    made = [locator(client, asset_id, 1) for _ in range(6)]
    assert [("Id" in one) for one in made] == [True] * 5 + [False]
    file = client.send(
        "POST", "Files", json={"Name": "x.mp4", "ParentAssetId": asset_id, "IsPrimary": "true"}
    )
    assert file.status_code == 201
    one = client.get(f"Locators('{made[0]['Id']}')/Asset").json()
    assert one["Id"] == asset_id
    assert client.send("DELETE", f"Locators('{made[0]['Id']}')").status_code == 204
    assert client.send("DELETE", f"Assets('{asset_id}')").status_code == 204
    assert client.value("Files") == client.value("Locators") == []
    assert client.get(f"Assets('{asset_id}')").status_code == 404


def test_streaming_locators_are_left_out(client: Client, asset_id: str) -> None:
    """A locator of another type than SAS is 501."""
    answer = client.send("POST", "Locators", json={"AssetId": asset_id, "AccessPolicyId": "x", "Type": 2})
    assert answer.status_code == 501


def test_handle_uploads_and_downloads(ams_emulator: Emulator, tmp_path: Path) -> None:
    """The handle's upload makes an asset of a file; outputs of a scripted job have the sizes asked for."""
    (tmp_path / "in.bin").write_bytes(b"abc")
    client = Client(ams_emulator)
    asset = client.get(f"Assets('{ams_emulator.upload(tmp_path / 'in.bin', 'named')}')").json()
    assert asset["Name"] == "named"
    job = ams_emulator.submit_scripted(tasks=2, outputs=[{"name": "o.mp4", "size": 10}])
    assert ams_emulator.download_outputs(job, tmp_path) == []
    ams_emulator.advance(60)
    files = ams_emulator.download_outputs(job, tmp_path)
    assert [(file.name, file.stat().st_size) for file in files] == [("o.mp4", 10), ("o.mp4", 10)]
    assert len(set(files)) == 2


def test_handle_says_what_went_wrong(ams_emulator: Emulator) -> None:
    """A control that is refused raises an error with the emulator's reason."""
    with pytest.raises(EmulatorFailed, match="no key 'stats'"):
        ams_emulator.submit_scripted(stats=[])
    with pytest.raises(EmulatorFailed, match="exactly one"):
        ams_emulator.inject({"then": {}})
    with pytest.raises(EmulatorFailed, match="cannot go back"):
        ams_emulator.advance(-1)
