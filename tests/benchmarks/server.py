"""A lean media service to measure waits against; it runs in a process of its own.

``python -m tests.benchmarks.server`` prints two ports: one speaks AMS v2, ARM, MK.IO, a polled result (what
`HttpSensor` waits for) and the run status of dbt Cloud, all about the same jobs; the other takes commands as
JSON. It ends when its standard input does. Rows are rendered once, so that it is never what a measurement
waits for: it answers a page of a thousand jobs in a few milliseconds at most. It knows little more than the
triggers ask for; the emulator is the service to test against.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import resource
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tests.benchmarks.answers import UnknownRequest, answer, in_json
from tests.benchmarks.jobs import PROCESSING, Account
from tests.benchmarks.v2 import V2, job_id
from tests.benchmarks.v3 import ARM_ROOT, MKIO_ROOT, Arm, Mkio

DBT_STATUS = {0: 1, 1: 2, 2: 3, 3: 10, 4: 20, 5: 30, 6: 3}
"""The run status of dbt Cloud that stands for each job state: queued, starting, running, then the ends."""

_RESULT = re.compile(r"/jobs/(\d+)/result")
_RUN = re.compile(r"/api/v2/accounts/\d+/runs/(\d+)/(cancel/)?")


@dataclass
class Faults:
    """What goes wrong: shares of the requests, and one outage.

    :param outage_at: time of the system's clock
    :param sign_in: whether sign-ins meet the faults too; the outage they always do
    """

    busy: float = 0.0
    cut: float = 0.0
    html: float = 0.0
    truncated: float = 0.0
    throttled: float = 0.0
    outage_at: float = 0.0
    outage_seconds: float = 0.0
    sign_in: bool = False
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self) -> str:
        """Return which fault the next request meets; empty for none."""
        point = self._random.random()
        for name in ("busy", "cut", "html", "truncated", "throttled"):
            point -= getattr(self, name)
            if point < 0:
                self.counts[name] += 1
                return name
        return ""


class Media:
    """The services, all about the same jobs."""

    def __init__(self) -> None:
        self.reset()

    def reset(
        self, jobs: int = 0, ended: int = 0, interval: float = 5.0, token_lifetime: float | None = None
    ) -> dict[str, Any]:
        """Begin anew.

        :param interval: seconds between two polls of a job that are due
        :param token_lifetime: seconds that a token is good for; None: every token is
        """
        self.account = account = Account(jobs, ended, interval)
        self._v2, self._arm, self._mkio = V2(account), Arm(account), Mkio(account)
        self.faults = Faults()
        self.token_lifetime = token_lifetime
        self.tokens: dict[str, float] = {}
        self.requests = 0
        self.seconds: Counter[int] = Counter()
        self.last_request = 0.0
        return {}

    def respond(self, method: str, target: str, headers: bytes) -> tuple[bytes, bool]:
        """Answer a request, or fail to; the flag says to cut the connection after these bytes."""
        now = time.time()
        self.account.jobs.settle(now)
        self.requests += 1
        self.seconds[int(now)] += 1
        self.last_request = now
        fault = self.faults.draw() if self.faults.sign_in or target != "/token" else ""
        if fault == "busy":
            return answer(503, b"The server is busy.", "text/plain"), False
        if fault == "html":
            return answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", "text/html"), False
        if fault == "throttled":
            return answer(429, b"Slow down.", "text/plain", "Retry-After: 1\r\n"), False
        try:
            good = self._good(method, target, headers, now)
        except UnknownRequest as exc:
            self.account.counts["unknown"] += 1
            good = in_json(400, {"odata.error": {"code": "", "message": {"value": str(exc)}}})
        if fault == "cut":
            # Half of them before a byte was sent, half in the middle of the body.
            return (good[: len(good) * 2 // 3] if self.faults.counts["cut"] % 2 else b""), True
        if fault == "truncated":
            head, _, body = good.partition(b"\r\n\r\n")
            status = int(head[9:12])
            return answer(status, body[: len(body) // 2], "application/json"), False
        return good, False

    def _good(self, method: str, target: str, headers: bytes, now: float) -> bytes:
        path, _, query = target.partition("?")
        if match := _RESULT.fullmatch(path):
            return self._result(int(match[1]), now)
        if match := _RUN.fullmatch(path):
            return self._run(int(match[1]), bool(match[2]), now)
        if path == "/token":
            return self._token(now)
        if self.token_lifetime is not None and not self._is_good(headers, now):
            self.account.counts["refused"] += 1
            return in_json(401, {"odata.error": {"code": "", "message": {"value": "The token has expired"}}})
        options = {name: values[-1] for name, values in parse_qs(query).items()}
        if path.startswith(ARM_ROOT):
            return self._arm.respond(method, path, options, now)
        if path.startswith(MKIO_ROOT):
            return self._mkio.respond(method, path, options, now)
        return self._v2.respond(method, path, options, now)

    def _result(self, index: int, now: float) -> bytes:
        """Answer as a service does whose result is not there until the job has ended: 404 till then."""
        self.account.counts["http"] += 1
        self.account.readings.note((index,), now)
        state = self.account.jobs.states[index]
        if state <= PROCESSING:
            return in_json(404, {"error": {"code": "NotFound", "message": "There is no result yet"}})
        return in_json(200, {"job": job_id(index), "state": state})

    def _run(self, index: int, is_cancel: bool, now: float) -> bytes:
        if is_cancel:
            self.account.canceled.append(index)
        self.account.counts["dbt"] += 1
        self.account.readings.note((index,), now)
        status = DBT_STATUS[self.account.jobs.states[index]]
        run = {
            "id": index,
            "account_id": 1,
            "project_id": 12,
            "job_definition_id": 34,
            "status": status,
            "is_complete": status >= 10,
            "is_success": status == 10,
            "is_error": status == 20,
            "is_cancelled": status == 30,
            "created_at": "2026-01-01 00:00:00.000000+00:00",
            "duration": "00:10:00",
            "href": f"https://cloud.getdbt.com/#/accounts/1/projects/12/runs/{index}/",
        }
        return in_json(200, {"status": {"code": 200, "is_success": True}, "data": run})

    def _token(self, now: float) -> bytes:
        self.account.counts["token"] += 1
        token = f"token-{self.account.counts['token']}-{now}"
        lifetime = 3600.0 if self.token_lifetime is None else self.token_lifetime
        self.tokens[token] = now + lifetime
        return in_json(200, {"token_type": "Bearer", "access_token": token, "expires_in": str(int(lifetime))})

    def _is_good(self, headers: bytes, now: float) -> bool:
        match = re.search(rb"(?im)^Authorization: *Bearer (\S+)", headers)
        return bool(match) and self.tokens.get(match[1].decode() if match else "", 0.0) > now


class Control:
    """The commands: a method each, with the JSON object's other members as its arguments."""

    def __init__(self, media: Media, door: Door) -> None:
        self._media = media
        self._door = door

    def respond(self, method: str, target: str, headers: bytes, body: bytes) -> bytes:
        """Carry out a command and answer with what it returns."""
        command = json.loads(body)
        name = command.pop("do")
        try:
            return in_json(200, getattr(self, f"do_{name}")(**command))
        except Exception as exc:
            return in_json(500, {"error": repr(exc)})

    def do_reset(self, **settings: Any) -> dict[str, Any]:
        """Begin anew; see `Media.reset`."""
        return self._media.reset(**settings)

    def do_window(self) -> dict[str, Any]:
        """Begin to count how punctually jobs are read."""
        self._media.account.open_window()
        return self.do_counts()

    def do_counts(self) -> dict[str, Any]:
        """Return everything counted since the last reset, and since the last window for the readings."""
        media = self._media
        return {
            "now": time.time(),
            "cpu": time.process_time(),
            "requests": media.requests,
            "kinds": media.account.counts,
            "faults": media.faults.counts,
            "per_second": {str(second): count for second, count in media.seconds.items()},
            "readings": media.account.readings.result(),
            "canceled": media.account.canceled,
            "last_request": media.last_request,
        }

    def do_end(self, ends: list[tuple[int, float, int]]) -> dict[str, Any]:
        """Let jobs end: number, time of the system's clock, state."""
        for index, moment, state in ends:
            self._media.account.jobs.schedule(index, moment, state)
        return {}

    def do_ends(self) -> dict[str, Any]:
        """Return when each job ended that has, and how."""
        jobs = self._media.account.jobs
        jobs.settle(time.time())
        return {str(index): [moment, jobs.states[index]] for index, moment in jobs.ends.items()}

    def do_faults(self, **settings: Any) -> dict[str, Any]:
        """Let things go wrong from now on; see `Faults`."""
        self._media.faults = faults = Faults(**settings)
        if faults.outage_seconds:
            self._door.shut_between(faults.outage_at, faults.outage_at + faults.outage_seconds)
        return {}


