"""What each poll of a wait asks for, and that it is no more."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from airflow_ams.exceptions import AmsJobFailed
from tests.integration.waits import APIS, JOBS, OUTPUTS, TASKS, WIRES, all_apis, on, sensor

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

WHOLE, STATE = r"/jobs/[^/]+$", r"/state$"
# Of the first poll of a wait, and of the next.
_ARM_POLLS = dict.fromkeys(("Queued", "Processing", "Finished", "Error", 9), ([WHOLE], [WHOLE]))
POLLS: dict[str, dict[Any, tuple[list[str], list[str]]]] = {
    "v2": {
        **dict.fromkeys(("Queued", "Scheduled", "Canceling", "Canceled", 9), ([JOBS], [JOBS])),
        **dict.fromkeys(("Processing", "Error"), ([JOBS, TASKS], [JOBS, TASKS])),
        "Finished": ([JOBS, OUTPUTS], [JOBS, OUTPUTS]),
    },
    "arm": _ARM_POLLS,
    "rms": _ARM_POLLS,
    "mkio": {
        **dict.fromkeys(("Queued", "Scheduled", "Canceling"), ([WHOLE], [STATE])),
        **dict.fromkeys(("Processing", "Finished", "Error", "Canceled", 9), ([WHOLE], [STATE, WHOLE])),
    },
}
"""The requests of a poll, by the state that it finds."""


def asked(ams: Emulator) -> list[str]:
    """Return the paths of the requests so far, but for sign-ins."""
    return [r["path"] for r in ams.requests() if not re.search(WIRES[ams.api].sign_in, r["path"])]


def check(paths: list[str], expected: list[str]) -> None:
    """Compare requests with what they should have been."""
    assert len(paths) == len(expected), paths
    assert all(re.search(regex, path) for regex, path in zip(expected, paths, strict=True)), paths


@pytest.mark.parametrize(
    ("ams", "state"),
    [(api, state) for api in APIS for state in POLLS[api]],
    indirect=["ams"],
)
def test_a_poll_makes_no_request_too_many(ams: Emulator, state: Any) -> None:
    """One request a poll; more only where percent, errors or outputs do not come with it."""
    ams.freeze()
    last = {"state": state, "seconds": 3600}
    states = [{"state": "Queued", "seconds": 60}, last, *(["Canceled"] if state == "Canceling" else [])]
    for at_first, expected in enumerate(reversed(POLLS[ams.api][state])):
        poll = sensor(ams.submit_scripted(states=states))
        with poll.hook:
            if not at_first:
                poll.poke({})
            ams.advance(60)
            ams.clear_requests()
            with suppress(AmsJobFailed):
                poll.poke({})
        check(asked(ams), expected)


@all_apis
def test_a_job_that_runs_costs_no_second_request_for_its_percent(ams: Emulator) -> None:
    """Once it runs, the whole job tells where it stands and its percent; in v2 the tasks do."""
    ams.freeze()
    job_id = ams.submit_scripted(states=[{"state": "Processing", "seconds": 600}, "Finished"])
    poll = sensor(job_id)
    with poll.hook:
        poll.poke({})
        ams.clear_requests()
        for _ in range(5):
            assert not poll.poke({})
        expected = [JOBS, TASKS] if ams.api == "v2" else [WHOLE]
        check(asked(ams), expected * 5)
        ams.clear_requests()
        ams.advance(600)
        assert poll.poke({}).is_done
    check(asked(ams), [JOBS, OUTPUTS] if ams.api == "v2" else [WHOLE])


@on("mkio")
def test_of_the_jobs_of_a_list_only_the_states_are_read(ams: Emulator) -> None:
    """No percent is logged of them."""
    ams.freeze()
    states = [{"state": "Processing", "seconds": 600}, "Finished"]
    poll = sensor([ams.submit_scripted(states=states) for _ in range(2)])
    with poll.hook:
        poll.poke({})
        ams.clear_requests()
        for _ in range(2):
            poll.poke({})
    check(asked(ams), [STATE] * 4)
