"""The Media Encoder Standard: one input file and a preset in, files out, by ffmpeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from airflow_ams.emulator import ffmpeg
from airflow_ams.emulator.assets import check_file_name
from airflow_ams.emulator.errors import InvalidRequest
from airflow_ams.emulator.presets import (
    BadConfiguration,
    Ladder,
    Thumbnails,
    fit,
    read_configuration,
    seconds_of,
    size_of,
)

OnProgress = Callable[[float], None]


class EncodeFailed(Exception):
    """Raised when a task fails, with what goes into its ErrorDetails.

    :param code: one of the encoding error codes (public documentation).
    :param message: what is wrong, in one line.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Encoder:
    """Encodes for real."""

    async def encode(
        self, source: Path, name: str, configuration: str, folder: Path, on_progress: OnProgress
    ) -> list[Path]:
        """Encode one file.

        :param source: the input file.
        :param name: its name in the asset, from which the outputs' names are made.
        :param configuration: a preset's name (v2 or v3), or thumbnails in JSON.
        :param folder: where the outputs go.
        :param on_progress: is called with percent.
        :returns: the files made.
        :raises EncodeFailed: the configuration or the input is not good.
        """
        try:
            preset = read_configuration(configuration)
        except BadConfiguration as error:
            raise EncodeFailed("ErrorParsingConfiguration", str(error)) from None
        try:
            media = await ffmpeg.probe(source)
        except ffmpeg.MediaError as error:
            raise EncodeFailed("ErrorDownloadingInputAssetMalformedContent", f"{name}: {error}") from None
        if not media.width:
            raise EncodeFailed(
                "ErrorExecutingTaskUnsupportedFormat", f"{name}: the input has no video track to encode."
            )
        # Not a path with the stem at its end: the stem of '..mp4' is a dot.
        base = Path(name).stem
        try:
            if isinstance(preset, Ladder):
                return await _encode_ladder(preset, source, media, folder, base, on_progress)
            return await _take_thumbnails(preset, source, media, folder, base, on_progress)
        except ffmpeg.MediaError as error:
            raise EncodeFailed("ErrorExecutingTaskMalformedContent", f"{name}: {error}") from None


async def _encode_ladder(
    ladder: Ladder, source: Path, media: ffmpeg.Media, folder: Path, base: str, on_progress: OnProgress
) -> list[Path]:
    arguments, files = ffmpeg.input_arguments(source), []
    for rung in fit(ladder, media.width, media.height, media.kbps):
        file = folder / f"{base}_{rung.width}x{rung.height}_{rung.kbps}.mp4"
        files.append(file)
        arguments += ["-map", "0:v:0", "-map", "0:a:0?", "-sn", "-dn"]
        arguments += ["-vf", f"scale={rung.width}:{rung.height},setsar=1,format=yuv420p"]
        arguments += ["-c:v", "libx264", "-preset", "veryfast"]
        arguments += ["-b:v", f"{rung.kbps}k"] if ladder.quality is None else ["-crf", str(ladder.quality)]
        arguments += ["-maxrate", f"{rung.kbps}k", "-bufsize", f"{rung.kbps * 5}k"]
        # Key frames every two seconds in every rung, so that players can change between them.
        arguments += ["-force_key_frames", "expr:gte(t,n_forced*2)"]
        arguments += ["-c:a", "aac", "-b:a", f"{ladder.audio_kbps}k", "-ac", "2", "-ar", "48000"]
        arguments += ["-movflags", "+faststart", f"file:{file}"]
    await ffmpeg.run(arguments, duration=media.duration, on_progress=on_progress)
    return files


async def _take_thumbnails(
    preset: Thumbnails, source: Path, media: ffmpeg.Media, folder: Path, base: str, on_progress: OnProgress
) -> list[Path]:
    times = thumbnail_times(preset, media.duration or 0.0)
    files: list[Path] = []
    for index, time in enumerate(times, start=1):
        seek = [] if time is None else ["-ss", f"{time:.3f}"]
        arguments = [*seek, *ffmpeg.input_arguments(source)]
        for layer in preset.layers:
            width, height = size_of(layer, media.width, media.height)
            file = folder / _picture_name(preset, base, index, width, height)
            if file in files:
                raise EncodeFailed(
                    "ErrorParsingConfiguration", f"FileName gives '{file.name}' to more than one picture."
                )
            files.append(file)
            choose = "thumbnail," if time is None else ""
            arguments += [
                "-map",
                "0:v:0",
                "-frames:v",
                "1",
                "-vf",
                f"{choose}scale={width}:{height},setsar=1",
            ]
            arguments += ["-q:v", "2", "-update", "1", f"file:{file}"]
        await ffmpeg.run(arguments)
        on_progress(100.0 * index / len(times))
    # A time just before the end may lie after the last frame; ffmpeg then writes nothing.
    return [file for file in files if file.is_file()]


def thumbnail_times(preset: Thumbnails, duration: float) -> list[float | None]:
    """Return the seconds at which pictures are taken; a single None lets ffmpeg choose one."""
    if preset.start == "{Best}":
        return [None]
    start = min(seconds_of(preset.start, duration), max(0.0, duration - 0.1))
    step = seconds_of(preset.step, duration) if preset.step else 0.0
    if step <= 0:
        return [start]
    end = min(duration, start + seconds_of(preset.range, duration)) if preset.range else duration
    return [start + number * step for number in range(1 + int(max(0.0, end - 1e-6 - start) / step))]


def _picture_name(preset: Thumbnails, base: str, index: int, width: int, height: int) -> str:
    values = {
        "{Basename}": base,
        "{Index}": f"{index:06d}",
        "{Extension}": preset.extension,
        "{Width}": str(width),
        "{Height}": str(height),
    }
    name = preset.file_name
    for macro, value in values.items():
        name = name.replace(macro, value)
    try:
        return check_file_name(name)
    except InvalidRequest as error:
        # For instance too long, once the input's name is in it.
        raise EncodeFailed("ErrorParsingConfiguration", f"FileName: {error}") from None
