"""Real encodes of v3 jobs: presets, inputs at a URL, outputs that fail, and a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_ams.emulator.process import Emulator
from tests.integration.client import Client, wait_for
from tests.integration.client_v3 import (
    FINAL,
    Arm,
    Mkio,
    asset_input,
    built_in,
    http_input,
    job_output,
    scripted,
)
from tests.integration.test_emulator_encodes import ffmpeg, probe

DETAILED = "testsrc2=s=1280x720:r=25:d=2,noise=alls=40:allf=t"
PLAIN = "color=c=blue:s=1280x720:r=25:d=2"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of clips: one that is hard to encode, one that is easy, and one that is broken."""
    folder = tmp_path_factory.mktemp("clips")
    for name, picture in (("detailed", DETAILED), ("plain", PLAIN)):
        arguments = ("-f", "lavfi", "-i", picture, "-preset", "ultrafast", "-b:v", "9000k", folder)
        ffmpeg(*arguments[:-1], folder / f"{name}.mp4")
    (folder / "broken.mp4").write_bytes((folder / "plain.mp4").read_bytes()[:2000])
    return folder


@pytest.fixture
def arm(ams_emulator: Emulator) -> Arm:
    """Return a client of the ARM surface."""
    return Arm(ams_emulator)


def film(ams: Emulator, path: Path) -> dict[str, Any]:
    """Upload a file and return it as a job's input."""
    return asset_input(ams.asset_name(ams.upload(path)))


def ended(arm: Arm | Mkio, path: str) -> Any:
    """Wait for the end of a job and return its properties."""

    def final() -> Any:
        job = arm.job(path)
        return job if job["state"] in FINAL else None

    return wait_for(final)


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("H264SingleBitrate720p", {(1280, 720)}),
        ("H264SingleBitrate1080p", {(1280, 720)}),
        ("H264MultipleBitrate720p", {(1280, 720), (960, 540), (640, 360), (320, 180)}),
        ("AdaptiveStreaming", {(1280, 720), (960, 540), (640, 360), (320, 180)}),
        ("ContentAwareEncoding", {(1280, 720), (960, 540), (640, 360), (320, 180)}),
    ],
)
def test_presets(
    arm: Arm, ams_emulator: Emulator, clips: Path, tmp_path: Path, preset: str, sizes: set[tuple[int, int]]
) -> None:
    """Each built-in preset gives playable files, none larger than the source."""
    arm.put("/transforms/encode", {"outputs": [built_in(preset)]})
    arm.put_job("encode/job", film(ams_emulator, clips / "detailed.mp4"), job_output("out"))
    job = ended(arm, "encode/job")
    assert (job["state"], job["outputs"][0]["progress"]) == ("Finished", 100)
    assert job["outputs"][0]["label"] == "BuiltInStandardEncoderPreset_0"
    assert job["startTime"] <= job["endTime"]
    ams_emulator.api = "arm"
    files = [probe(file) for file in ams_emulator.download_outputs("encode/job", tmp_path)]
    assert {file["size"] for file in files} == sizes
    assert {file["video"] for file in files} == {"h264"}


def test_content_aware(arm: Arm, ams_emulator: Emulator, tmp_path: Path) -> None:
    """An easy film gets fewer bits than the ladder without a look at it has."""
    easy = tmp_path / "easy.mp4"
    # Its own bitrate is high, so that it is no limit here.
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=4", "-preset", "ultrafast", "-qp", "5", easy)
    source = film(ams_emulator, easy)
    ams_emulator.api = "arm"
    bytes_of = {}
    for preset in ("AdaptiveStreaming", "ContentAwareEncoding"):
        arm.put(f"/transforms/{preset}", {"outputs": [built_in(preset)]})
        arm.put_job(f"{preset}/job", source, job_output(preset))
        assert ended(arm, f"{preset}/job")["state"] == "Finished"
        files = ams_emulator.download_outputs(f"{preset}/job", tmp_path / preset)
        bytes_of[preset] = sum(file.stat().st_size for file in files)
    assert bytes_of["ContentAwareEncoding"] < 0.8 * bytes_of["AdaptiveStreaming"]


def test_adaptive_streaming_stays_below_the_source(
    arm: Arm, ams_emulator: Emulator, clips: Path, tmp_path: Path
) -> None:
    """Of a film with a low bitrate no higher steps are made."""
    arm.put("/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")]})
    arm.put_job("encode/job", film(ams_emulator, clips / "plain.mp4"), job_output("out"))
    assert ended(arm, "encode/job")["state"] == "Finished"
    ams_emulator.api = "arm"
    sizes = {probe(file)["size"] for file in ams_emulator.download_outputs("encode/job", tmp_path)}
    assert sizes == {(1280, 720)}


@pytest.mark.parametrize(
    ("on_error", "states"),
    [
        ("ContinueJob", ("Finished", "Error", "Finished")),
        ("StopProcessingJob", ("Error", "Error", "Canceled")),
    ],
)
def test_an_output_that_fails(
    ams_emulator: Emulator,
    clips: Path,
    service: Callable[..., Any],
    reply: type[Any],
    on_error: str,
    states: tuple[str, ...],
) -> None:
    """With ContinueJob the job finishes all the same; else the other outputs are canceled."""
    # Each output fetches the film anew, and the first finds none.
    answers = iter([reply(status=404), reply(body=(clips / "plain.mp4").read_bytes())])
    web = service(lambda _: next(answers))
    mkio = Mkio(ams_emulator)
    first, second = built_in("AdaptiveStreaming", onError=on_error), built_in("AdaptiveStreaming")
    mkio.put("/transforms/encode", {"outputs": [first, second]})
    document = {
        "input": http_input(f"{web.url}plain.mp4"),
        "outputs": [job_output("one"), job_output("two")],
    }
    mkio.put("/transforms/encode/jobs/job", document)
    job = ended(mkio, "encode/job")
    assert (job["state"], *(output["state"] for output in job["outputs"])) == states
    assert job["outputs"][0]["error"]["code"] == "DownloadNotAccessible"


