"""ffmpeg as a child process: looking at a file, and running with progress until done or canceled."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_BITRATE = re.compile(r"Duration: .*, bitrate: (\d+) kb/s")
_VIDEO = re.compile(r"Stream #.*?: Video: .*?(?P<rest>, \d{2,5}x\d{2,5}.*)")
_SIZE = re.compile(r", (\d{2,5})x(\d{2,5})(?: \[SAR (\d+):(\d+))?")
_QUARTER_TURN = re.compile(r"rotation of -?(?:90|270)\.")
# What ffmpeg puts before a reason: "[mov,mp4 @ 0x5581]" and the like.
_ORIGIN = re.compile(r"^(?:\[[^\]]*\] *)*(?:Error opening input: )?")
_NO_REASON = re.compile(r"misdetection possible|^Error opening input files?\b|^At least one output")
# Formats whose files hold all their media themselves. Playlists (hls, dash, concat), image sequences and the
# like name other files, which ffmpeg would read from anywhere on the machine.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,mxf,gxf,ogg,nut,ivf,dv,gif,yuv4mpegpipe,"
    "h263,h264,hevc,vvc,vc1,obu,wav,w64,mp3,aac,ac3,eac3,flac,aiff,caf"
)
_REFUSED = "Format not on whitelist"
_REFUSED_REASON = (
    "The file is a playlist, a picture or something else that does not hold the video itself; "
    "formats that are taken are MP4, MOV, MKV, WebM, AVI, MPEG-TS and their like."
)
_GRACE = 2.0
_SIGNALLED = 255
# Keeps a colon in a path from being read as a protocol's.
_FILE = "file:"
_SHUTDOWN_SECONDS = 3.0


class MediaError(Exception):
    """Raised when ffmpeg cannot do it; the text is its own reason, in one line."""


@dataclass(frozen=True)
class Media:
    """What a file holds: seconds (None if unknown), the size at which it is shown, and whether it has sound.

    A file without a picture has the size 0 x 0. The bitrate is that of the whole file, None if unknown.
    """

    duration: float | None
    width: int
    height: int
    audio: bool
    kbps: int | None = None


def input_arguments(path: Path) -> list[str]:
    """Return the arguments that make ffmpeg read *path*, and nothing that the file may point to."""
    return ["-protocol_whitelist", "file", "-format_whitelist", _FORMATS, "-i", f"{_FILE}{path}"]


async def probe(path: Path) -> Media:
    """Look at a media file; there is no ffprobe, so this reads what ``ffmpeg -i`` says.

    :raises MediaError: it is no media file.
    """
    arguments = input_arguments(path)
    process = await _start(["-hide_banner", *arguments])
    try:
        _, stderr = await process.communicate()
    finally:
        await _stop(process)
    await _sit_out_shutdown(process.returncode)
    text = stderr.decode("utf-8", "replace")
    if "Stream #" not in text:
        raise MediaError(_reason(text, arguments))
    duration = _DURATION.search(text)
    seconds = None
    if duration:
        seconds = int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3])
    width, height = _shown_size(text)
    audio, bitrate = re.search(r"Stream #.*?: Audio: ", text), _BITRATE.search(text)
    return Media(seconds, width, height, audio is not None, int(bitrate[1]) if bitrate else None)


def _shown_size(text: str) -> tuple[int, int]:
    video = _VIDEO.search(text)
    size = _SIZE.search(video["rest"]) if video else None
    if size is None:
        return 0, 0
    width, height = int(size[1]), int(size[2])
    if size[3] and int(size[3]) and int(size[4]):
        width = round(width * int(size[3]) / int(size[4]))
    return (height, width) if _QUARTER_TURN.search(text) else (width, height)


async def run(
    arguments: Sequence[str],
    *,
    duration: float | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Run ffmpeg to its end; when the calling task is canceled, the process is stopped first.

    :param arguments: without the program.
    :param duration: seconds of media that will be worked through, for the progress.
    :param on_progress: is called with percent as it goes on.
    :raises MediaError: it failed.
    """
    process = await _start(
        ["-hide_banner", "-nostdin", "-y", "-loglevel", "error", "-progress", "pipe:1", *arguments]
    )
    output = process.stdout or asyncio.StreamReader()
    errors = asyncio.create_task((process.stderr or asyncio.StreamReader()).read())
    try:
        async for line in output:
            if duration and on_progress and line.startswith(b"out_time_us=") and line[12:].strip().isdigit():
                on_progress(min(100.0, int(line[12:]) / 10_000 / duration))
        code = await process.wait()
        text = (await errors).decode("utf-8", "replace")
    finally:
        errors.cancel()
        await _stop(process)
    await _sit_out_shutdown(code)
    if code != 0:
        raise MediaError(_reason(text, arguments))


async def _start(arguments: Sequence[str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        imageio_ffmpeg.get_ffmpeg_exe(),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
    )


async def _sit_out_shutdown(code: int | None) -> None:
    """Wait if a signal has ended ffmpeg: Ctrl-C in a terminal reaches it as well as the emulator.

    The emulator's own stop is on its way then and cancels the wait, so that the job has not failed but
    starts again after a restart.
    """
    if code is not None and (code < 0 or code == _SIGNALLED):
        await asyncio.sleep(_SHUTDOWN_SECONDS)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _GRACE)
    except asyncio.TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _reason(text: str, arguments: Sequence[str]) -> str:
    """Return what says most among ffmpeg's complaints, in one line, files without their folders.

    :param text: what it said.
    :param arguments: what it was started with.
    """
    if _REFUSED in text:
        return _REFUSED_REASON
    lines = [_ORIGIN.sub("", line.strip()) for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if not _NO_REASON.search(line)][:2]
    reason = ": ".join(dict.fromkeys(reasons)) or "The file cannot be read as media."
    for file in (argument for argument in arguments if argument.startswith(_FILE)):
        path = Path(file.removeprefix(_FILE))
        reason = reason.replace(file, path.name).replace(str(path), path.name)
    return reason
