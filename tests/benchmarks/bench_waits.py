"""What thousands of waits cost, and how soon they end: ours in each dialect, beside two other providers'.

Run it with ``python -m tests.benchmarks.bench_waits``. Each kind and number of waits has a process of its
own, and all talk to one `server` in another. The waits begin spread over one interval, and two more pass
before anything is measured.

Phase one, no job ends. A *job-poll* is what one wait is due once an interval: N x seconds / interval. CPU is
the process's own, on all threads, in a window in which nothing but the waits runs; the lag of the loop is
taken in a second window, by a probe that sleeps 5 ms at a time. Memory is how much more the process holds
(anonymous pages; Linux only) than before the waits began, when one wait had already been run to its end, so
that imports are not in it. A *poll is on time* if the server has been asked about that job, by whatever
request, at most one interval and a second after the time before; a longer gap counts for all the polls that
were due in it. A poll that was *made* is a job about which the server was asked, so that what falls behind
does not look cheap.

Phase two: 1 % of the jobs end an interval, evenly spread, at times that the server keeps. The delay runs from
there to the event.

The jobs of v2 are lean rows, whose percent is read apart. Those of arm and mkio are whole documents of one
transform with two outputs each, whose percent moves from poll to poll. The service sets no limits, so only a
client that keeps to a budget of its own is slowed down.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.jobs import CANCELED, ERROR, FINISHED, PAGE, Account
from tests.benchmarks.peers import (
    ENDED,
    PEERS,
    Ports,
    Waits,
    about_this_machine,
    in_fresh_process,
    markdown,
    prepare,
    server,
)
from tests.benchmarks.v2 import V2
from tests.benchmarks.v3 import Arm, Mkio

NAP = 0.005
SHARE = 0.01
"""Of the jobs, that end in an interval of phase two."""


@dataclass(frozen=True)
class Plan:
    """One row of the tables.

    :param seconds: that each window of phase one, and phase two, last
    """

    peer: str
    waits: int
    interval: float
    seconds: float


@dataclass
class Result:
    """What one process measured.

    :param requests: per job-poll
    :param per_interval: requests
    :param cpu: milliseconds per job-poll
    :param cpu_made: milliseconds per poll that was made
    :param memory: bytes per wait
    :param lag: worst, seconds, and in phase two
    :param broken: waits that ended in phase one, in which no job does
    :param delays: seconds, of the waits that ended as they should
    """

    plan: Plan
    requests: float = 0.0
    per_interval: float = 0.0
    cpu: float = 0.0
    cpu_made: float = 0.0
    memory: float = 0.0
    lag: float = 0.0
    lag_ending: float = 0.0
    on_time: float = 0.0
    broken: int = 0
    ended: int = 0
    wrong: int = 0
    delays: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


class Probe:
    """Sleeps a little at a time in the loop and notes how much later than that it is woken."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.late: list[tuple[float, float]] = []
        self.collections: list[float] = []

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + NAP
            await asyncio.sleep(NAP)
            now = time.monotonic()
            self.late.append((now - due, now - self.began))

    def _note_collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            now = time.monotonic()
            self.collections.append(-now if phase == "start" else self.collections.pop() + now)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the loop meanwhile."""
        gc.callbacks.append(self._note_collection)
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            gc.callbacks.remove(self._note_collection)

    @property
    def worst(self) -> float:
        """Return the longest delay, in seconds."""
        return max((late for late, _ in self.late), default=0.0)

    def notes(self) -> dict[str, Any]:
        """Return the longest delays in ms with their moments, and the full garbage collections."""
        longest = sorted(self.late, reverse=True)[:5]
        return {
            "worst_ms_at_s": [(round(late * 1000, 1), round(at, 2)) for late, at in longest],
            "collections_ms": [round(seconds * 1000, 1) for seconds in self.collections],
        }


async def _command(ports: Ports, name: str, **arguments: Any) -> Any:
    return await asyncio.to_thread(ports.command, name, **arguments)


def _held() -> int:
    gc.collect()
    # Not psutil's USS: it rises when another process ends that had mapped the same libraries.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
    return int(line.split()[1]) * 1024


async def _phase_one(waits: Waits, result: Result, ports: Ports, held_before: int) -> None:
    plan = result.plan
    before = await _command(ports, "window")
    cpu, began = time.process_time(), time.monotonic()
    await asyncio.sleep(plan.seconds)
    job_polls = plan.waits * (time.monotonic() - began) / plan.interval
    spent = (time.process_time() - cpu) * 1000
    after = await _command(ports, "counts")
    result.cpu = spent / job_polls
    result.cpu_made = spent / max(1, after["readings"]["made"])
    elapsed = after["now"] - before["now"]
    result.per_interval = (after["requests"] - before["requests"]) * plan.interval / elapsed
    result.requests = result.per_interval / plan.waits
    result.memory = (_held() - held_before) / plan.waits
    probe = Probe()
    async with probe.running():
        await asyncio.sleep(plan.seconds)
    readings = (await _command(ports, "counts"))["readings"]
    result.on_time = readings["on_time"] / max(1, readings["on_time"] + readings["late"])
    result.lag = probe.worst
    result.broken = len(waits.endings)
    result.notes = {
        "kinds": {name: after["kinds"][name] - before["kinds"].get(name, 0) for name in after["kinds"]},
        "server_busy": round((after["cpu"] - before["cpu"]) / elapsed, 3),
        "longest_gap": round(readings["longest"], 2),
        **probe.notes(),
    }


def _ends(plan: Plan, running: list[int]) -> list[tuple[int, float, int]]:
    """Choose which jobs end, when and how, evenly over phase two."""
    count = min(len(running), round(plan.waits * SHARE * plan.seconds / plan.interval))
    chosen = random.Random(plan.waits).sample(running, count)
    now, states = time.time() + 0.5, (FINISHED, FINISHED, FINISHED, ERROR, CANCELED)
    return [
        (index, now + (n + 0.5) * plan.seconds / count, states[n % len(states)])
        for n, index in enumerate(chosen)
    ]


async def _phase_two(waits: Waits, result: Result, ports: Ports) -> None:
    plan = result.plan
    ends = _ends(plan, [index for index in range(plan.waits) if index not in waits.endings])
    await _command(ports, "end", ends=ends)
    probe = Probe()
    async with probe.running():
        await waits.ended([index for index, _, _ in ends], within=plan.seconds + 4 * plan.interval)
    result.lag_ending = probe.worst
    result.notes["ending"] = probe.notes()
    result.ended = len(ends)
    happened = {index: (moment, state) for index, moment, state in ends}
    for index, ending in waits.endings.items():
        moment, state = happened.get(index, (0.0, -1))
        if ending.told in (ENDED, state) and ending.moment >= moment > 0:
            result.delays.append(ending.moment - moment)
        else:
            result.wrong += 1
    result.wrong -= result.broken


async def _measure(plan: Plan, ports: Ports) -> Result:
    result = Result(plan)
    await _command(ports, "reset", jobs=plan.waits, ended=1, interval=plan.interval)
    waits = Waits(PEERS[plan.peer], plan.waits, plan.interval)
    await waits.warm_up(plan.waits)
    held_before = _held()
    await waits.start(spread=plan.interval)
    await asyncio.sleep(2 * plan.interval + 1)
    await _phase_one(waits, result, ports, held_before)
    await _phase_two(waits, result, ports)
    await waits.stop()
    return result


def measure(plan: Plan, ports: Ports) -> Result:
    """Measure one kind and number of waits in this process."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        prepare(ports, home)
        return asyncio.run(_measure(plan, ports))


