"""Fetching the input of a job from a URL, bounded in size and time."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

_MOST_BYTES = 2**31
_MOST_SECONDS = 600.0
_SOCKET_SECONDS = 10.0
_CHUNK = 2**18


class DownloadFailed(Exception):
    """Raised when nothing usable came from the URL; the text says why, without the URL's query."""


def name_in(url: str) -> str:
    """Return the file name at the end of a URL's path."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


async def download(url: str, target: Path) -> None:
    """Fetch *url* into *target*; when the calling task is canceled, the transfer stops soon after.

    :raises DownloadFailed: the server does not give the file, or not within the bounds.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    outcome: asyncio.Future[str | None] = loop.create_future()

    def settle(problem: str | None) -> None:
        if not outcome.done():
            outcome.set_result(problem)

    def work() -> None:
        problem = _fetch(url, target, stop)
        # The loop may be closed when the emulator has stopped meanwhile.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, problem)

    # A daemon, not the loop's executor: the end of the process does not wait for a server that is silent.
    threading.Thread(target=work, name="download", daemon=True).start()
    try:
        problem = await outcome
    finally:
        stop.set()
    if problem is not None:
        raise DownloadFailed(problem)


def _fetch(url: str, target: Path, stop: threading.Event) -> str | None:
    """Return what went wrong, None if nothing did."""
    where, deadline = urlsplit(url)._replace(query="", fragment="").geturl(), time.monotonic() + _MOST_SECONDS
    if urlsplit(url).scheme not in ("http", "https"):
        return f"{where} is neither http nor https."
    left = _MOST_BYTES
    try:
        with urllib.request.urlopen(url, timeout=_SOCKET_SECONDS) as answer, target.open("wb") as stream:
            while not stop.is_set() and (chunk := answer.read(_CHUNK)):
                left -= len(chunk)
                if left < 0 or time.monotonic() > deadline:
                    return f"{where} is too large, or takes too long."
                stream.write(chunk)
            if answer.length:
                return f"{where} ended before its end."
    except HTTPError as error:
        return f"{where} answered with status {error.code}."
    except (OSError, HTTPException, ValueError) as error:
        return f"{where} cannot be read: {getattr(error, 'reason', None) or error}."
    return None
