"""A client that was not written here: azure-mgmt-media 10.2.1, unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import imageio_ffmpeg
import pytest
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.media import AzureMediaServices
from azure.mgmt.media.models import (
    Asset,
    BuiltInStandardEncoderPreset,
    Job,
    JobInputAsset,
    JobInputs,
    JobOutputAsset,
    ListContainerSasInput,
    Preset,
    Transform,
    TransformOutput,
)

from airflow_ams.emulator.process import Emulator
from tests.integration.client import wait_for
from tests.integration.client_v3 import FINAL, SCRIPTED_PRESET, entra_token, rms_token
from tests.integration.test_emulator_encodes import ffmpeg, probe


class Signed(SansIOHTTPPolicy[Any, Any]):
    """Puts a token into each request; the package's own policy refuses addresses without TLS."""

    def __init__(self, token: str) -> None:
        self.token = token

    def on_request(self, request: PipelineRequest[Any]) -> None:
        """Sign one request."""
        request.http_request.headers["Authorization"] = f"Bearer {self.token}"


class ScriptedPreset(Preset):
    """The emulator's own preset, in the words of the package."""

    _attribute_map = {  # noqa: RUF012 - as the package has it
        "odata_type": {"key": "@odata\\.type", "type": "str"},
        "script": {"key": "script", "type": "object"},
    }

    def __init__(self, script: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.odata_type = SCRIPTED_PRESET
        self.script = script


class NoCredential:
    """Stands where the package wants a credential; the policy has the token."""

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        """Refuse: it is never asked."""
        raise AssertionError("the package asked for a token of its own")


class Media:
    """The package, and the names that each of its calls wants."""

    def __init__(self, ams: Emulator, api: str, token: str) -> None:
        extra = ams.connections[api]["extra"]
        self.ams = ams
        # Of its models nearly everything may be None, which only makes checks of them longer.
        self.client: Any = AzureMediaServices(
            NoCredential(),
            extra["subscription_id"],
            base_url=ams.url.rstrip("/"),
            authentication_policy=Signed(token),
            retry_backoff_factor=0.1,
        )
        self.where = (extra["resource_group"], extra["account_name"])

    def create(self, name: str, **script: Any) -> Any:
        """Create a job that follows a script."""
        self.client.assets.create_or_update(*self.where, f"{name}-out", Asset())
        job = Job(
            input=JobInputAsset(asset_name="any"),
            outputs=[JobOutputAsset(asset_name=f"{name}-out", preset_override=ScriptedPreset(script))],
        )
        return self.client.jobs.create(*self.where, "Scripted", name, job)

    def get(self, name: str, transform: str = "Scripted") -> Any:
        """Return a job."""
        return self.client.jobs.get(*self.where, transform, name)

    def names(self, **options: str) -> list[str]:
        """Return the names of the scripted jobs that a list has."""
        return [job.name for job in self.client.jobs.list(*self.where, "Scripted", **options)]


@pytest.fixture(params=["arm", "rms"])
def media(request: pytest.FixtureRequest, ams_emulator: Emulator) -> Iterator[Media]:
    """Return the package, signed in to Azure and to RMS in turn."""
    token = {"arm": entra_token, "rms": rms_token}[request.param](ams_emulator)
    media = Media(ams_emulator, request.param, token)
    yield media
    media.client.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a second of film."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=1", path)
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 25
    return path


def upload(media: Media, name: str, file: Path) -> None:
    """Make an asset of a file, as the samples do."""
    media.client.assets.create_or_update(*media.where, name, Asset(description="a clip"))
    wanted = ListContainerSasInput(
        permissions="ReadWrite", expiry_time=datetime.now(timezone.utc) + timedelta(hours=1)
    )
    container = media.client.assets.list_container_sas(*media.where, name, wanted).asset_container_sas_urls[0]
    url = urlsplit(container)
    target = url._replace(path=f"{url.path}/{file.name}").geturl()
    headers = {"x-ms-blob-type": "BlockBlob"}
    assert requests.put(target, data=file.read_bytes(), headers=headers, timeout=30).status_code == 201


def test_it_encodes(media: Media, clip: Path, tmp_path: Path) -> None:
    """Transform, assets, job, and the film that comes out."""
    upload(media, "film", clip)
    media.client.assets.create_or_update(*media.where, "encoded", Asset())
    preset = BuiltInStandardEncoderPreset(preset_name="AdaptiveStreaming")
    made = media.client.transforms.create_or_update(
        *media.where, "encode", Transform(outputs=[TransformOutput(preset=preset)])
    )
    assert made.outputs[0].preset.preset_name == "AdaptiveStreaming"
    job = media.client.jobs.create(
        *media.where,
        "encode",
        "job-1",
        Job(
            input=JobInputAsset(asset_name="film"),
            outputs=[JobOutputAsset(asset_name="encoded", label="all")],
            correlation_data={"run": "1"},
        ),
    )
    assert (job.state in FINAL, isinstance(job.input, JobInputAsset)) == (False, True)

    def ended() -> Any:
        current = media.client.jobs.get(*media.where, "ENCODE", "Job-1")
        return current if current.state in FINAL else None

    job = wait_for(ended)
    (output,) = job.outputs
    assert (job.state, output.state, output.progress, output.label) == ("Finished", "Finished", 100, "all")
    assert (output.error, output.asset_name, job.correlation_data) == (None, "encoded", {"run": "1"})
    assert isinstance(job.input, JobInputs)
    assert job.created <= job.start_time <= job.end_time
    media.ams.api = "arm"
    files = media.ams.download_outputs("encode/job-1", tmp_path)
    sizes = {probe(file)["size"] for file in files}
    assert (640, 360) in sizes
    assert {probe(file)["video"] for file in files} == {"h264"}