def _pages() -> Iterator[tuple[str, bytes]]:
    """Yield the rows of one page in each form."""
    account, now = Account(PAGE), time.time()
    for select in ("", "Id,Name,State,Created", "Id,State"):
        yield f"v2, `$select` {select or 'none'}", V2(account).rows(range(PAGE), select)
    for name, service in (("arm/rms", Arm(account)), ("mkio", Mkio(account))):
        yield name, b",".join(service.rows(range(PAGE), now))


def floor() -> str:
    """Say what parsing one page costs, which no poll can do without."""
    rows = []
    for name, inside in _pages():
        page = b'{"value":[' + inside + b"]}"
        json.loads(page)
        runs = []
        for _ in range(30):
            began = time.process_time()
            json.loads(page)
            runs.append((time.process_time() - began) * 1e6)
        spent = statistics.median(runs)
        rows.append([name, f"{len(page) // 1000}", f"{spent:.0f}", f"{spent / PAGE:.2f}"])
    return markdown(["", "KB a page", "CPU µs a page", "CPU µs a row"], rows)


def phase_one(results: list[Result]) -> str:
    """Write the table of phase one."""
    rows = [
        [
            PEERS[one.plan.peer].name,
            f"{one.plan.waits:,}",
            f"{one.requests:.4f}",
            f"{one.per_interval:,.1f}",
            f"{one.cpu:.4f}",
            f"{one.cpu_made:.4f}",
            f"{one.memory / 1000:.1f}",
            f"{one.lag * 1000:,.0f}",
            f"{one.on_time:.1%}",
            f"{one.broken}",
        ]
        for one in results
    ]
    header = ["", "waits", "requests a job-poll", "requests an interval", "CPU ms a job-poll"]
    header.append("CPU ms a poll made")
    return markdown([*header, "KB a wait", "worst lag ms", "polls on time", "broken waits"], rows)


