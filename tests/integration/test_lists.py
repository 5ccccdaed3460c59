"""Several jobs in one sensor: all must finish, in whichever mode."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout

from airflow_ams.exceptions import AmsJobCanceled, AmsJobFailed, AmsJobNotFound, AmsRefused
from airflow_ams.sensors.ams import AmsJobSensor
from tests.integration.account import ERROR, FINISHED, QUEUED, Account
from tests.integration.waits import (
    JOBS,
    MODES,
    UNKNOWN,
    all_dialects,
    audible,
    in_step,
    lines,
    running,
    sensor,
    trigger,
    until,
)

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

WORKING = {"state": "Processing", "seconds": 3600}
modes = pytest.mark.parametrize("mode", list(MODES))


def jobs(ams: Emulator, *ends: str) -> list[str]:
    """Make jobs that end so within the hour; "Later:…" needs an hour more."""
    ids = []
    for number, end in enumerate(ends, 1):
        later, _, state = end.rpartition(":")
        states = [{**WORKING, "seconds": 7200 if later else 3600}, state]
        script: dict[str, Any] = {}
        if state == "Error":
            script["error"] = {"code": f"E{number}", "message": "bad"}
        ids.append(ams.submit_scripted(name=f"Encode {number}", states=states, **script))
    return ids


def hours(ams: Emulator, count: int = 1) -> Any:
    """Let an hour pass each time that a wait has read its jobs."""
    return in_step(ams, *[lambda: ams.advance(3600)] * count, reads=6)


@modes
def test_all_must_finish(mode: str, ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """XCom is the list of documents in the order given, whichever finished first; outputs are in it."""
    ids = jobs(ams_emulator, "Later:Finished", "Finished", "Later:Finished", "Finished")
    with hours(ams_emulator, 2):
        documents = wait(sensor(ids, **MODES[mode]))
    assert [document["id"] for document in documents] == ids
    assert [document["name"] for document in documents] == [f"Encode {n}" for n in (1, 2, 3, 4)]
    assert all(len(document["outputs"]) == 1 for document in documents)
    for document in documents:
        assert document == wait(sensor(document["id"]))


@modes
def test_one_job_in_a_list_makes_a_list(mode: str, ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """Whoever gives a list gets one."""
    (job_id,) = jobs(ams_emulator, "Finished")
    with in_step(ams_emulator, lambda: ams_emulator.advance(3600)):
        (document,) = wait(sensor([job_id], **MODES[mode]))
    assert document["id"] == job_id


@modes
@pytest.mark.parametrize("given", [[], (), "[]", " [ ] "])
def test_an_empty_list_has_finished(
    mode: str, given: Any, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """At once, without a request, and without a connection."""
    assert wait(sensor(given, ams_conn_id="ams_nowhere", **MODES[mode])) == []
    assert ams_emulator.requests() == []


@modes
def test_the_first_failure_ends_the_wait(mode: str, ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """`fail_fast`, which is the default: the others are not waited for."""
    ids = jobs(ams_emulator, "Later:Finished", "Error", "Later:Error")
    with hours(ams_emulator), pytest.raises(AmsJobFailed) as caught:
        wait(sensor(ids, **MODES[mode]))
    assert str(caught.value) == f"Job 'Encode 2' ({ids[1]}) failed: Encode 2: E2: bad"


@modes
def test_all_failures_can_be_told_together(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """`fail_fast=False`: all are waited for, and what does not end the wait is a warning in the log."""
    ids = jobs(ams_emulator, "Canceled", "Error", "Finished", "Later:Error")
    with hours(ams_emulator, 2), pytest.raises(AmsJobFailed) as caught, caplog.at_level(logging.INFO):
        wait(sensor(ids, fail_fast=False, **MODES[mode]))
    assert type(caught.value) is AmsJobFailed
    text = str(caught.value)
    assert text.startswith("3 of 4 jobs have not finished: ")
    for words in (f"({ids[0]}) was canceled", "E2: bad", "E4: bad"):
        assert words in text
    warnings = lines(caplog, logging.WARNING)
    assert any("E2: bad" in line for line in warnings)
    if mode != "reschedule":
        assert len(warnings) == 2, "each failure once"


@modes
def test_only_canceled_jobs_are_a_cancellation(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """The gravest failure names the exception; an unknown id is less than a failure."""
    ids = jobs(ams_emulator, "Canceled", "Canceled")
    with hours(ams_emulator), pytest.raises(AmsJobFailed) as caught:
        wait(sensor(ids, fail_fast=False, **MODES[mode]))
    assert type(caught.value) is AmsJobCanceled
    with pytest.raises(AmsJobFailed) as caught:
        wait(sensor([*ids, UNKNOWN], fail_fast=False, not_found_grace=0, **MODES[mode]))
    assert type(caught.value) is AmsJobCanceled
    assert "3 of 3" in str(caught.value)


@modes
def test_an_unknown_id_among_known_ones(mode: str, ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """After its grace it ends the wait."""
    ids = jobs(ams_emulator, "Later:Finished", "Later:Finished")
    with pytest.raises(AmsJobNotFound, match=UNKNOWN):
        wait(sensor([*ids, UNKNOWN], not_found_grace=0.3, **MODES[mode]))


@modes
def test_a_time_out_says_where_they_stand(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """Of a list the message counts, since a line for each would be long."""
    done = ams_emulator.submit_scripted(states=["Finished"])
    queued = ams_emulator.submit_scripted(states=["Queued"])
    ids = [done, queued, *jobs(ams_emulator, "Finished", "Finished")]
    with pytest.raises(AirflowSensorTimeout) as caught:
        wait(sensor(ids, timeout=0.6, **MODES[mode]))
    assert str(caught.value) == (
        "Timed out after 0.6 s (timeout). 1 of 4 jobs have finished, 2 Processing, 1 Queued"
    )


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_the_log_counts(
    mode: str, ams_emulator: Emulator, wait: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One line when the count changes, and none for each job, or percent."""
    ids = jobs(ams_emulator, "Finished", "Later:Finished", "Later:Finished")
    with hours(ams_emulator, 2), caplog.at_level(logging.INFO):
        wait(sensor(ids, **MODES[mode]))
    said = list(dict.fromkeys(lines(caplog)))
    assert said[0] == "0 of 3 jobs have finished, 3 Processing"
    assert "1 of 3 jobs have finished, 2 Processing" in said
    assert len(said) <= 4
    assert ams_emulator.requests("/Tasks$") == []


