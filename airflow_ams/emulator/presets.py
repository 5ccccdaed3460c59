"""Presets of the Media Encoder Standard: the ladders behind their names, and thumbnails in JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


class BadConfiguration(Exception):
    """Raised when a task's Configuration is neither a known preset nor thumbnails; tells why."""


@dataclass(frozen=True)
class Rung:
    """One video of a ladder: the size in pixels, even numbers, and the bitrate in kbps."""

    width: int
    height: int
    kbps: int


@dataclass(frozen=True)
class Ladder:
    """A preset that makes MP4 files.

    :param rungs: the videos, largest first.
    :param audio_kbps: the bitrate of the stereo sound in each.
    :param below_source: whether no video gets a higher bitrate than the source has.
    :param quality: the constant quality (x264's CRF) at which the rungs' bitrates are only limits; None
        keeps to the bitrates.
    """

    rungs: tuple[Rung, ...]
    audio_kbps: int = 128
    below_source: bool = False
    quality: int | None = None


@dataclass(frozen=True)
class Layer:
    """A size of a thumbnail: pixels or percent (``"50%"``) of the source, None follows the other."""

    width: str | None
    height: str | None


@dataclass(frozen=True)
class Thumbnails:
    """A preset that makes pictures.

    :param extension: ``.png`` or ``.jpg``.
    :param start: time of the first picture, seconds or percent (``"10%"``); at ``{Best}`` the encoder
        chooses.
    :param step: time between pictures, None makes one.
    :param range: how long after the start, or None to the end.
    :param layers: the sizes that are made of each picture.
    :param file_name: with the macros Basename, Index, Extension, Width, Height in braces.
    """

    extension: str
    start: str
    step: str | None
    range: str | None
    layers: tuple[Layer, ...]
    file_name: str


_720P = (
    Rung(1280, 720, 3400),
    Rung(960, 540, 2250),
    Rung(960, 540, 1500),
    Rung(640, 360, 1000),
    Rung(640, 360, 650),
    Rung(320, 180, 400),
)
_1080P = (Rung(1920, 1080, 6000), Rung(1920, 1080, 4700), *_720P)

# Media Encoder Standard presets (public documentation). The Adaptive Bitrate sets are those of the
# encoder before it, which had the same ladders.
PRESETS: dict[str, Ladder] = {
    "H264 Single Bitrate 720p": Ladder((Rung(1280, 720, 4500),)),
    "H264 Single Bitrate 1080p": Ladder((Rung(1920, 1080, 6750),)),
    "H264 Multiple Bitrate 720p": Ladder(_720P),
    "H264 Multiple Bitrate 1080p": Ladder(_1080P),
    "H264 Adaptive Bitrate MP4 Set 720p": Ladder(_720P, audio_kbps=96),
    "H264 Adaptive Bitrate MP4 Set 1080p": Ladder(_1080P, audio_kbps=96),
}

# One rung a size, for the presets that fit themselves to the source.
_SIZES = (
    Rung(1920, 1080, 6000),
    Rung(1280, 720, 3400),
    Rung(960, 540, 2250),
    Rung(640, 360, 1000),
    Rung(320, 180, 400),
)
# The built-in presets of v3 (REST reference, EncoderNamedPreset) as far as they are offered.
# AdaptiveStreaming keeps what its documentation promises: no video is larger than the source or has a
# higher bitrate; where the steps are is the emulator's choice. ContentAwareEncoding was a closed algorithm;
# here it is the same ladder at constant quality, so that simple pictures get fewer bits, and the rungs'
# bitrates are limits.
BUILT_IN: dict[str, Ladder] = {
    "AdaptiveStreaming": Ladder(_SIZES, below_source=True),
    "ContentAwareEncoding": Ladder(_SIZES, below_source=True, quality=23),
    "H264SingleBitrate720p": PRESETS["H264 Single Bitrate 720p"],
    "H264SingleBitrate1080p": PRESETS["H264 Single Bitrate 1080p"],
    "H264MultipleBitrate720p": PRESETS["H264 Multiple Bitrate 720p"],
    "H264MultipleBitrate1080p": PRESETS["H264 Multiple Bitrate 1080p"],
}

_TIME = re.compile(r"\d+(?:\.\d+)?%|\d\d:[0-5]\d:[0-5]\d(?:\.\d+)?")
_SIZE = re.compile(r"[1-9]\d{0,4}|[1-9]\d?%|100%")
# What no file name has, or must not have: control characters, halves of characters, ways to other folders.
_BAD_NAME = re.compile(r"[\x00-\x1f\x7f/\\\ud800-\udfff]|\.\.")
_MACROS = {"{Basename}", "{Index}", "{Extension}", "{Width}", "{Height}"}
_PICTURES = {"PngImage": ("PngLayers", ".png"), "JpgImage": ("JpgLayers", ".jpg")}


