"""Dozens of waits on a service in which everything goes wrong: each ends with its job's true outcome."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_ams.emulator.process import Emulator
from tests.integration.waits import APIS, WIRES, running, trigger

# Each 429 keeps all of them away for a second, which is what this costs; v2 stands for the crowd.
WAITS = {"v2": 32, "arm": 16, "rms": 16, "mkio": 16}
LASTS = 4.0
OUTAGE = 1.5
ENDS = ["Finished", "Error", "Finished", "Canceled"]
FAULTS: list[tuple[float, dict[str, Any]]] = [
    (0.25, {"status": 503}),
    (0.10, {"drop": True}),
    (0.05, {"status": 502, "body": "html"}),
    (0.05, {"truncate": True}),
    (0.10, {"status": 429, "retry_after": 1}),
]
OUTCOMES = {"Finished": "succeeded", "Error": "failed", "Canceled": "canceled"}


def mixture() -> list[dict[str, Any]]:
    """Make rules of which each fires as often as the list says, of all requests."""
    rules, left = [], 1.0
    for share, then in FAULTS:
        rules.append({"when": {"path": ""}, "then": then, "rate": share / left})
        left -= share
    return rules


@pytest.fixture(params=APIS)
def faulty(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Run a service whose tokens, but MK.IO's, live for three seconds, and whose dice are loaded."""
    with Emulator(request.param, token_lifetime=3, seed=7) as ams:
        yield ams


def test_each_wait_ends_as_its_job_does(
    faulty: Emulator, connection: Callable[..., str], quick_back_off: None
) -> None:
    """None is lost, none is wrong, and nobody is canceled; signing in meets the same faults."""
    conn_id = connection("ams_faulty", **faulty.connection)

    async def main() -> list[Any]:
        ends = [ENDS[number % len(ENDS)] for number in range(WAITS[faulty.api])]
        ids = [
            faulty.submit_scripted(states=[{"state": "Processing", "seconds": LASTS}, end]) for end in ends
        ]
        faulty.inject(*mixture())
        async with running(
            trigger(job_id, conn_id, poke_interval=0.5, deadline=time.time() + 100) for job_id in ids
        ) as tasks:
            await asyncio.sleep(LASTS - OUTAGE / 2)
            # Nothing is answered while the jobs end.
            faulty.inject({"when": {"path": ""}, "then": {"drop": True}})
            await asyncio.sleep(OUTAGE)
            faulty.inject(*mixture())
            events = await asyncio.gather(*tasks)
        assert [event["outcome"] for event in events] == [OUTCOMES[end] for end in ends]
        return events

    events = asyncio.run(main())
    some = WAITS[faulty.api] // 4
    outcomes = {"succeeded": 2 * some, "failed": some, "canceled": some}
    assert Counter(event["outcome"] for event in events) == outcomes
    assert faulty.requests("[Cc]ancelJob") == []
    sign_ins = len(faulty.requests(WIRES[faulty.api].sign_in))
    assert sign_ins == 0 if faulty.api == "mkio" else sign_ins > 1
