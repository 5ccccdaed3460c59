"""How waits end on a service that has trouble: ours beside those of two other providers.

Run it with ``python -m tests.benchmarks.bench_faults``. Each kind of waits has a process of its own, and all
meet the same faults, drawn per request from one seed. All jobs end 12 s after the waits began, half of them
Finished, the rest Error or Canceled, in the midst of an outage that refuses every connection from the 8th to
the 18th second. Our tokens live 3 s; the other two send a key that does not end. Signing in meets the outage
and, with ``--sign-in-faults``, all else too.

A wait is *right* if its event says how its job ended, *untold* if it says no more than that the job has ended
(all that a polled result can tell), *wrong* if it says anything else, came before the job's end, or if the
trigger raised, and *lost* if there is no event when time is up.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import click

from tests.benchmarks.jobs import CANCELED, ERROR, FINISHED
from tests.benchmarks.peers import (
    ENDED,
    PEERS,
    Ending,
    Ports,
    Waits,
    about_this_machine,
    in_fresh_process,
    markdown,
    prepare,
    server,
)

ENDS_AFTER = 12.0
OUTAGE_AFTER = 8.0
OUTAGE = 10.0
TOKEN_LIFETIME = 3.0
SHARES = {"busy": 0.25, "cut": 0.10, "html": 0.05, "truncated": 0.05, "throttled": 0.10}


@dataclass(frozen=True)
class Plan:
    """One row of the table.

    :param limit: seconds after which a wait that goes on is lost
    """

    peer: str
    waits: int
    interval: float
    limit: float
    seed: int
    sign_in_faults: bool


@dataclass
class Result:
    """What became of the waits of one kind.

    :param verdicts: how many were right, untold, wrong and lost
    :param last: seconds from the jobs' end to the last event
    :param canceled: jobs that the service was asked to cancel
    :param reasons: what the wrong ones said
    """

    plan: Plan
    verdicts: Counter[str] = field(default_factory=Counter)
    last: float = 0.0
    requests: int = 0
    canceled: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, int] = field(default_factory=dict)


def _state(index: int) -> int:
    return FINISHED if index % 2 == 0 else ERROR if index % 4 == 1 else CANCELED


def _verdict(ending: Ending | None, state: int, moment: float) -> str:
    if ending is None:
        return "lost"
    if ending.moment < moment or ending.told not in (state, ENDED):
        return "wrong"
    return "untold" if ending.told == ENDED else "right"


def _judge(result: Result, waits: Waits, ends: dict[str, Any], began: float) -> None:
    for index in range(waits.count):
        moment, state = ends.get(str(index), (began + ENDS_AFTER, _state(index)))
        ending = waits.endings.get(index)
        verdict = _verdict(ending, state, moment)
        result.verdicts[verdict] += 1
        if verdict == "wrong" and ending is not None:
            early = "too early: " if ending.moment < moment else ""
            result.reasons[f"{early}{ending.told}"] += 1
    moments = [ending.moment for ending in waits.endings.values()]
    result.last = max(moments, default=began) - began - ENDS_AFTER


async def _measure(plan: Plan, ports: Ports) -> Result:
    async def command(name: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(ports.command, name, **arguments)

    result = Result(plan)
    waits = Waits(PEERS[plan.peer], plan.waits, plan.interval)
    lifetime = TOKEN_LIFETIME if plan.peer == "v2" else None
    await command("reset", jobs=plan.waits, ended=1, token_lifetime=lifetime)
    await waits.warm_up(plan.waits)
    before = (await command("counts"))["requests"]
    began = time.time()
    await command("faults", **SHARES, outage_at=began + OUTAGE_AFTER, outage_seconds=OUTAGE, seed=plan.seed)
    await command("end", ends=[(n, began + ENDS_AFTER, _state(n)) for n in range(plan.waits)])
    await waits.start(spread=1.0)
    await waits.ended(range(plan.waits), within=began + plan.limit - time.time())
    ends, counts = await command("ends"), await command("counts")
    _judge(result, waits, ends, began)
    result.requests = counts["requests"] - before
    result.canceled = len(counts["canceled"])
    result.kinds = counts["kinds"]
    await waits.stop()
    # The server must not be shut on the next one.
    await asyncio.sleep(max(0.0, began + OUTAGE_AFTER + OUTAGE + 1 - time.time()))
    return result


def measure(plan: Plan, ports: Ports) -> Result:
    """Let the waits of one kind meet the faults, in this process."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        prepare(ports, home, sign_in=True)
        return asyncio.run(_measure(plan, ports))


def table(results: list[Result]) -> str:
    """Write the table."""
    rows = [
        [
            PEERS[one.plan.peer].name,
            *(str(one.verdicts[name]) for name in ("right", "untold", "wrong", "lost")),
            f"{one.last:+.1f}",
            f"{one.requests:,}",
            str(one.canceled),
        ]
        for one in results
    ]
    header = ["", "right", "untold", "wrong", "lost", "last event after the ends, s", "requests", "canceled"]
    return markdown(header, rows)


@click.command()
@click.option("--waits", default=300, show_default=True, help="How many.")
@click.option("--peers", default="v2,http,dbt", show_default=True, help="Which of them, comma-separated.")
@click.option("--interval", default=2.0, show_default=True, help="Seconds between two polls of a job.")
@click.option("--limit", default=240.0, show_default=True, help="Seconds after which a wait is lost.")
@click.option("--seed", default=1, show_default=True, help="Of the faults.")
@click.option("--sign-in-faults", is_flag=True, help="Let sign-ins meet the faults too.")
def main(waits: int, peers: str, interval: float, limit: float, seed: int, sign_in_faults: bool) -> None:
    """Print one table, and what the wrong ones said."""
    click.echo(f"{about_this_machine()}; {waits} waits, interval {interval:g} s, seed {seed}\n")
    plans = [Plan(peer, waits, interval, limit, seed, sign_in_faults) for peer in peers.split(",")]
    with server() as ports:
        results = [in_fresh_process(measure, plan, ports) for plan in plans]
    click.echo(table(results))
    for one in results:
        click.echo(f"\n{PEERS[one.plan.peer].name}: {one.kinds}")
        for reason, count in one.reasons.most_common(6):
            click.echo(f"  {count} x {reason}")


if __name__ == "__main__":
    main()
