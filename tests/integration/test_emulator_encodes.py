"""Real encodes: what comes out, progress, cancel, failures, the queue, and a restart."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import psutil
import pytest
import requests

from airflow_ams.emulator.process import Emulator
from tests.integration.client import Client, task, wait_for

FINAL = (3, 4, 5)
MULTIPLE = "H264 Multiple Bitrate 720p"
SINGLE = "H264 Single Bitrate 720p"


def ffmpeg(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ffmpeg and return what it said."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def probe(path: Path) -> dict[str, Any]:
    """Return seconds, size and codecs of a media file."""
    text = ffmpeg("-i", path).stderr
    length = re.search(r"Duration: \d+:\d+:([\d.]+)", text)
    size = re.search(r"Video: (\w+).*?, (\d+)x(\d+)", text)
    audio = re.search(r"Audio: (\w+)", text)
    return {
        "seconds": float(length[1]) if length else None,
        "video": size[1] if size else None,
        "size": (int(size[2]), int(size[3])) if size else None,
        "audio": audio[1] if audio else None,
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of clips: with and without sound, upright, sound only, long, and broken."""
    folder = tmp_path_factory.mktemp("clips")
    picture = ("-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=1")
    sound = ("-f", "lavfi", "-i", "sine=d=1")
    ffmpeg(*picture, *sound, folder / "clip.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=180x320:r=25:d=1", folder / "silent.mp4")
    ffmpeg(*sound, folder / "sound.mp4")
    # Long to encode, quick to make: the same second again and again.
    ffmpeg("-stream_loop", "239", "-i", folder / "clip.mp4", "-c", "copy", folder / "long.mp4")
    (folder / "broken.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:5000])
    return folder


def submit(client: Client, asset_id: str, *configurations: str, **job: Any) -> str:
    """Submit one encode task for each configuration, each making an asset of its own."""
    tasks = [
        task(
            configuration,
            body="<inputAsset>JobInputAsset(0)</inputAsset>"
            f'<outputAsset assetName="out {number}">JobOutputAsset({number})</outputAsset>',
        )
        for number, configuration in enumerate(configurations)
    ]
    answer = client.submit(*tasks, inputs=[asset_id], **job)
    assert answer.status_code == 201, answer.text
    identifier: str = answer.json()["Id"]
    return identifier


def finish(client: Client, job_id: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the final state of a job, and its tasks."""
    wait_for(lambda: client.state(job_id) in FINAL)
    return client.state(job_id), client.value(f"Jobs('{job_id}')/Tasks")


def encoders(client: Client) -> list[psutil.Process]:
    """Return the ffmpeg processes of the emulator."""
    children: list[psutil.Process] = psutil.Process(client.ams.pid).children(recursive=True)
    return children


def encoding(client: Client, job_id: str) -> psutil.Process:
    """Wait until a job's encode is well under way, and return its process."""
    wait_for(lambda: client.value(f"Jobs('{job_id}')/Tasks")[0]["Progress"] > 0)
    (process,) = encoders(client)
    return process


def test_multiple_bitrates(client: Client, clips: Path, tmp_path: Path) -> None:
    """A ladder gives one playable MP4 a rung, none above the source, and files are recorded with sizes."""
    job = submit(client, client.ams.upload(clips / "clip.mp4"), MULTIPLE)
    state, (done,) = finish(client, job)
    assert (state, done["State"], done["Progress"], done["ErrorDetails"]) == (3, 3, 100, [])
    codes = [event["Code"] for event in done["HistoricalEvents"]]
    assert codes[:1] + codes[-2:] == ["WaitingForFreeResources", "Finished", "TaskBillingInformationAdded"]
    files = {file.name: probe(file) for file in client.ams.download_outputs(job, tmp_path)}
    sizes = {"clip_640x360_1000.mp4": (640, 360), "clip_640x360_650.mp4": (640, 360)}
    sizes |= {"clip_320x180_400.mp4": (320, 180)}
    assert {name: file["size"] for name, file in files.items()} == sizes
    for file in files.values():
        assert (file["video"], file["audio"]) == ("h264", "aac")
        assert file["seconds"] == pytest.approx(1.0, abs=0.2)
    (asset,) = client.value(f"Jobs('{job}')/OutputMediaAssets")
    recorded = client.value(f"Assets('{asset['Id']}')/Files")
    assert {one["Name"]: int(one["ContentFileSize"]) for one in recorded} == {
        file.name: file.stat().st_size for file in tmp_path.iterdir()
    }
    assert [one["IsPrimary"] for one in recorded].count(True) == 1


def test_sound_is_optional_and_shape_is_kept(client: Client, clips: Path, tmp_path: Path) -> None:
    """A source without sound, and upright, is encoded as it is."""
    job = submit(client, client.ams.upload(clips / "silent.mp4"), SINGLE)
    assert finish(client, job)[0] == 3
    (file,) = client.ams.download_outputs(job, tmp_path)
    assert file.name == "silent_180x320_4500.mp4"
    assert (probe(file)["size"], probe(file)["audio"]) == ((180, 320), None)


def test_several_outputs_and_chained_tasks(client: Client, clips: Path, tmp_path: Path) -> None:
    """Each output asset of a task gets its files, and a later task encodes an earlier one's output."""
    first = task(
        SINGLE,
        body="<inputAsset>JobInputAsset(0)</inputAsset>"
        '<outputAsset assetName="one">JobOutputAsset(0)</outputAsset>'
        '<outputAsset assetName="two">JobOutputAsset(1)</outputAsset>',
    )
    second = task(
        SINGLE,
        body="<inputAsset>JobOutputAsset(1)</inputAsset><outputAsset>JobOutputAsset(2)</outputAsset>",
    )
    job = client.submit(first, second, inputs=[client.ams.upload(clips / "clip.mp4")]).json()["Id"]
    state, tasks = finish(client, job)
    assert (state, [one["State"] for one in tasks]) == (3, [3, 3])
    names = sorted(file.name for file in client.ams.download_outputs(job, tmp_path))
    assert names == ["clip_640x360_4500.mp4"] * 2 + ["clip_640x360_4500_640x360_4500.mp4"]


def thumbnails(kind: str, **codec: Any) -> str:
    """Return a thumbnail configuration."""
    outputs = [{"FileName": "{Basename}_{Index}{Extension}", "Format": {"Type": f"{kind}Format"}}]
    return json.dumps({"Version": 1.0, "Codecs": [{"Type": f"{kind}Image", **codec}], "Outputs": outputs})


def test_thumbnails(client: Client, clips: Path, tmp_path: Path) -> None:
    """A JSON configuration gives pictures at the times and of the size asked for."""
    layers = [{"Type": "PngLayer", "Width": "50%", "Height": "50%"}]
    many = thumbnails("Png", Start="0%", Step="25%", Range="100%", PngLayers=layers)
    best = thumbnails("Jpg", Start="{Best}")
    job = submit(client, client.ams.upload(clips / "clip.mp4"), many, best)
    assert finish(client, job)[0] == 3
    files = sorted(client.ams.download_outputs(job, tmp_path))
    assert [file.name for file in files] == ["clip_000001.jpg", *(f"clip_00000{n}.png" for n in (1, 2, 3, 4))]
    assert [probe(file)["size"] for file in files] == [(640, 360), *[(320, 180)] * 4]


@pytest.mark.parametrize(
    ("clip", "configuration", "code", "message"),
    [
        ("broken.mp4", MULTIPLE, "ErrorDownloadingInputAssetMalformedContent", "moov atom not found"),
        ("sound.mp4", MULTIPLE, "ErrorExecutingTaskUnsupportedFormat", "no video"),
        ("clip.mp4", "H264 Nothing", "ErrorParsingConfiguration", "H264 Nothing"),
        ("clip.mp4", '{"Codecs": [{"Type": "H264Video"}]}', "ErrorParsingConfiguration", "H264Video"),
    ],
)
def test_failures_have_reasons(
    client: Client, clips: Path, clip: str, configuration: str, code: str, message: str
) -> None:
    """A task that cannot be done is an Error with the encoder's code and reason, in one line."""
    state, (failed,) = finish(client, submit(client, client.ams.upload(clips / clip), configuration))
    (detail,) = failed["ErrorDetails"]
    assert (state, failed["State"], detail["Code"]) == (4, 4, code)
    assert message in detail["Message"]
    assert "\n" not in detail["Message"]


@pytest.mark.parametrize("name", ["a\0b.png", "..", "../x.png", "{Basename}" + 300 * "x" + ".png"])
def test_bad_file_name_is_a_configuration_error(client: Client, clips: Path, name: str) -> None:
    """A FileName that is none fails the task by name: no traceback, no path of this machine."""
    codec = {"Type": "PngImage", "Start": "0%"}
    configuration = json.dumps({"Version": 1.0, "Codecs": [codec], "Outputs": [{"FileName": name}]})
    asset = client.ams.upload(clips / "clip.mp4")
    state, (failed,) = finish(client, submit(client, asset, configuration))
    (detail,) = failed["ErrorDetails"]
    assert (state, detail["Code"]) == (4, "ErrorParsingConfiguration")
    assert detail["Message"].startswith("FileName")
    assert "asset-" not in detail["Message"]
    assert "Traceback" not in client.ams.stderr()


def test_reasons_have_no_paths(client: Client, clips: Path) -> None:
    """What ffmpeg says of an output that it cannot write is told without the folder."""
    configuration = thumbnails("Png", Start="0%").replace("{Extension}", "")
    asset = client.ams.upload(clips / "clip.mp4")
    _, (failed,) = finish(client, submit(client, asset, configuration))
    (detail,) = failed["ErrorDetails"]
    assert "clip_000001" in detail["Message"]
    assert "/" not in detail["Message"]


def test_input_named_like_a_folder(client: Client, clips: Path, tmp_path: Path) -> None:
    """Dots in the input's name do not lead the outputs out of their folder."""
    job = submit(client, client.ams.upload(link(clips / "clip.mp4", tmp_path / "..mp4")), SINGLE)
    assert finish(client, job)[0] == 3
    (file,) = client.ams.download_outputs(job, tmp_path / "out")
    assert file.name == "._640x360_4500.mp4"


def link(source: Path, target: Path) -> Path:
    """Make *target* another name of *source*."""
    target.symlink_to(source)
    return target


def test_usual_containers_are_taken(client: Client, clips: Path, tmp_path: Path) -> None:
    """What people upload is encoded, in whatever container."""
    jobs = {}
    for extension in ("mp4", "mov", "mkv", "webm", "ts", "avi", "mpg", "flv", "wmv", "ogv", "m2v", "h264"):
        path = tmp_path / f"clip.{extension}"
        ffmpeg("-i", clips / "clip.mp4", "-s", "160x90", "-ar", "48000", path)
        jobs[extension] = submit(client, client.ams.upload(path), SINGLE)
    assert {kind: finish(client, job)[0] for kind, job in jobs.items()} == dict.fromkeys(jobs, 3)


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
    "url.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile 'other.ts'\n",
    "concat.mp4": "ffconcat version 1.0\nfile 'other.ts'\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>file://{path}'
    "</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("name", sorted(PLAYLISTS))
def test_playlists_are_refused(client: Client, clips: Path, tmp_path: Path, name: str) -> None:
    """An uploaded file cannot have others of this machine encoded."""
    other = tmp_path / "other.ts"
    ffmpeg("-i", clips / "clip.mp4", other)
    (tmp_path / name).write_text(PLAYLISTS[name].replace("{path}", str(other)))
    state, (failed,) = finish(client, submit(client, client.ams.upload(tmp_path / name), SINGLE))
    (detail,) = failed["ErrorDetails"]
    assert (state, detail["Code"]) == (4, "ErrorDownloadingInputAssetMalformedContent")
    assert detail["Message"].startswith(f"{name}: The file is a playlist, a picture or something else")
    assert "\n" not in detail["Message"]


@pytest.mark.parametrize(("options", "last"), [(0, 5), (4, 3)])
def test_other_tasks_after_a_failure(client: Client, clips: Path, options: int, last: int) -> None:
    """The tasks after a failed one are canceled, unless its Options say not to."""
    asset = client.ams.upload(clips / "clip.mp4")
    body = "<inputAsset>JobInputAsset(0)</inputAsset><outputAsset>JobOutputAsset({})</outputAsset>"
    tasks = [task("nothing", body=body.format(0), Options=options), task(SINGLE, body=body.format(1))]
    state, done = finish(client, client.submit(*tasks, inputs=[asset]).json()["Id"])
    assert (state, [one["State"] for one in done]) == (4, [4, last])


def test_progress_rises_and_cancel_stops_ffmpeg(client: Client, clips: Path) -> None:
    """Progress is read from ffmpeg and never falls; a cancel ends the process and then the job."""
    job = submit(client, client.ams.upload(clips / "long.mp4"), MULTIPLE)
    seen: list[float] = []

    def risen() -> bool:
        (one,) = client.value(f"Jobs('{job}')/Tasks")
        seen.append(one["Progress"])
        return len(set(seen)) >= 3

    wait_for(risen)
    assert seen == sorted(seen)
    assert 0 < seen[-1] < 100
    (process,) = encoders(client)
    assert client.get(f"CancelJob?jobid='{job}'").status_code == 204
    state, (one,) = finish(client, job)
    assert (state, one["State"]) == (5, 5)
    assert one["Progress"] < 100
    assert not process.is_running()


def test_units_and_priority(client: Client, clips: Path) -> None:
    """One encode runs at a time; of the waiting ones the larger priority is first, then the older."""
    long, short = client.ams.upload(clips / "long.mp4"), client.ams.upload(clips / "silent.mp4")
    running = submit(client, long, MULTIPLE)
    process = encoding(client, running)
    low, older, younger = (submit(client, short, SINGLE, Priority=number) for number in (1, 5, 5))
    raised = submit(client, short, SINGLE)
    assert client.send("MERGE", f"Jobs('{raised}')", json={"Priority": 9}).status_code == 204
    assert [client.state(job) for job in (low, older, younger, raised)] == [0, 0, 0, 0]
    assert encoders(client) == [process]
    queued = submit(client, short, SINGLE)
    assert client.get(f"CancelJob?jobid='{queued}'").status_code == 204
    assert client.state(queued) == 6
    wait_for(lambda: client.state(queued) == 5)
    client.get(f"CancelJob?jobid='{running}'")
    jobs = (raised, older, younger, low)
    assert [finish(client, job)[0] for job in jobs] == [3, 3, 3, 3]
    ends = [client.value(f"Jobs('{job}')/EndTime") for job in jobs]
    assert ends == sorted(ends)


def test_reset_stops_encodes(client: Client, clips: Path) -> None:
    """A reset ends running encodes and forgets their jobs."""
    job = submit(client, client.ams.upload(clips / "long.mp4"), MULTIPLE)
    wait_for(lambda: encoders(client))
    client.ams.reset()
    assert encoders(client) == []
    assert client.get(f"Jobs('{job}')").status_code == 404


def test_restart_loses_nothing(clips: Path, tmp_path: Path) -> None:
    """After a restart on ``--data`` what was done is done, scripts go on, and cut-off encodes start again."""
    options: dict[str, Any] = {"data": tmp_path / "data", "key": "key", "media": clips, "units": 2}
    with Emulator(**options) as ams:
        client = Client(ams)
        assets = {asset["Name"]: asset["Id"] for asset in client.value("Assets")}
        assert set(assets) == {path.name for path in clips.iterdir()}
        done = submit(client, assets["clip.mp4"], SINGLE)
        assert finish(client, done)[0] == 3
        scripted = ams.submit_scripted(states=[{"state": "Processing", "seconds": 1000}, "Finished"])
        ams.advance(500)
        encode = submit(client, assets["long.mp4"], SINGLE)
        process = encoding(client, encode)
        before = client.get(f"Jobs('{done}')").json()
    assert not process.is_running()
    with Emulator(**options) as ams:
        # The token is from before, too.
        again = Client.__new__(Client)
        again.ams, again.token = ams, client.token
        after = again.get(f"Jobs('{done}')").json()
        assert {**after, "odata.metadata": ""} == {**before, "odata.metadata": ""}
        assert [file.name for file in ams.download_outputs(done, tmp_path)] == ["clip_640x360_4500.mp4"]
        assert {asset["Id"] for asset in again.value("Assets")} >= set(assets.values())
        assert again.state(scripted) == 2
        ams.advance(500)
        assert again.state(scripted) == 3
        wait_for(lambda: encoders(again))
        assert again.state(encode) == 2
        again.get(f"CancelJob?jobid='{encode}'")
        assert finish(again, encode)[0] == 5


def test_ctrl_c_is_no_failure(clips: Path, tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches ffmpeg as well; the encode has not failed, but starts again."""
    with Emulator(data=tmp_path, key="key") as ams:
        job = submit(Client(ams), ams.upload(clips / "long.mp4"), MULTIPLE)
        encoding(Client(ams), job)
        os.killpg(ams.pid, signal.SIGINT)
        wait_for(lambda: psutil.Process(ams.pid).status() == psutil.STATUS_ZOMBIE)
    with Emulator(data=tmp_path, key="key") as ams:
        client = Client(ams)
        assert client.state(job) in (1, 2)
        client.get(f"CancelJob?jobid='{job}'")
        assert finish(client, job)[0] == 5


def test_expired_token_of_the_handle(ams_emulator: Emulator, tmp_path: Path) -> None:
    """The handle renews its own token when the clock has made it too old."""
    (tmp_path / "x").write_bytes(b"x")
    first = ams_emulator.upload(tmp_path / "x")
    ams_emulator.advance(100_000)
    assert ams_emulator.upload(tmp_path / "x") != first


def test_media_folder_is_read_only_for_the_service(clips: Path, tmp_path: Path) -> None:
    """Deleting the asset of a ``--media`` file leaves the file; each account has its own assets."""
    (tmp_path / "x.mp4").write_bytes(b"x")
    (tmp_path / ".hidden").write_bytes(b"x")
    with Emulator(media=tmp_path, other_accounts={"other": "pass"}) as ams:
        mine, other = Client(ams), Client(ams, "other", "pass")
        (asset,) = mine.value("Assets")
        (theirs,) = other.value("Assets")
        assert asset["Name"] == theirs["Name"] == "x.mp4"
        assert asset["Id"] != theirs["Id"]
        assert mine.get(f"Assets('{theirs['Id']}')").status_code == 404
        job = ams.submit_scripted()
        assert [client.get(f"Jobs('{job}')").status_code for client in (mine, other)] == [200, 404]
        assert other.get(f"CancelJob?jobid='{job}'").status_code == 404
        assert other.send("DELETE", f"Assets('{asset['Id']}')").status_code == 404
        assert mine.send("DELETE", f"Assets('{asset['Id']}')").status_code == 204
        assert requests.get(f"{ams.url}_emulator/health", timeout=30).json()["accounts"] == [
            "emulator",
            "other",
        ]
    assert (tmp_path / "x.mp4").read_bytes() == b"x"