class Conversation(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, and nothing of it that the clients here do not use."""

    def __init__(self, handle: Callable[[str, str, bytes, bytes], tuple[bytes, bool]], door: Door) -> None:
        self._handle = handle
        self._door = door
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way back."""
        assert isinstance(transport, asyncio.Transport)
        # An answer of a page is larger than the default, and is not worth a pause.
        transport.set_write_buffer_limits(high=4 * 1024 * 1024)
        self._transport = transport
        self._door.inside.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._door.inside.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        while not self._transport.is_closing():
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self._buffer = rest[size:]
            method, target, _ = head[: head.index(b"\r\n")].decode("latin-1").split(" ", 2)
            said, is_cut = self._handle(method, target, head, rest[:size])
            self._transport.write(said)
            if is_cut:
                self._transport.close()


class Door:
    """The listening socket of the media port, which can be shut for a while."""

    def __init__(self) -> None:
        self.inside: set[asyncio.Transport] = set()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._handle: Callable[[str, str, bytes, bytes], tuple[bytes, bool]] | None = None
        self._outages: deque[asyncio.Task[None]] = deque(maxlen=4)

    async def open(self, handle: Callable[[str, str, bytes, bytes], tuple[bytes, bool]]) -> None:
        """Listen; on the same port as before, if there was one."""
        self._handle = handle
        # asyncio switches Nagle's algorithm off only on sockets that say they are TCP.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Conversation(handle, self), sock=listener, backlog=4096
        )

    def shut_between(self, begin: float, end: float) -> None:
        """Refuse connections, and drop those that there are, between two times of the system's clock."""
        self._outages.append(asyncio.get_running_loop().create_task(self._shut(begin, end)))

    async def _shut(self, begin: float, end: float) -> None:
        await asyncio.sleep(max(0.0, begin - time.time()))
        assert self._server is not None
        assert self._handle is not None
        self._server.close()
        for transport in list(self.inside):
            transport.abort()
        await asyncio.sleep(max(0.0, end - time.time()))
        await self.open(self._handle)


async def serve() -> None:
    """Serve until standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    media, door, side_door = Media(), Door(), Door()
    control = Control(media, door)
    await door.open(lambda method, target, head, body: media.respond(method, target, head))
    await side_door.open(
        lambda method, target, head, body: (control.respond(method, target, head, body), False)
    )
    print(door.port, side_door.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