def phase_two(results: list[Result]) -> str:
    """Write the table of phase two."""
    rows = []
    for one in results:
        delays = sorted(one.delays)
        shown = ["–"] * 3
        if delays:
            points = (0.5, 0.99, 1.0)
            shown = [f"{delays[min(len(delays) - 1, int(p * len(delays)))]:.1f}" for p in points]
        rows.append(
            [
                PEERS[one.plan.peer].name,
                f"{one.plan.waits:,}",
                f"{one.ended}",
                *shown,
                f"{one.ended - len(delays) - one.wrong}",
                f"{one.wrong}",
                f"{one.lag_ending * 1000:,.0f}",
            ]
        )
    header = ["", "waits", "jobs ended", "median s", "99 % s", "worst s", "not yet", "wrong", "worst lag ms"]
    return markdown(header, rows)


@click.command()
@click.option("--waits", default="100,1000,5000,10000", show_default=True, help="How many, comma-separated.")
@click.option(
    "--peers", default="v2,arm,mkio,http,dbt", show_default=True, help="Which of them, comma-separated."
)
@click.option("--interval", default=5.0, show_default=True, help="Seconds between two polls of a job.")
@click.option("--seconds", default=30.0, show_default=True, help="Length of each window, and of phase two.")
@click.option("--quick", is_flag=True, help="Few waits and short windows, to see that it works.")
@click.option(
    "--notes", is_flag=True, help="Print what kinds of requests there were, and when the loop was late."
)
def main(waits: str, peers: str, interval: float, seconds: float, quick: bool, notes: bool) -> None:
    """Print one table a phase, and the floor."""
    if quick:
        waits, interval, seconds = "100,500", 2.0, 6.0
    click.echo(f"{about_this_machine()}; interval {interval:g} s, windows of {seconds:g} s\n")
    results = []
    with server() as ports:
        for count in map(int, waits.split(",")):
            for peer in peers.split(","):
                result = in_fresh_process(measure, Plan(peer, count, interval, seconds), ports)
                results.append(result)
                click.echo(f"{peer} {count}: done", err=True)
                if notes:
                    click.echo(f"{peer} {count}: {json.dumps(result.notes)}")
    click.echo(f"\nPhase one: no job ends\n\n{phase_one(results)}")
    click.echo(f"\nPhase two: {SHARE:.0%} of the jobs end an interval\n\n{phase_two(results)}")
    click.echo(f"\nThe floor: `json.loads` of one page of {PAGE} jobs\n\n{floor()}")


if __name__ == "__main__":
    main()
