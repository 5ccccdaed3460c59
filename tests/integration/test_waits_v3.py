"""What only waits on ARM, RMS and MK.IO have: outputs with errors of their own, other names, other limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_ams.exceptions import AmsJobFailed, AmsJobNotFound, AmsRefused
from airflow_ams.hooks.ams import AmsHook
from tests.integration.waits import MODES, WIRES, fired, in_line, in_step, lines, on, sensor, trigger

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

WORKING = {"state": "Processing", "seconds": 3600, "progress": 40}
BROKEN = {
    "code": "ContentMalformed",
    "message": "broken",
    "category": "Content",
    "retry": "DoNotRetry",
    "details": [{"code": "D7", "message": "no moov atom"}],
}
BUSY = {"code": "ServiceTransientError", "message": "busy", "category": "Service", "retry": "MayRetry"}
WHOLE, STATE = r"/jobs/[^/]+$", r"/jobs/[^/]+/state$"

on_v3 = on("arm", "rms", "mkio")
in_all_modes = pytest.mark.parametrize("mode", list(MODES))


def reasons(ams: Emulator) -> str:
    """Return what messages say of the two errors; MK.IO's have no details."""
    details = "" if ams.api == "mkio" else " (D7: no moov atom)"
    return (
        f"ScriptedPreset_0: ContentMalformed: broken{details} [Content, DoNotRetry]; "
        "ScriptedPreset_1: ServiceTransientError: busy [Service, MayRetry]"
    )


# -- outputs


@on_v3
@in_all_modes
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_finished_job_with_a_failed_output_has_failed(
    when: str, mode: str, ams: Emulator, wait: Callable[..., Any]
) -> None:
    """ContinueJob: the job's own state does not tell, so every output is looked at."""
    script: dict[str, Any] = {"on_error": "ContinueJob", "tasks": 3, "error": [BROKEN, BUSY]}
    job_id = ams.submit_scripted(states=[WORKING, "Finished"], **script)
    if when == "before":
        ams.advance(3600)
    with in_step(ams, lambda: ams.advance(3600), reads=2), pytest.raises(AmsJobFailed) as caught:
        wait(sensor(job_id, **MODES[mode]))
    text = str(caught.value)
    assert text.startswith(f"Job {job_id} finished, but failed to write ")
    assert text.endswith(f": {reasons(ams)}")
    with AmsHook() as hook:
        outputs = hook.get_output_assets(job_id)
    assert f" write {outputs[0].name}, {outputs[1].name}: " in text


