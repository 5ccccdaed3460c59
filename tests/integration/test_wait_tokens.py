"""Tokens that end in mid-wait: which are renewed, and what is said of those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from airflow_ams.exceptions import AmsRefused
from tests.integration.account import FINISHED, PROCESSING, Account
from tests.integration.door import locked, ways
from tests.integration.waits import (
    MODES,
    WIRES,
    all_apis,
    audible,
    in_step,
    lines,
    on,
    sensor,
    signing_in,
)

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

WORKING = {"state": "Processing", "seconds": 30000, "progress": 40}
in_all_modes = pytest.mark.parametrize("mode", list(MODES))


def refused(ams: Emulator) -> list[dict[str, Any]]:
    """Return the requests to the API that were 401."""
    return [request for request in ams.requests(WIRES[ams.api].api) if request["status"] == 401]


@signing_in
def test_a_token_that_ends_in_mid_wait_is_renewed(ams: Emulator) -> None:
    """The service's 401 leads to one more sign-in, and the wait goes on."""
    poll = sensor(ams.submit_scripted(states=[WORKING, "Finished"]))
    with poll.hook:
        assert not poll.poke({})
        ams.advance(29000)
        assert not poll.poke({})
        ams.advance(2000)
        assert poll.poke({}).is_done
    assert len(refused(ams)) == 1
    assert len([r for r in ams.requests(WIRES[ams.api].sign_in) if r["status"] == 200]) == 2


@signing_in
def test_a_deferred_wait_renews_its_token(ams: Emulator, wait: Callable[..., Any]) -> None:
    """In the triggerer as on the worker."""
    job_id = ams.submit_scripted(states=[WORKING, "Finished"])
    with in_step(ams, lambda: ams.advance(29000), lambda: ams.advance(2000), reads=2):
        assert wait(sensor(job_id, deferrable=True))["state"] == "Finished"
    assert refused(ams)


@all_apis
def test_a_second_401_ends_the_wait(ams: Emulator, wait: Callable[..., Any]) -> None:
    """A new token that is refused too is a matter for a person: two reads, two sign-ins, no more.

    A token that somebody pasted is not tried twice.
    """
    wire = WIRES[ams.api]
    ams.inject({"when": {"path": wire.api}, "then": {"status": 401}})
    with pytest.raises(AmsRefused, match="401"):
        wait(sensor(wire.unknown))
    reads, sign_ins = (1, 0) if ams.api == "mkio" else (2, 2)
    assert len(ams.requests(wire.api)) == reads
    assert len(ams.requests(wire.sign_in)) == sign_ins


@on("rms")
def test_a_wait_goes_on_with_its_token_when_the_key_has_expired(ams: Emulator) -> None:
    """The key is needed for the next token only, and it is the key that the error speaks of then."""
    poll = sensor(ams.submit_scripted(states=[WORKING, "Finished"]))
    with poll.hook:
        assert not poll.poke({})
        ams.expire_api_key()
        for _ in range(3):
            assert not poll.poke({})
        ams.advance(4000)
        with pytest.raises(AmsRefused, match=r"The key itself, which is not the token, may have expired"):
            poll.poke({})
    assert len(refused(ams)) == 1
    assert [request["status"] for request in ams.requests(WIRES["rms"].sign_in)] == [200, 401]


