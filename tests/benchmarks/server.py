"""A lean media service to measure waits against; it runs in a process of its own.

``python -m tests.benchmarks.server`` prints two ports: one speaks AMS v2, a polled result (what `HttpSensor`
waits for) and the run status of dbt Cloud, all about the same jobs; the other takes commands as JSON. It ends
when its standard input does. Rows are rendered once, so that it is never what a measurement waits for: it
answers a page of a thousand jobs in about a millisecond. It knows little more than the triggers ask for; the
emulator is the service to test against.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import re
import resource
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote

PAGE = 1000
PROCESSING, FINISHED, ERROR, CANCELED = 2, 3, 4, 5
LATE = 1.0
"""Seconds by which a poll may be late to be on time."""

DBT_STATUS = {0: 1, 1: 2, 2: 3, 3: 10, 4: 20, 5: 30, 6: 3}
"""The run status of dbt Cloud that stands for each job state: queued, starting, running, then the ends."""

_LIGHT = "application/json;odata=minimalmetadata;streaming=true;charset=utf-8"
_ID = re.compile(r"nb:jid:UUID:([0-9a-f]{8})-")
_ENTITY = re.compile(r"/api/Jobs\('([^']+)'\)/(Tasks|OutputMediaAssets)")
_RESULT = re.compile(r"/jobs/(\d+)/result")
_RUN = re.compile(r"/api/v2/accounts/\d+/runs/(\d+)/(cancel/)?")
_TERM = re.compile(r"State (eq|le|lt|ge|gt) (\d+)|Id eq '([^']+)'")
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": int.__eq__,
    "le": int.__le__,
    "lt": int.__lt__,
    "ge": int.__ge__,
    "gt": int.__gt__,
}


def job_id(index: int) -> str:
    """Return the id of the job with this number."""
    return f"nb:jid:UUID:{index:08x}-5e1d-4c1a-9b0d-{index * 2654435761 % 2**48:012x}"


class UnknownRequest(Exception):
    """The request is none that this service knows: 400."""


class Jobs:
    """The account's jobs, by number; the ends that are due happen when somebody looks.

    :param count: how many jobs are active at first
    :param ended: how many more, with the next numbers, have long finished
    """

    def __init__(self, count: int, ended: int = 0) -> None:
        self.began = datetime.now(timezone.utc).replace(tzinfo=None)
        self.states = [min(n % 10, PROCESSING) for n in range(count)] + [FINISHED] * ended
        self.ends: dict[int, float] = {}
        self._due: list[tuple[float, int, int]] = []
        self._lists: dict[str, list[int]] = {}
        self._rows: dict[str, list[bytes | None]] = {}

    def schedule(self, index: int, moment: float, state: int) -> None:
        """Let a job end at this time of the system's clock."""
        heapq.heappush(self._due, (moment, index, state))

    def settle(self, now: float) -> None:
        """Let the ends that are due happen."""
        while self._due and self._due[0][0] <= now:
            moment, index, state = heapq.heappop(self._due)
            if self.states[index] in (FINISHED, ERROR, CANCELED):
                continue
            self.states[index] = state
            self.ends[index] = moment
            self._lists.clear()
            for rows in self._rows.values():
                rows[index] = None

    def matching(self, condition: str) -> list[int]:
        """Return the jobs for which a ``$filter`` holds; it is remembered until a job ends."""
        if condition not in self._lists:
            terms = condition.strip("() ").split(" or ")
            matches = [_TERM.fullmatch(term.strip("() ")) for term in terms]
            if all(match and match[1] for match in matches):
                wanted = {
                    state
                    for match in matches
                    if match
                    for state in range(7)
                    if _COMPARE[match[1]](state, int(match[2]))
                }
                self._lists[condition] = [n for n, state in enumerate(self.states) if state in wanted]
            elif all(match and match[3] for match in matches):
                found = (self.number(match[3]) for match in matches if match)
                return sorted(n for n in found if n is not None)
            else:
                raise UnknownRequest(f"$filter {condition!r}")
        return self._lists[condition]

    def number(self, text: str) -> int | None:
        """Return the number of the job with this id, if there is one."""
        match = _ID.match(text)
        index = int(match[1], 16) if match else len(self.states)
        return index if index < len(self.states) and job_id(index) == text else None

    def rows(self, indexes: Iterable[int], select: str) -> bytes:
        """Return the rows of jobs as the inside of a JSON list."""
        rows = self._rows.setdefault(select, [None] * len(self.states))
        found = []
        for index in indexes:
            row = rows[index]
            if row is None:
                row = rows[index] = self._render(index, select)
            found.append(row)
        return b",".join(found)

    def _render(self, index: int, select: str) -> bytes:
        state = self.states[index]
        created = self.began - timedelta(hours=1) + timedelta(milliseconds=37 * index)
        started = created + timedelta(seconds=8.5) if state >= PROCESSING else None
        ended = datetime.fromtimestamp(self.ends[index], timezone.utc) if index in self.ends else None
        row: dict[str, Any] = {
            "Id": job_id(index),
            "Name": f"Encoding clip {index:05d} into H264 Adaptive Bitrate MP4 Set 720p",
            "Created": _iso(created),
            "LastModified": _iso(created),
            "EndTime": _iso(ended.replace(tzinfo=None)) if ended else None,
            "Priority": 0,
            "RunningDuration": 39605.0 if state in (FINISHED, ERROR) else 0.0,
            "StartTime": _iso(started) if started else None,
            "State": state,
            "TemplateId": None,
            "JobNotificationSubscriptions": [],
        }
        names = select.split(",") if select else list(row)
        if unknown := set(names) - set(row):
            raise UnknownRequest(f"$select {unknown}")
        return json.dumps({name: row[name] for name in names}, separators=(",", ":")).encode()