def test_it_lists_with_filters_and_over_pages(media: Media) -> None:
    """A page holds what the limits say, and the links between pages lead through all of it."""
    media.ams.limit(page_size=2)
    for name in ("one", "two", "three", "four", "five"):
        media.create(name, states=["Processing" if name == "four" else "Finished"])
    assert media.names() == ["one", "two", "three", "four", "five"]
    assert media.names(orderby="name desc") == ["two", "three", "one", "four", "five"]
    assert media.names(filter="properties/state ne Microsoft.Media.JobState'Processing'", orderby="name") == [
        "five",
        "one",
        "three",
        "two",
    ]
    assert media.names(filter="properties/state eq Microsoft.Media.JobState'processing'") == ["four"]
    since = media.get("four").created.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert media.names(filter=f"properties/created ge {since}", orderby="properties/created desc") == [
        "five",
        "four",
    ]
    assert media.names(filter="name eq 'one' or name eq 'two'") == ["one", "two"]
    with pytest.raises(HttpResponseError) as refused:
        media.names(filter="properties/state eq 'Processing'")
    assert refused.value.status_code == 400
    assert len(media.ams.requests("/jobs$")) > 10


def test_it_changes_cancels_and_deletes(media: Media) -> None:
    """Each change is answered as the package expects, and is there when it reads again."""
    created = media.create("job", states=["Processing"], canceling=60)
    assert (created.priority, created.description) == ("Normal", None)
    changed = media.client.jobs.update(
        *media.where, "Scripted", "job", Job(description="a text", priority="High")
    )
    assert (changed.description, changed.priority) == ("a text", "High")
    assert changed.last_modified > created.last_modified
    assert media.client.jobs.cancel_job(*media.where, "Scripted", "job") is None
    assert media.get("job").state == "Canceling"
    with pytest.raises(HttpResponseError) as refused:
        media.client.jobs.delete(*media.where, "Scripted", "job")
    assert refused.value.status_code == 400
    assert "'Canceling' state" in refused.value.message
    media.ams.advance(61)
    assert media.get("job").state == "Canceled"
    media.client.jobs.delete(*media.where, "Scripted", "job")
    media.client.jobs.delete(*media.where, "Scripted", "job")
    with pytest.raises(ResourceNotFoundError):
        media.get("job")
    assert [one["status"] for one in media.ams.requests("/jobs/job$") if one["method"] == "DELETE"] == [
        400,
        200,
        204,
    ]


def test_transforms_and_assets(media: Media) -> None:
    """They can be made, changed, listed and deleted."""
    preset = BuiltInStandardEncoderPreset(preset_name="H264SingleBitrate720p")
    outputs = [TransformOutput(preset=preset, on_error="ContinueJob")]
    transforms, assets = media.client.transforms, media.client.assets
    transforms.create_or_update(*media.where, "encode", Transform(outputs=outputs, description="first"))
    changed = transforms.update(*media.where, "encode", Transform(description="second"))
    assert (changed.description, changed.outputs[0].on_error) == ("second", "ContinueJob")
    assert "encode" in [one.name for one in transforms.list(*media.where)]
    transforms.delete(*media.where, "encode")
    with pytest.raises(ResourceNotFoundError):
        transforms.get(*media.where, "Encode")
    assets.create_or_update(*media.where, "film", Asset(description="a film", alternate_id="f1"))
    assert [one.alternate_id for one in assets.list(*media.where, filter="name eq 'film'")] == ["f1"]
    assets.delete(*media.where, "film")
    with pytest.raises(ResourceNotFoundError):
        assets.get(*media.where, "film")
    assert media.client.mediaservices.get(*media.where).name == media.ams.account


def test_it_sees_the_right_errors(media: Media) -> None:
    """An absent job, a name taken, and a token that is none."""
    media.create("job")
    with pytest.raises(ResourceNotFoundError, match=r"\(NotFound\)"):
        media.get("other")
    with pytest.raises(ResourceExistsError):
        media.create("job")
    preset = BuiltInStandardEncoderPreset(preset_name="NoSuchPreset")
    with pytest.raises(HttpResponseError) as refused:
        media.client.transforms.create_or_update(
            *media.where, "encode", Transform(outputs=[TransformOutput(preset=preset)])
        )
    assert refused.value.status_code == 400
    stranger = Media(media.ams, "arm", "no-token")
    with pytest.raises(ClientAuthenticationError):
        stranger.get("job")


def test_a_failed_output(media: Media) -> None:
    """All that an output's error has arrives, in a job that has finished all the same."""
    error = {
        "code": "ContentMalformed",
        "message": "No film.",
        "category": "Content",
        "retry": "DoNotRetry",
        "details": [{"code": "X1", "message": "Not at all."}],
    }
    media.create("job", states=["Finished"], tasks=2, error=error, on_error="ContinueJob")
    job = media.get("job")
    assert (job.state, [output.state for output in job.outputs]) == ("Finished", ["Error", "Finished"])
    seen = job.outputs[0].error
    assert (seen.code, seen.message, seen.category, seen.retry) == tuple(error.values())[:4]
    assert [(detail.code, detail.message) for detail in seen.details] == [("X1", "Not at all.")]
