"""Presets of the Media Encoder Standard."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ams.emulator.encoder import thumbnail_times
from airflow_ams.emulator.presets import (
    PRESETS,
    BadConfiguration,
    Ladder,
    Layer,
    Thumbnails,
    fit,
    read_configuration,
    size_of,
)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("H264 Single Bitrate 720p", (1920, 1080), [(1280, 720, 4500)]),
        ("H264 Single Bitrate 720p", (640, 360), [(640, 360, 4500)]),
        ("H264 Multiple Bitrate 720p", (640, 360), [(640, 360, 1000), (640, 360, 650), (320, 180, 400)]),
        ("H264 Adaptive Bitrate MP4 Set 720p", (160, 90), [(160, 90, 400)]),
        ("H264 Single Bitrate 1080p", (1080, 1920), [(606, 1080, 6750)]),
        ("H264 Single Bitrate 720p", (1281, 721), [(1278, 720, 4500)]),
    ],
)
def test_ladder_for_a_source(name: str, size: tuple[int, int], expected: list[tuple[int, int, int]]) -> None:
    """Rungs above the source are left out, one always stays, the shape is kept, and all is even."""
    assert [(rung.width, rung.height, rung.kbps) for rung in fit(PRESETS[name], *size)] == expected


@given(st.sampled_from(sorted(PRESETS)), st.integers(2, 8000), st.integers(2, 8000))
def test_ladder_never_scales_up(name: str, width: int, height: int) -> None:
    """No rung is larger than the source, and there is at least one."""
    rungs = fit(PRESETS[name], width, height)
    assert rungs
    for rung in rungs:
        assert 2 <= rung.width <= width
        assert 2 <= rung.height <= height
        assert rung.width % 2 == rung.height % 2 == 0


def test_documented_ladders() -> None:
    """The multiple bitrate presets have the documented bitrates."""
    assert [r.kbps for r in PRESETS["H264 Multiple Bitrate 720p"].rungs] == [3400, 2250, 1500, 1000, 650, 400]
    kbps = [r.kbps for r in PRESETS["H264 Adaptive Bitrate MP4 Set 1080p"].rungs]
    assert kbps == [6000, 4700, 3400, 2250, 1500, 1000, 650, 400]


def thumbnails(**codec: Any) -> str:
    """Return a thumbnail preset."""
    codec = {"Type": "PngImage", "Start": "0%", **codec}
    outputs = [{"FileName": "{Basename}_{Index}{Extension}", "Format": {"Type": "PngFormat"}}]
    return json.dumps({"Version": 1.0, "Codecs": [codec], "Outputs": outputs})


def test_configuration_is_a_name_or_thumbnails() -> None:
    """A preset's name is taken in any case; one picture codec in JSON is thumbnails."""
    assert isinstance(read_configuration(" h264 single bitrate 720P "), Ladder)
    preset = read_configuration(thumbnails(Step="25%", PngLayers=[{"Width": 640}]))
    assert preset == Thumbnails(
        ".png", "0%", "25%", None, (Layer("640", None),), "{Basename}_{Index}{Extension}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "H264 Single Bitrate 4K",
        "{not json",
        "<?xml version='1.0'?><Preset/>",
        json.dumps({"Codecs": []}),
        json.dumps({"Codecs": [{"Type": "H264Video"}], "Outputs": [{}]}),
        json.dumps({"Codecs": [{"Type": "PngImage"}, {"Type": "JpgImage"}], "Outputs": [{"FileName": "a"}]}),
        json.dumps({"Codecs": [{"Type": "PngImage"}]}),
        json.dumps({"Codecs": [{"Type": "PngImage"}], "Outputs": [{"FileName": "../{Index}.png"}]}),
        json.dumps({"Codecs": [{"Type": "PngImage"}], "Outputs": [{"FileName": "{Wrong}.png"}]}),
        thumbnails(Start="soon"),
        thumbnails(Step="x"),
        thumbnails(PngLayers="all"),
        thumbnails(PngLayers=[{"Width": "0%"}]),
    ],
)
def test_other_configurations_are_refused(text: str) -> None:
    """What the emulator's encoder cannot do is refused, not done differently."""
    with pytest.raises(BadConfiguration):
        read_configuration(text)


@pytest.mark.parametrize(
    "name",
    ["a\0b.png", "..", ".", "../x.png", "a/../x.png", "/x.png", "a\\b.png", "a\nb.png", "\ud800.png", ""],
)
def test_file_name_that_is_none(name: str) -> None:
    """A FileName that no file can have, or that leads elsewhere, is refused by its name in one line."""
    codecs = [{"Type": "PngImage", "Start": "0%"}]
    text = json.dumps({"Version": 1.0, "Codecs": codecs, "Outputs": [{"FileName": name}]})
    with pytest.raises(BadConfiguration, match=r"^FileName") as error:
        read_configuration(text)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Layer("100%", "100%"), (640, 360)),
        (Layer("50%", None), (320, 180)),
        (Layer(None, "90"), (160, 90)),
        (Layer("5000", None), (640, 360)),
        (Layer(None, None), (640, 360)),
    ],
)
def test_thumbnail_size(layer: Layer, expected: tuple[int, int]) -> None:
    """A layer's size is pixels or percent, the other side follows, and nothing grows."""
    assert size_of(layer, 640, 360) == expected


@pytest.mark.parametrize(
    ("start", "step", "range_", "expected"),
    [
        ("0%", "25%", None, [0, 2.5, 5, 7.5]),
        ("00:00:02", "00:00:03", "50%", [2, 5]),
        ("50%", None, None, [5]),
        ("00:01:00", None, None, [9.9]),
        ("{Best}", "25%", None, [None]),
    ],
)
def test_thumbnail_times(
    start: str, step: str | None, range_: str | None, expected: list[float | None]
) -> None:
    """Start, Step and Range are times or percent of the whole; there is always a picture."""
    preset = Thumbnails(".png", start, step, range_, (), "x")
    assert thumbnail_times(preset, 10.0) == expected