def fit(ladder: Ladder, width: int, height: int, kbps: int | None = None) -> list[Rung]:
    """Return the rungs to encode for a source of *width* x *height*: shape kept, never scaled up.

    A rung is a box that the picture has to fill in one direction. Rungs larger than the source are
    left out; when all are, the smallest of them stays, at the size of the source. *kbps* is the source's
    bitrate: a ladder that stays below it begins there, and loses the steps that would repeat it.
    """
    fitting = []
    for rung in ladder.rungs:
        scale = min(rung.width / width, rung.height / height)
        if scale <= 1:
            fitting.append(Rung(_even(width * scale), _even(height * scale), rung.kbps))
    if not fitting:
        fitting.append(Rung(_even(width), _even(height), ladder.rungs[-1].kbps))
    if not ladder.below_source or kbps is None:
        return fitting
    below = [Rung(rung.width, rung.height, max(1, min(rung.kbps, kbps))) for rung in fitting]
    steps = [rung for before, rung in pairwise(below) if rung.kbps < before.kbps]
    return [below[0], *steps]


def read_configuration(text: str) -> Ladder | Thumbnails:
    """Return the preset that a task's Configuration names or describes.

    :raises BadConfiguration: it does neither.
    """
    for name, ladder in (PRESETS | BUILT_IN).items():
        if text.strip().lower() == name.lower():
            return ladder
    if not text.lstrip().startswith("{"):
        raise BadConfiguration(f"Unknown preset '{text.strip()[:100]}'. Known: {', '.join(PRESETS)}.")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadConfiguration(f"The preset is no valid JSON: {error}.") from None
    return _read_thumbnails(document)


def size_of(layer: Layer, width: int, height: int) -> tuple[int, int]:
    """Return the pixels of *layer* for a source of *width* x *height*, not larger than it."""
    wide, high = _pixels(layer.width, width), _pixels(layer.height, height)
    if wide is None and high is None:
        wide, high = width, height
    scale = min(1.0, *(part / whole for part, whole in ((wide, width), (high, height)) if part is not None))
    return max(1, round(width * scale)), max(1, round(height * scale))


def seconds_of(text: str, duration: float) -> float:
    """Return the seconds that ``HH:MM:SS.fff`` or a percentage of *duration* stands for."""
    if text.endswith("%"):
        return duration * float(text[:-1]) / 100
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _read_thumbnails(document: dict[str, Any]) -> Thumbnails:
    codecs, outputs = document.get("Codecs"), document.get("Outputs")
    if not isinstance(codecs, list) or len(codecs) != 1 or not isinstance(codecs[0], dict):
        raise BadConfiguration("A custom preset must have exactly one codec, PngImage or JpgImage.")
    codec = codecs[0]
    if codec.get("Type") not in _PICTURES:
        raise BadConfiguration(
            f"The codec {codec.get('Type')!r} is not supported, only PngImage and JpgImage."
        )
    layers_key, extension = _PICTURES[codec["Type"]]
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise BadConfiguration("A thumbnail preset must have exactly one entry in Outputs.")
    start = str(codec.get("Start", "{Best}"))
    if start != "{Best}" and not _TIME.fullmatch(start):
        raise BadConfiguration(f"Start is HH:MM:SS, a percentage or {{Best}}, not '{start}'.")
    return Thumbnails(
        extension=extension,
        start=start,
        step=_time(codec, "Step"),
        range=_time(codec, "Range"),
        layers=_read_layers(codec.get(layers_key), layers_key),
        file_name=_read_file_name(outputs[0].get("FileName")),
    )


def _read_layers(value: Any, key: str) -> tuple[Layer, ...]:
    if value is None:
        return (Layer("100%", "100%"),)
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise BadConfiguration(f"{key} is a list of layers.")
    return tuple(Layer(_size(entry, "Width"), _size(entry, "Height")) for entry in value)


def _read_file_name(value: Any) -> str:
    name = str(value)
    unknown = sorted(set(re.findall(r"\{\w*\}", name)) - _MACROS)
    if not isinstance(value, str) or not name or name == "." or _BAD_NAME.search(name) or unknown:
        raise BadConfiguration(
            f"FileName is a name with macros of {', '.join(sorted(_MACROS))}, not {value!r}."
        )
    return name


def _time(codec: dict[str, Any], key: str) -> str | None:
    value = codec.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise BadConfiguration(f"{key} is HH:MM:SS or a percentage, not {value!r}.")
    return value


def _size(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is None:
        return None
    if not _SIZE.fullmatch(str(value)):
        raise BadConfiguration(f"{key} is a number of pixels or a percentage, not {value!r}.")
    return str(value)


def _pixels(text: str | None, whole: int) -> float | None:
    if text is None:
        return None
    return whole * float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _even(pixels: float) -> int:
    return max(2, 2 * int(pixels / 2 + 1e-6))