@on_v3
@in_all_modes
def test_the_reasons_of_a_failure(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """Label, code, text, details, category and advice of each output; and skipping tells them, too."""
    job_id = ams.submit_scripted(states=[WORKING, "Error"], tasks=2, error=[BROKEN, BUSY])
    ams.advance(3600)
    with pytest.raises(AmsJobFailed) as caught:
        wait(sensor(job_id, **MODES[mode]))
    assert str(caught.value) == f"Job {job_id} failed: {reasons(ams)}"
    with pytest.raises(AirflowSkipException) as skipped:
        wait(sensor(job_id, soft_fail=True, **MODES[mode]))
    assert str(skipped.value.__cause__) == str(caught.value)


@on_v3
def test_the_document_has_the_outputs(ams: Emulator, wait: Callable[..., Any]) -> None:
    """Assets by name, with the label that tells which output of the transform each is."""
    outputs = wait(sensor(ams.submit_scripted(states=["Finished"], tasks=2)))["outputs"]
    assert [output["label"] for output in outputs] == ["ScriptedPreset_0", "ScriptedPreset_1"]
    assert all(output["asset_id"] == output["name"] for output in outputs)
    assert len({output["name"] for output in outputs}) == 2


@on_v3
def test_several_outputs_are_told_one_by_one(
    ams: Emulator, wait: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The percent of the job is their mean; poke and deferrable mode say the same."""
    states = [
        {"state": "Queued", "seconds": 10},
        {"state": "Processing", "seconds": 10, "progress": 20},
        {"state": "Processing", "seconds": 10, "progress": 75},
        "Finished",
    ]
    ams.freeze()
    said = {}
    steps: list[Callable[[], object]] = [lambda: ams.advance(10)] * 3
    for mode, actions in (("poke", steps), ("deferrable", [lambda: None, *steps])):
        job_id = ams.submit_scripted(states=states, tasks=2)
        caplog.clear()
        with caplog.at_level("INFO"), in_line(*actions):
            wait(sensor(job_id, **MODES[mode]))
        said[mode] = [line.removeprefix(f"Job {job_id} is ") for line in lines(caplog)]
    assert said["deferrable"] == [said["poke"][0], *said["poke"]]
    assert said["poke"][1:3] == [
        "Processing, 20 % (ScriptedPreset_0: Processing 40 %; ScriptedPreset_1: Queued 0 %)",
        "Processing, 75 % (ScriptedPreset_0: Finished 100 %; ScriptedPreset_1: Processing 50 %)",
    ]


# -- names


@on_v3
@in_all_modes
def test_a_job_by_its_resource_id_in_another_case(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """What a create call returns. Services write it in their own case; the names are the same."""
    job_id = ams.submit_scripted(states=[WORKING, "Finished"], transform="Scripted", job_name="Clip-7.final")
    with AmsHook() as hook:
        resource_id = hook.get_job(job_id).raw["id"]
    assert "/transforms/" in resource_id
    with in_step(ams, lambda: ams.advance(3600)):
        document = wait(sensor(resource_id.upper(), **MODES[mode]))
    assert (document["state"], document["id"]) == ("Finished", "SCRIPTED/CLIP-7.FINAL")
    assert document["name"] == "Clip-7.final"


@on_v3
def test_one_job_in_two_cases_is_one_job(ams: Emulator, wait: Callable[..., Any]) -> None:
    """Two waits that name it differently both end; neither asks for another."""
    job_id = ams.submit_scripted(states=["Finished"], job_name="Clip-7")
    for spelling in (job_id, job_id.lower(), job_id.upper()):
        assert wait(sensor(spelling))["name"] == "Clip-7"


# -- limits


def statuses(ams: Emulator, path: str) -> list[int]:
    """Return the statuses of requests, oldest first."""
    return [request["status"] for request in ams.requests(path)]


def pauses_after(ams: Emulator, path: str, status: int) -> list[float]:
    """Return the seconds from each answer of a status to the next request, by the emulator's clock."""
    asked = ams.requests(path)
    return [later["time"] - one["time"] for one, later in pairwise(asked) if one["status"] == status]


@on("arm")
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_arm_says_when_to_come_back(mode: str, ams: Emulator, wait: Callable[..., Any]) -> None:
    """Its 429 names the seconds, and until then nobody asks; the wait goes on to its end."""
    job_id = ams.submit_scripted(states=[{"state": "Processing", "seconds": 2}, "Finished"])
    ams.limit(arm_reads={"bucket": 1, "per_second": 0.5})
    assert wait(sensor(job_id, **MODES[mode]))["state"] == "Finished"
    asked = statuses(ams, WIRES["arm"].job)
    assert asked[0] == asked[-1] == 200
    assert 429 in asked
    assert all(pause >= 0.9 for pause in pauses_after(ams, WIRES["arm"].job, 429))


@on("arm")
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_arm_is_asked_less_as_its_reads_run_out(
    mode: str, ams: Emulator, wait: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of each answer tells how many are left, so the wall is not run into."""
    monkeypatch.setattr("airflow_ams.api.pace._SLOWEST", 0.4)
    job_id = ams.submit_scripted(states=[{"state": "Processing", "seconds": 3}, "Finished"])
    # At the interval of these waits the bucket would be empty after half a second.
    ams.limit(arm_reads={"bucket": 8, "per_second": 4})
    assert wait(sensor(job_id, **MODES[mode]))["state"] == "Finished"
    asked = statuses(ams, WIRES["arm"].job)
    assert set(asked) == {200}
    assert len(asked) > 4


@on("arm")
def test_the_last_look_waits_for_no_turn(ams: Emulator) -> None:
    """However slowly ARM is to be asked, a job that has ended in time is not told to be late."""
    ids = [ams.submit_scripted(states=[{"state": "Processing", "seconds": 4}, "Finished"]) for _ in range(8)]
    # By the header, reads are to be about half a second apart.
    ams.limit(arm_reads={"bucket": 50, "per_second": 0.01})

    async def main() -> list[Any]:
        late = [trigger(job_id, poke_interval=1, deadline=time.time() + 6) for job_id in ids]
        return await asyncio.gather(*map(fired, late))

    assert [event["outcome"] for event in asyncio.run(main())] == ["succeeded"] * 8


@on("mkio")
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_mkio_does_not_say_when_to_come_back(
    mode: str,
    ams: Emulator,
    wait: Callable[..., Any],
    quick_retries: None,
    quick_back_off: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its 429 names no time, so nobody asks for a while; the wait goes on when the minute is over."""
    monkeypatch.setattr("airflow_ams.api.mkio.AFTER_REFUSAL", 0.5)
    job_id = ams.submit_scripted(states=[{"state": "Queued", "seconds": 50}, "Finished"])
    ams.limit(mkio_gets_per_minute=3)
    with in_step(ams, lambda: ams.advance(60), reads=6):
        assert wait(sensor(job_id, **MODES[mode]))["state"] == "Finished"
    asked = statuses(ams, WIRES["mkio"].job)
    assert asked[:6] == [200, 200, 200, 429, 429, 429]
    assert asked[-2:] == [200, 200]
    assert all(pause >= 0.4 for pause in pauses_after(ams, WIRES["mkio"].job, 429))


# -- MK.IO


@on("mkio")
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 404, "body": "html"}, {"drop": True}], ids=str)
def test_an_end_that_cannot_be_read_in_full_is_waited_for(
    fault: dict[str, Any],
    mode: str,
    ams: Emulator,
    wait: Callable[..., Any],
    quick_retries: None,
    quick_back_off: None,
) -> None:
    """The state alone does not tell why a job has failed, nor whether all outputs are there."""
    job_id = ams.submit_scripted(states=[{**WORKING, "state": "Queued"}, "Error"], error=BROKEN)

    def end() -> None:
        ams.inject({"when": {"path": WHOLE}, "then": fault, "times": 6})
        ams.advance(3600)

    with in_step(ams, end, reads=3), pytest.raises(AmsJobFailed, match="ContentMalformed: broken"):
        wait(sensor(job_id, **MODES[mode]))
    assert len(ams.requests(STATE)) > 1