@pytest.mark.parametrize(
    ("file", "code"), [("broken.mp4", "ContentMalformed"), ("text.mp4", "ContentMalformed")]
)
def test_errors_of_encodes(
    arm: Arm, client: Client, ams_emulator: Emulator, clips: Path, file: str, code: str
) -> None:
    """What goes wrong has v3's words in v3, with group and advice, and v2's in v2."""
    (clips / "text.mp4").write_text("no film")
    arm.put("/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")]})
    arm.put_job("encode/job", film(ams_emulator, clips / file), job_output("out"))
    job = ended(arm, "encode/job")
    error = job["outputs"][0]["error"]
    assert (job["state"], error["code"], error["category"], error["retry"]) == (
        "Error",
        code,
        "Content",
        "DoNotRetry",
    )
    (task,) = client.value("Tasks")
    assert task["ErrorDetails"][0]["Code"] == "ErrorDownloadingInputAssetMalformedContent"


def test_an_input_at_a_url(
    ams_emulator: Emulator,
    clips: Path,
    tmp_path: Path,
    service: Callable[..., Any],
    reply: type[Any],
) -> None:
    """The film is fetched when the job starts; answers do not show the query of its URL."""
    content = (clips / "plain.mp4").read_bytes()
    web = service(lambda _: reply(body=content, headers={"Content-Type": "video/mp4"}))
    mkio = Mkio(ams_emulator)
    mkio.put("/transforms/encode", {"outputs": [built_in("H264SingleBitrate720p")]})
    source = http_input("plain.mp4?key=secret", baseUri=f"{web.url}films/")
    mkio.put("/transforms/encode/jobs/job", {"input": source, "outputs": [job_output("out")]})
    job = ended(mkio, "encode/job")
    assert job["state"] == "Finished"
    assert job["input"]["files"] == ["plain.mp4"]
    assert [seen.target for seen in web.seen] == ["/films/plain.mp4?key=secret"]
    ams_emulator.api = "mkio"
    (file,) = ams_emulator.download_outputs("encode/job", tmp_path)
    assert file.name.startswith("plain_1280x720")


def test_an_input_that_is_not_there(
    arm: Arm, ams_emulator: Emulator, service: Callable[..., Any], reply: type[Any]
) -> None:
    """A URL that gives nothing is an error of the output, which does not show the query."""
    web = service(lambda _: reply(status=404))
    arm.put("/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")]})
    arm.put_job("encode/gone", http_input(f"{web.url}film.mp4?key=secret"), job_output("one"))
    arm.put_job("encode/mute", http_input("http://127.0.0.1:1/film.mp4"), job_output("two"))
    for path in ("encode/gone", "encode/mute"):
        job = ended(arm, path)
        error = job["outputs"][0]["error"]
        assert (job["state"], error["code"], error["category"]) == (
            "Error",
            "DownloadNotAccessible",
            "Download",
        )
        assert "secret" not in error["message"]
    for files in ([], ["a.mp4", "b.mp4"], ["file:///etc/passwd"]):
        answer = arm.send(
            "PUT",
            "/transforms/encode/jobs/bad",
            {"input": http_input(*files), "outputs": [job_output("one")]},
        )
        assert answer.status_code == 400


def test_a_job_is_canceled_while_it_encodes(
    arm: Arm, ams_emulator: Emulator, clips: Path, tmp_path: Path
) -> None:
    """The encoder stops, and job and output are Canceled."""
    long = tmp_path / "long.mp4"
    ffmpeg("-stream_loop", "120", "-i", clips / "detailed.mp4", "-c", "copy", long)
    arm.put("/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")]})
    arm.put_job("encode/job", film(ams_emulator, long), job_output("out"))
    wait_for(lambda: arm.job("encode/job")["outputs"][0]["progress"] > 0)
    assert arm.send("POST", "/transforms/encode/jobs/job/cancelJob").status_code == 200
    job = ended(arm, "encode/job")
    assert (job["state"], job["outputs"][0]["state"]) == ("Canceled", "Canceled")


def test_a_restart_keeps_what_v3_knows(clips: Path, tmp_path: Path) -> None:
    """Transforms, names, texts and assets outlive the process, and so does the way to a job."""
    kept: list[Any] = []
    for _ in range(2):
        with Emulator(data=tmp_path / "data", key="same-key") as ams:
            arm = Arm(ams)
            if not kept:
                arm.put(
                    "/transforms/encode", {"outputs": [built_in("AdaptiveStreaming")], "description": "x"}
                )
                more = {"description": "text", "correlationData": {"run": "1"}, "priority": "Low"}
                arm.put_job("Scripted/job", asset_input("film"), scripted("out", states=["Finished"]), **more)
            answers = [
                arm.get(path)
                for path in ("/transforms/encode", "/assets/out", "/transforms/Scripted/jobs/JOB")
            ]
            kept.append(answers)
            assert (
                arm.send("PUT", "/transforms/Scripted/jobs/job", answers[2]["properties"]).status_code == 409
            )
    assert kept[0] == kept[1]