@modes
@pytest.mark.parametrize("account", ["v2", "arm"], indirect=True)
def test_a_long_list_leaves_outputs_out(mode: str, account: Account, wait: Callable[..., Any]) -> None:
    """Over a hundred jobs, the documents have none, and they are not read: XCom is no data store."""
    ids = account.add(101, FINISHED)
    documents = wait(sensor(ids, ams_conn_id=account.conn_id, **MODES[mode]))
    assert [document["id"] for document in documents] == ids
    assert {document["outputs"] for document in documents} == {None}
    assert account.paths("OutputMediaAssets") == []


def test_a_hundred_have_outputs(account: Account, wait: Callable[..., Any]) -> None:
    """The limit is between a hundred and one more."""
    documents = wait(sensor(account.add(100, FINISHED), ams_conn_id=account.conn_id))
    assert all(document["outputs"] == [] for document in documents)


@modes
@pytest.mark.parametrize("form", [json.dumps, str, lambda ids: f"  {json.dumps(ids, indent=1)}\n"])
def test_a_text_that_is_a_list_is_read(
    mode: str, form: Callable[[Any], str], ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """What a template makes of a list: Python's writing, or JSON."""
    ids = [ams_emulator.submit_scripted(states=["Finished"]) for _ in range(2)]
    made = sensor("{{ ids }}", **MODES[mode])
    made.render_template_fields({"ids": form(ids)})  # type: ignore[typeddict-unknown-key]
    assert [document["id"] for document in wait(made)] == ids


@modes
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([UNKNOWN, UNKNOWN], "more than once"),
        ([UNKNOWN, UNKNOWN.upper()], "more than once"),
        ([UNKNOWN, UNKNOWN.replace(":", "%3A")], "more than once"),
        ([UNKNOWN, 7], "'7'"),
        ([UNKNOWN, None], "'None'"),
        ([UNKNOWN, ""], "''"),
        ([UNKNOWN, [UNKNOWN]], "each item"),
        (f"['{UNKNOWN}', '{UNKNOWN}']", "more than once"),
        ("[1, 2", "[1, 2"),
        ([UNKNOWN, "no id"], "'no id'"),
        ({"id": UNKNOWN}, "'id'"),
        (None, "None"),
        (7, "7"),
    ],
    ids=str,
)
def test_a_bad_list_is_refused_when_it_is_known(
    mode: str, given: Any, words: str, ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """An upstream's output may be anything: the message says what is wrong with it, and nothing is asked."""
    made = sensor(UNKNOWN, **MODES[mode])
    made.job_id = given
    with pytest.raises(AmsRefused) as caught:
        wait(made)
    assert words in str(caught.value)
    assert ams_emulator.requests(JOBS) == []


def test_reschedule_mode_reads_outputs_at_the_end_only(
    ams_emulator: Emulator, wait: Callable[..., Any]
) -> None:
    """Each poke is a new process, which would read those of finished jobs again and again."""
    ids = jobs(ams_emulator, "Finished", "Finished", "Later:Finished")
    with hours(ams_emulator, 2):
        wait(sensor(ids, mode="reschedule"))
    assert len(ams_emulator.requests("OutputMediaAssets")) == 3


def test_poke_mode_reads_outputs_once(ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """A job that has finished is not read again."""
    ids = jobs(ams_emulator, "Finished", "Finished", "Later:Finished")
    with hours(ams_emulator, 2):
        wait(sensor(ids))
    assert len(ams_emulator.requests("OutputMediaAssets")) == 3


@all_dialects
def test_poke_mode_lists_many_jobs(account: Account) -> None:
    """Over eight: one request a poke, as in a triggerer."""
    ids = account.add(20)
    poll = sensor(ids, ams_conn_id=account.conn_id)
    with poll.hook:
        for _ in range(3):
            assert not poll.poke({})
        assert (len(account.lists()), len(account.singles())) == (3, 0)
        account.put(ids, FINISHED)
        assert poll.poke({}).is_done
    # Each of them, and one before, to see that it is not the list that is wrong.
    assert len(account.singles()) - len(account.paths("state")) == 21


@all_dialects
def test_poke_mode_fetches_a_few_jobs(account: Account) -> None:
    """Eight, or fewer, are fetched singly."""
    poll = sensor(account.add(8), ams_conn_id=account.conn_id)
    with poll.hook:
        assert not poll.poke({})
    assert (len(account.lists()), len(account.singles())) == (0, 8)


@all_dialects
def test_poke_mode_outlives_a_refused_list(account: Account, reply: type[Any]) -> None:
    """A service that takes no form of list is asked for each job; that fails no wait."""
    account.trouble = lambda seen: reply(400, {}) if account.is_list(seen) else None
    ids = account.add(20)
    poll = sensor(ids, ams_conn_id=account.conn_id)
    with poll.hook:
        assert not poll.poke({})
        asked = len(account.lists())
        assert not poll.poke({})
        assert len(account.lists()) == asked
        account.put(ids, FINISHED)
        assert poll.poke({}).is_done


def broken(account: Account, reply: type[Any], ids: list[str], **answer: Any) -> None:
    """Let jobs of an account not be readable."""

    def trouble(seen: Any) -> Any:
        is_hit = any(account.is_single(seen, job_id) for job_id in ids)
        return reply(answer.get("status", 500), {}, answer.get("headers", {})) if is_hit else None

    account.trouble = trouble


@modes
@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
def test_one_that_cannot_be_read_keeps_no_other(
    mode: str, account: Account, reply: type[Any], wait: Callable[..., Any], quick_retries: None
) -> None:
    """The failure of another ends the wait all the same."""
    ids = sorted(account.add(3))
    broken(account, reply, ids[:1])
    account.put(ids[2:], ERROR)
    with pytest.raises(AmsJobFailed, match=ids[2]):
        wait(sensor(ids, ams_conn_id=account.conn_id, **MODES[mode]))


def test_what_was_read_counts_beside_one_that_cannot_be(
    account: Account, reply: type[Any], caplog: pytest.LogCaptureFixture, quick_retries: None
) -> None:
    """The finished ones are told, read no more, and one warning names the other."""
    ids = sorted(account.add(3))
    broken(account, reply, ids[1:2])
    account.put(ids[::2], FINISHED)
    poll = audible(sensor(ids, ams_conn_id=account.conn_id))
    with poll.hook, caplog.at_level(logging.INFO):
        assert not poll.poke({})
        assert not poll.poke({})
        assert lines(caplog) == ["2 of 3 jobs have finished, 1 not read yet"]
        for warning in lines(caplog, logging.WARNING):
            assert warning.startswith(f"Job {ids[1]} cannot be read; asking again later. ")
        account.trouble = lambda _: None
        account.put(ids, FINISHED)
        assert poll.poke({}).is_done
    assert [len(account.singles(job_id)) for job_id in ids] == [1, 9, 1]


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_many_that_cannot_be_read_keep_no_other(
    mode: str, account: Account, reply: type[Any], wait: Callable[..., Any], quick_retries: None
) -> None:
    """However many of them there are, the others are read sooner or later."""
    ids = sorted(account.add(8))
    broken(account, reply, ids[:7])
    account.put(ids[7:], ERROR)
    with pytest.raises(AmsJobFailed, match=ids[7]):
        wait(sensor(ids, ams_conn_id=account.conn_id, mode=mode))


def test_an_outage_is_not_asked_about_for_each_job(
    account: Account, reply: type[Any], quick_retries: None
) -> None:
    """A thousand jobs, and nothing answers: a few requests, and the rest waits for the next poke."""
    ids = account.add(1000)
    account.trouble = lambda _: reply(500, {})
    poll = sensor(ids, ams_conn_id=account.conn_id)
    with poll.hook:
        assert not poll.poke({})
        assert (len(account.lists()), len(account.singles())) == (4, 6)
        account.trouble = lambda _: None
        account.put(ids, FINISHED)
        assert poll.poke({}).is_done


@pytest.mark.parametrize("account", ["v2", "mkio"], indirect=True)
@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_asks_for_quiet_is_left_alone(account: Account, reply: type[Any], status: int) -> None:
    """At once, also in the middle of a list; what was read before is not lost."""
    ids = sorted(account.add(4))
    broken(account, reply, ids[1:2], status=status, headers={"Retry-After": "300"})
    account.put(ids, FINISHED)
    poll = sensor(ids, ams_conn_id=account.conn_id)
    with poll.hook:
        for _ in range(3):
            assert not poll.poke({})
        assert [len(account.singles(job_id)) for job_id in ids] == [1, 1, 0, 0]
        assert account.paths("OutputMediaAssets") == []
        account.trouble = lambda _: None
        assert poll._poll is not None
        poll._poll.quiet_until = 0.0
        assert poll.poke({}).is_done
    assert [len(account.singles(job_id)) for job_id in ids] == [1, 2, 1, 1]


@all_dialects
def test_a_list_and_single_waits_share_the_poll(account: Account) -> None:
    """A job that is waited for by itself and in a list is read once."""

    async def main() -> list[Any]:
        ids = account.add(12, QUEUED)
        both = [trigger(ids, account.conn_id), *(trigger(one, account.conn_id) for one in ids)]
        async with running(both) as tasks:
            await until(lambda: len(account.lists()) >= 3)
            account.put(ids[:11], FINISHED)
            await asyncio.gather(*tasks[1:12])
            assert not tasks[0].done()
            account.put(ids[11:], ERROR)
            return [await tasks[0], await tasks[12]]

    together, alone = asyncio.run(main())
    assert together["outcome"] == alone["outcome"] == "failed"
    assert together["text"] == alone["text"]
    assert len(account.singles()) - len(account.paths("state")) == 12


@all_dialects
def test_a_list_is_left_as_a_whole(account: Account) -> None:
    """When the first failure has ended the wait, none of its jobs is read any more."""

    async def main() -> None:
        ids, other = account.add(5, QUEUED), account.add(1, QUEUED)
        async with running([trigger(ids, account.conn_id), trigger(other[0], account.conn_id)]) as tasks:
            await until(lambda: len(account.singles()) >= 6)
            account.put(ids[:1], ERROR)
            assert (await tasks[0])["outcome"] == "failed"
            # What was asked in the round in which it failed is no matter.
            before = len(account.singles(other[0]))
            await until(lambda: len(account.singles(other[0])) >= before + 2)
            account.seen.clear()
            await until(lambda: len(account.singles()) >= 4)
            assert set(account.singles()) == set(account.singles(other[0]))

    asyncio.run(main())


def test_mapping_over_ids_works(ams_emulator: Emulator, wait: Callable[..., Any]) -> None:
    """`.partial().expand(job_id=[…])`: each mapped task waits for one, or for a list."""
    from datetime import datetime, timezone

    from airflow.providers.common.compat.sdk import DAG

    ids = [ams_emulator.submit_scripted(states=["Finished"]) for _ in range(3)]
    with DAG("mapped", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
        mapped = AmsJobSensor.partial(task_id="wait", deferrable=True, end_from_trigger=True).expand(
            job_id=[ids[0], ids[1:]]
        )
    assert mapped.operator_class is AmsJobSensor
    values = list(mapped.expand_input.value["job_id"])
    documents = [wait(mapped.unmap({"job_id": value})) for value in values]
    assert documents[0]["id"] == ids[0]
    assert [document["id"] for document in documents[1]] == ids[1:]