class Readings:
    """How punctually each active job is read, from now on.

    A gap is the time between two readings of one job; at the window's end, one that goes on counts if it is
    late already. A gap that is not on time counts for all the polls that were due in it.

    :param interval: seconds between two polls that are due
    :param before: the window before, for when each job was last read
    """

    def __init__(self, jobs: Jobs, interval: float, before: Readings | None = None) -> None:
        self._jobs = jobs
        self._interval = interval
        self._limit = interval + LATE
        self._last: list[float] = before._last if before else [time.time()] * len(jobs.states)
        self.on_time = 0
        self.late = 0
        self.made = 0
        self.longest = 0.0

    def note(self, indexes: Iterable[int], now: float) -> None:
        """Note that these jobs are being read."""
        last, limit = self._last, self._limit
        for index in indexes:
            gap = now - last[index]
            last[index] = now
            self.made += 1
            if gap <= limit:
                self.on_time += 1
            else:
                self.late += self._due_in(gap)
            if gap > self.longest:
                self.longest = gap

    def result(self) -> dict[str, Any]:
        """Return the polls counted so far, and the longest gap."""
        now = time.time()
        waiting = [now - self._last[n] for n, state in enumerate(self._jobs.states) if state <= PROCESSING]
        late = self.late + sum(self._due_in(gap) for gap in waiting if gap > self._limit)
        longest = max([self.longest, *waiting])
        return {"on_time": self.on_time, "late": late, "made": self.made, "longest": longest}

    def _due_in(self, gap: float) -> int:
        return int(gap // self._interval)


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


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")


def answer(status: int, body: bytes, kind: str = _LIGHT, more: str = "") -> bytes:
    """Write an HTTP answer.

    :param more: further header lines, each with its end
    """
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nCache-Control: no-cache\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: {kind}\r\n"
        f"X-Content-Type-Options: nosniff\r\nDataServiceVersion: 3.0;\r\n{more}\r\n"
    )
    return head.encode() + body


def _json(status: int, document: Any) -> bytes:
    return answer(status, json.dumps(document).encode(), "application/json")