@on("rms")
@in_all_modes
def test_an_expired_key_is_told_in_every_mode(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """The next sign-in fails, whichever process makes it."""
    job_id = ams.submit_scripted(states=[WORKING, "Finished"])

    def expire() -> None:
        ams.expire_api_key()
        ams.advance(4000)

    with in_step(ams, expire), pytest.raises(AmsRefused, match="API key") as caught:
        wait(sensor(job_id, **MODES[mode]))
    assert "RMS console" in str(caught.value)
    assert ams.key not in str(caught.value)


@on("rms")
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_key_that_is_good_again_needs_no_new_wait(
    mode: str, ams: Emulator, wait: Callable[..., Any]
) -> None:
    """While the old token lives nobody notices that the key was bad for a while."""
    job_id = ams.submit_scripted(states=[WORKING, "Finished"])

    def renew() -> None:
        ams.renew_api_key()
        ams.advance(30000)

    with in_step(ams, ams.expire_api_key, renew, reads=2):
        assert wait(sensor(job_id, **MODES[mode]))["state"] == "Finished"


@on("mkio")
@in_all_modes
def test_a_personal_token_that_ends_in_mid_wait_ends_it(
    mode: str, ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """Nobody but a person can make another; the error says so, and shows no token."""
    token = ams.personal_token(lifetime=600)
    conn_id = connection("ams_short", **{**ams.connection, "password": token})
    job_id = ams.submit_scripted(states=[WORKING, "Finished"])
    with in_step(ams, lambda: ams.advance(1000)), pytest.raises(AmsRefused) as caught:
        wait(sensor(job_id, ams_conn_id=conn_id, **MODES[mode]))
    for word in ("401", "expired or been revoked", "make a new one in MK.IO", "password"):
        assert word in str(caught.value)
    assert token not in str(caught.value)
    assert len(refused(ams)) == 1


@on("mkio")
@in_all_modes
def test_a_personal_token_that_was_changed_in_time_is_used(
    mode: str,
    ams: Emulator,
    connection: Callable[..., str],
    wait: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wait reads the connection anew before it gives up."""
    conn_id = connection("ams_short", **{**ams.connection, "password": ams.personal_token(lifetime=600)})
    job_id = ams.submit_scripted(states=[WORKING, "Finished"])

    def change() -> None:
        connection("ams_short", **ams.connection)
        ams.advance(30000)

    with in_step(ams, change, reads=2):
        assert wait(sensor(job_id, ams_conn_id=conn_id, **MODES[mode]))["state"] == "Finished"
    # Each start of a rescheduled task has read the connection just now.
    assert refused(ams) or mode == "reschedule"
    assert not lines(caplog, 30)


@pytest.mark.parametrize("jobs", [1, 3, 12])
@ways
def test_a_changed_key_is_found_in_the_same_poke(
    account: Account, way: str, connection: Callable[..., str], jobs: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the jobs are read one by one or listed; and it can change again later."""
    door, fields = locked(account, way, "key-0", connection)
    ids = account.add(jobs, PROCESSING)
    poll = audible(sensor(ids if jobs > 1 else ids[0], ams_conn_id=account.conn_id))
    with poll.hook:
        assert not poll.poke({})
        for day in (1, 2):
            door.key = f"key-{day}"
            connection(account.conn_id, **{**fields, "password": door.key})
            if day == 2:
                account.put(ids, FINISHED)
            assert bool(poll.poke({})) == (day == 2)
    assert not lines(caplog, 30)


@ways
def test_a_key_that_has_not_changed_is_not_tried_again(
    account: Account, way: str, connection: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is read once more, and nothing more is asked of the service."""
    door, _ = locked(account, way, "old-key", connection)
    poll = sensor(account.add(1, PROCESSING)[0], ams_conn_id=account.conn_id)
    read: list[str] = []
    get = poll.hook.get_connection

    def counted(conn_id: str) -> Any:
        read.append(conn_id)
        return get(conn_id)

    monkeypatch.setattr(poll.hook, "get_connection", counted)
    with poll.hook:
        assert not poll.poke({})
        door.key = "new-key"
        before = len(account.seen)
        with pytest.raises(AmsRefused, match="password") as caught:
            poll.poke({})
    assert "old-key" not in str(caught.value)
    assert len(account.seen) == before + (1 if way == "bearer" else 2)
    assert read == [account.conn_id] * 2


@ways
def test_a_changed_key_that_is_refused_too_ends_the_wait(
    account: Account, way: str, connection: Callable[..., str]
) -> None:
    """The connection is read anew once, until there is an answer again."""
    door, fields = locked(account, way, "old-key", connection)
    poll = sensor(account.add(1, PROCESSING)[0], ams_conn_id=account.conn_id)
    with poll.hook:
        assert not poll.poke({})
        door.key = "good-key"
        connection(account.conn_id, **{**fields, "password": "typo"})
        with pytest.raises(AmsRefused, match="password"):
            poll.poke({})


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_key_that_changes_before_the_outputs_are_read_costs_no_outputs(
    account: Account, connection: Callable[..., str], jobs: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What a finished job wrote is asked for with the new one."""
    door, fields = locked(account, "bearer", "old-key", connection)
    ids = account.add(jobs, FINISHED)

    def check(seen: Any) -> Any:
        if "OutputMediaAssets" in seen.path and door.key == "old-key":
            door.key = "new-key"
            connection(account.conn_id, **{**fields, "password": "new-key"})
        return door.check(seen)

    account.trouble = check
    poll = audible(sensor(ids, ams_conn_id=account.conn_id))
    with poll.hook:
        found = poll.poke({})
    assert [job["outputs"] is None for job in found.xcom_value] == [False] * jobs
    assert not lines(caplog, 30)


def test_a_connection_that_has_vanished_is_told(
    account: Account, connection: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the token is refused and there is no connection any more, the message says the latter."""
    door, _ = locked(account, "bearer", "old-key", connection)
    poll = sensor(account.add(1, PROCESSING)[0], ams_conn_id=account.conn_id)
    with poll.hook:
        assert not poll.poke({})
        door.key = "new-key"
        monkeypatch.delenv("AIRFLOW_CONN_AMS_ACCOUNT")
        with pytest.raises(AmsRefused, match="ams_account"):
            poll.poke({})


def test_a_secrets_backend_that_is_down_is_waited_out(
    account: Account,
    connection: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """That the connection cannot be read anew says nothing of it."""
    door, fields = locked(account, "bearer", "old-key", connection)
    poll = audible(sensor(account.add(1, PROCESSING)[0], ams_conn_id=account.conn_id))

    def fail(_: str) -> Any:
        raise TimeoutError("the vault is sealed")

    with poll.hook:
        assert not poll.poke({})
        door.key = "new-key"
        connection(account.conn_id, **{**fields, "password": "new-key"})
        with monkeypatch.context() as sealed:
            # No backend of Airflow's own fails.
            sealed.setattr(poll.hook, "get_connection", fail)
            assert not poll.poke({})
        assert not poll.poke({})
    (warning,) = lines(caplog, 30)
    assert "the vault is sealed" in warning