@on("mkio")
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_percent_that_cannot_be_read_is_done_without(
    mode: str,
    ams: Emulator,
    wait: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """When the state says that a job has begun, percent is a nicety: asked for once, no reason to warn."""
    job_id = ams.submit_scripted(states=[{**WORKING, "state": "Queued"}, WORKING, "Finished"])

    def begin() -> None:
        ams.inject({"when": {"path": WHOLE}, "then": {"status": 503}, "times": 1})
        ams.advance(3600)

    with in_step(ams, begin, lambda: ams.advance(3600), reads=4):
        assert wait(sensor(job_id, **MODES[mode]))["state"] == "Finished"
    assert 503 in statuses(ams, WHOLE)
    assert lines(caplog, 30) == []


@on("mkio")
@in_all_modes
def test_the_older_addresses(
    mode: str, ams: Emulator, connection: Callable[..., str], wait: Callable[..., Any]
) -> None:
    """The same waits; there is no cheaper way to read a state, and errors are bare texts."""
    fields = {**ams.connection, "extra": {**ams.connection["extra"], "legacy": True}}
    conn_id = connection("ams_legacy", **fields)

    def run(job_id: str) -> Any:
        return wait(sensor(job_id, ams_conn_id=conn_id, not_found_grace=0, **MODES[mode]))

    job_id = ams.submit_scripted(states=[WORKING, "Finished"])
    with in_step(ams, lambda: ams.advance(3600)):
        assert run(job_id)["state"] == "Finished"
    with pytest.raises(AmsJobFailed, match="ContentMalformed: broken"):
        run(ams.submit_scripted(states=["Error"], error=BROKEN))
    with pytest.raises(AmsJobNotFound, match="Scripted/nowhere"):
        run("Scripted/nowhere")
    connection("ams_legacy", **{**fields, "password": ams.personal_token(capabilities=[])})
    with pytest.raises(AmsRefused, match=r"ams\.job\.get"):
        run(job_id)
    asked = [request["path"] for request in ams.requests("jobs/")]
    assert all(path.startswith(f"ams/{ams.account}/transforms/") for path in asked)
    assert not ams.requests(STATE)