class Media:
    """The three services, all about the same jobs."""

    def __init__(self) -> None:
        self.reset()

    def reset(
        self, jobs: int = 0, ended: int = 0, interval: float = 5.0, token_lifetime: float | None = None
    ) -> dict[str, Any]:
        """Begin anew.

        :param interval: seconds between two polls of a job that are due
        :param token_lifetime: seconds that a token is good for; None: every token is
        """
        self.jobs = Jobs(jobs, ended)
        self.interval = interval
        self.readings = Readings(self.jobs, interval)
        self.faults = Faults()
        self.token_lifetime = token_lifetime
        self.tokens: dict[str, float] = {}
        self.requests = 0
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[int] = Counter()
        self.canceled: list[int] = []
        self.last_request = 0.0
        return {}

    def respond(self, method: str, target: str, headers: bytes) -> tuple[bytes, bool]:
        """Answer a request, or fail to; the flag says to cut the connection after these bytes."""
        now = time.time()
        self.jobs.settle(now)
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
            self.counts["unknown"] += 1
            good = _json(400, {"odata.error": {"code": "", "message": {"value": str(exc)}}})
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
            self.counts["refused"] += 1
            return _json(401, {"odata.error": {"code": "", "message": {"value": "The token has expired"}}})
        options = {name: values[-1] for name, values in parse_qs(query).items()}
        path = unquote(path)
        if method == "GET" and path in ("/api/Jobs", "/api/Jobs()"):
            return self._list(options, now)
        if method == "GET" and (match := _ENTITY.fullmatch(path)):
            return self._parts(match[1], match[2], now)
        if path == "/api/CancelJob":
            self.canceled.append(self.jobs.number(options["jobid"].strip("'")) or 0)
            return answer(204, b"")
        raise UnknownRequest(f"{method} {path}")

    def _result(self, index: int, now: float) -> bytes:
        """Answer as a service does whose result is not there until the job has ended: 404 till then."""
        self.counts["http"] += 1
        self.readings.note((index,), now)
        state = self.jobs.states[index]
        if state <= PROCESSING:
            return _json(404, {"error": {"code": "NotFound", "message": "There is no result yet"}})
        return _json(200, {"job": job_id(index), "state": state})

    def _run(self, index: int, is_cancel: bool, now: float) -> bytes:
        if is_cancel:
            self.canceled.append(index)
        self.counts["dbt"] += 1
        self.readings.note((index,), now)
        status = DBT_STATUS[self.jobs.states[index]]
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
        return _json(200, {"status": {"code": 200, "is_success": True}, "data": run})

    def _token(self, now: float) -> bytes:
        self.counts["token"] += 1
        token = f"token-{self.counts['token']}-{now}"
        lifetime = 3600.0 if self.token_lifetime is None else self.token_lifetime
        self.tokens[token] = now + lifetime
        return _json(200, {"token_type": "Bearer", "access_token": token, "expires_in": str(int(lifetime))})

    def _is_good(self, headers: bytes, now: float) -> bool:
        match = re.search(rb"(?im)^Authorization: *Bearer (\S+)", headers)
        return bool(match) and self.tokens.get(match[1].decode() if match else "", 0.0) > now

    def _list(self, options: dict[str, str], now: float) -> bytes:
        condition = options.pop("$filter", "State ge 0")
        select = options.pop("$select", "").replace(" ", "")
        skip, top = int(options.pop("$skip", 0)), min(PAGE, int(options.pop("$top", PAGE)))
        if options.pop("$orderby", "Created") not in ("Created", "Created asc") or any(options):
            raise UnknownRequest(f"query {options}")
        self.counts["single" if condition.lstrip("( ").startswith("Id") else "list"] += 1
        page = self.jobs.matching(condition)[skip : skip + top]
        self.readings.note(page, now)
        rows = self.jobs.rows(page, select)
        return answer(
            200, b'{"odata.metadata":"http://127.0.0.1/api/$metadata#Jobs","value":[' + rows + b"]}"
        )

    def _parts(self, text: str, kind: str, now: float) -> bytes:
        self.counts["tasks" if kind == "Tasks" else "outputs"] += 1
        index = self.jobs.number(text)
        if index is None:
            return _json(404, {"odata.error": {"code": "", "message": {"value": "No such job"}}})
        row = self._task(index, now) if kind == "Tasks" else _output(index)
        document = {"odata.metadata": f"http://127.0.0.1/api/$metadata#{kind}", "value": [row]}
        return answer(200, json.dumps(document).encode())

    def _task(self, index: int, now: float) -> dict[str, Any]:
        state = self.jobs.states[index]
        began = self.jobs.began.replace(tzinfo=timezone.utc).timestamp()
        errors = [{"Code": "ErrorDownloadingInput", "Message": "The input has no video track"}]
        return {
            "Id": job_id(index).replace("jid", "tid"),
            "Configuration": "H264 Multiple Bitrate 720p",
            "EndTime": None,
            "ErrorDetails": errors if state == ERROR else [],
            "HistoricalEvents": [],
            "MediaProcessorId": "nb:mpid:UUID:ff4df607-d419-42f0-bc17-a481b1331e56",
            "Name": "Encode",
            "PerfMessage": None,
            "Priority": 0,
            "Progress": 100.0 if state == FINISHED else min(99.0, (now - began) / 6),
            "RunningDuration": 0.0,
            "StartTime": None,
            "State": state,
            "TaskBody": "<taskBody/>",
            "Options": 0,
        }


def _output(index: int) -> dict[str, Any]:
    guid = job_id(index).rpartition(":")[2]
    return {
        "Id": f"nb:cid:UUID:{guid}",
        "State": 0,
        "Created": "2026-01-01T00:00:00",
        "LastModified": "2026-01-01T00:00:00",
        "AlternateId": None,
        "Name": f"clip {index:05d} 720p",
        "Options": 0,
        "FormatOption": 0,
        "Uri": f"https://example.blob.core.windows.net/asset-{guid}",
        "StorageAccountName": "example",
    }


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
            return _json(200, getattr(self, f"do_{name}")(**command))
        except Exception as exc:
            return _json(500, {"error": repr(exc)})

    def do_reset(self, **settings: Any) -> dict[str, Any]:
        """Begin anew; see `Media.reset`."""
        return self._media.reset(**settings)

    def do_window(self) -> dict[str, Any]:
        """Begin to count how punctually jobs are read."""
        media = self._media
        media.readings = Readings(media.jobs, media.interval, media.readings)
        return self.do_counts()

    def do_counts(self) -> dict[str, Any]:
        """Return everything counted since the last reset, and since the last window for the readings."""
        media = self._media
        return {
            "now": time.time(),
            "cpu": time.process_time(),
            "requests": media.requests,
            "kinds": media.counts,
            "faults": media.faults.counts,
            "per_second": {str(second): count for second, count in media.seconds.items()},
            "readings": media.readings.result(),
            "canceled": media.canceled,
            "last_request": media.last_request,
        }

    def do_end(self, ends: list[tuple[int, float, int]]) -> dict[str, Any]:
        """Let jobs end: number, time of the system's clock, state."""
        for index, moment, state in ends:
            self._media.jobs.schedule(index, moment, state)
        return {}

    def do_ends(self) -> dict[str, Any]:
        """Return when each job ended that has, and how."""
        jobs = self._media.jobs
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
