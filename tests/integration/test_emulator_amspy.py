"""A client that was not written here: amspy 0.2.0, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_ams.emulator.process import Emulator
from tests.integration.client import MES, Client, wait_for


@pytest.fixture
def amsrest(ams_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return amspy's module, which speaks to the emulator."""
    import amspy.amsrest

    monkeypatch.setattr(amspy.amsrest, "ams_rest_endpoint", f"{ams_emulator.url}API")
    monkeypatch.setattr(amspy.amsrest, "ams_auth_endpoint", ams_emulator.token_url)
    return amspy.amsrest


def token_of(amsrest: Any, ams: Emulator) -> str:
    """Return a token that amspy got."""
    answer = amsrest.get_access_token(ams.account, ams.key)
    assert answer.status_code == 200
    token: str = answer.json()["access_token"]
    return token


def test_amspy_encodes(amsrest: Any, ams_emulator: Emulator, tmp_path: Path) -> None:
    """It gets a token, uploads, submits its JSON that is none, follows, and deletes a job."""
    token = token_of(amsrest, ams_emulator)
    processors = amsrest.list_media_processor(token).json()["d"]["results"]
    assert MES in [processor["Id"] for processor in processors]
    asset = amsrest.create_media_asset(token, "amspy").json()["d"]["Id"]
    file = amsrest.create_media_assetfile(token, asset, "broken.mp4", "true").json()["d"]["Id"]
    policy = amsrest.create_asset_accesspolicy(token, "write", "60", "2").json()["d"]["Id"]
    path = amsrest.create_sas_locator(token, asset, policy).json()["d"]["Path"]
    content = b"no film"
    url = path.replace("?", "/broken.mp4?")
    assert amsrest.upload_block_blob(token, url, content, len(content)).status_code == 201
    updated = amsrest.update_media_assetfile(token, asset, file, len(content), "broken.mp4")
    assert updated.status_code == 204
    answer = amsrest.encode_mezzanine_asset(token, MES, asset, "out", "H264 Single Bitrate 720p")
    assert answer.status_code == 201, answer.text
    job = answer.json()["d"]["Id"]

    def final() -> bool:
        state = str(amsrest.list_media_job(token, job).json()["d"]["State"])
        return bool(amsrest.translate_job_state(state) == "Error")

    wait_for(final)
    assert [one["Id"] for one in amsrest.list_media_job(token).json()["d"]["results"]] == [job]
    assert amsrest.helper_delete(token, job, "/Jobs").status_code == 204
    assert amsrest.list_media_job(token, job).status_code == 404
    assert amsrest.delete_media_asset(token, asset).status_code == 204
    assert [one["Name"] for one in amsrest.list_media_asset(token).json()["d"]["results"]] == ["out"]


def test_amspy_json_profile(amsrest: Any, ams_emulator: Emulator) -> None:
    """A JSON preset, put into single quotes by amspy, arrives as it was."""
    token = token_of(amsrest, ams_emulator)
    asset = amsrest.create_media_asset(token, "amspy").json()["d"]["Id"]
    profile = '{"Version": 1.0,\n\t"Codecs": []}'
    job = amsrest.encode_mezzanine_asset(token, MES, asset, "out", profile).json()["d"]["Id"]
    (task,) = Client(ams_emulator).value(f"Jobs('{job}')/Tasks")
    assert task["Configuration"] == profile


def test_amspy_follows_the_front_host(amsrest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows the 301 of the front host, doubled slash and all."""
    with Emulator(front=True) as ams:
        front = (ams.front_url or "").removesuffix("api/") + "API"
        monkeypatch.setattr(amsrest, "ams_rest_endpoint", front)
        monkeypatch.setattr(amsrest, "ams_auth_endpoint", ams.token_url)
        token = token_of(amsrest, ams)
        assert amsrest.get_url(token, front, False).headers["Location"] == ams.base_url
        job = ams.submit_scripted()
        answer = amsrest.list_media_job(token, job)
        assert answer.json()["d"]["Id"] == job
