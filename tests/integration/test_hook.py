"""The hook against the emulator, which runs in a process of its own."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_ams import __version__
from airflow_ams.api.errors import JobNotFoundError, RefusedError
from airflow_ams.api.model import JobState
from airflow_ams.hooks.ams import AmsHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_ams.emulator.process import Emulator

ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
SCRIPTED = "Scripted"
STUCK = [
    {"state": "Queued", "seconds": 1},
    {"state": "Processing", "progress": 40, "seconds": 3600},
    "Finished",
]


@pytest.fixture
def hook(ams_emulator: Emulator) -> Iterator[AmsHook]:
    """Open a hook on the emulator, with its clock standing still."""
    ams_emulator.freeze()
    with AmsHook() as opened:
        yield opened


def test_the_founding_call(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """`get_job` is one request, written to the byte as documented in 2015, on version 2.19."""
    row = {"Id": ID, "Name": "x", "State": 2}
    answering = service(lambda _: reply(document={"value": [row]}))
    with AmsHook(connection(host=answering.base_url, password="Bearer tok")) as hook:
        assert hook.get_job(ID).state is JobState.PROCESSING
        hook.get_job(ID)
    first, second = answering.seen
    assert first.method == "GET"
    assert first.target == f"/api/Jobs()?$filter=Id%20eq%20'{ID.replace(':', '%3A')}'&$top=1"
    assert first.body == b""
    sent = {name.lower(): value for name, value in first.headers.items()}
    request_id = sent.pop("x-ms-client-request-id")
    assert uuid.UUID(request_id)
    assert request_id != second.headers["x-ms-client-request-id"]
    assert re.fullmatch(rf"airflow-ams/{re.escape(__version__)} python-requests/\S+", sent.pop("user-agent"))
    for of_requests in ("accept-encoding", "connection", "host"):
        sent.pop(of_requests)
    assert sent == {
        "dataserviceversion": "1.0;NetFx",
        "maxdataserviceversion": "3.0;NetFx",
        "accept": "application/json",
        "accept-charset": "UTF-8",
        "authorization": "Bearer tok",
        "x-ms-version": "2.19",
    }


def test_the_connection_may_say_another_version(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """`extra.api_version` replaces 2.19."""
    answering = service(lambda _: reply(document={"value": []}))
    conn_id = connection(host=answering.base_url, password="tok", extra={"api_version": "2.11"})
    with AmsHook(conn_id) as hook:
        hook.test_connection()
    assert answering.seen[0].headers["x-ms-version"] == "2.11"


def test_a_job_is_followed_through_its_states(ams_emulator: Emulator, hook: AmsHook) -> None:
    """State, times and duration as the service has them, in UTC."""
    job_id = ams_emulator.submit_scripted(
        name="Encode",
        states=[{"state": "Queued", "seconds": 10}, {"state": "Processing", "seconds": 20}, "Finished"],
    )
    job = hook.get_job(job_id)
    assert (job.id, job.name, job.state, job.started) == (job_id, "Encode", JobState.QUEUED, None)
    assert job.created is not None
    assert job.created.tzinfo is timezone.utc
    ams_emulator.advance(15)
    assert hook.get_job_state(job_id) is JobState.PROCESSING
    ams_emulator.advance(20)
    job = hook.get_job(job_id)
    assert (job.state, job.progress) == (JobState.FINISHED, 100.0)
    assert job.duration == pytest.approx(20, abs=0.1)
    assert job.started is not None
    assert job.ended is not None
    assert job.ended - job.started == timedelta(seconds=20)


def test_an_id_in_other_case_finds_the_job(ams_emulator: Emulator, hook: AmsHook) -> None:
    """Pasted from a URL, or shouted: the same job."""
    job_id = ams_emulator.submit_scripted()
    assert hook.get_job(job_id.upper().replace(":", "%3A")).id == job_id


def test_an_unknown_id_is_no_such_job(hook: AmsHook) -> None:
    """Reading, deleting and asking for outputs all say so."""
    for call in (hook.get_job, hook.delete_job, hook.get_output_assets, hook.cancel_job):
        with pytest.raises(JobNotFoundError, match=ID):
            call(ID)


def test_tasks_bring_percent_and_errors(ams_emulator: Emulator, hook: AmsHook) -> None:
    """Percent is the tasks' mean; every task's reason is in one list."""
    errors = [{"code": "ErrorA", "message": "first"}, {"code": "ErrorB", "message": "second"}]
    failed = ams_emulator.submit_scripted(states=["Error"], tasks=2, error=errors)
    running = ams_emulator.submit_scripted(states=STUCK, tasks=2)
    ams_emulator.advance(5)
    service = hook.get_conn()
    job = service.with_tasks(hook.get_job(failed))
    assert [(error.code, error.message) for error in job.errors] == [
        ("ErrorA", "first"),
        ("ErrorB", "second"),
    ]
    assert all(error.task for error in job.errors)
    job = service.with_tasks(hook.get_job(running))
    assert job.progress == 40
    assert sum(task.progress or 0 for task in job.tasks) == 80
    assert job.tasks[0].state is JobState.PROCESSING
    assert job.tasks[0].history


def test_jobs_are_listed_by_state_and_time(ams_emulator: Emulator, hook: AmsHook) -> None:
    """Filters are the service's own; jobs come oldest first."""
    finished = ams_emulator.submit_scripted(states=["Finished"])
    ams_emulator.advance(100)
    failed = ams_emulator.submit_scripted(states=["Error"])
    ams_emulator.advance(100)
    stuck = ams_emulator.submit_scripted(states=STUCK)
    created = {job.id: job.created for job in hook.iter_jobs() if job.created}
    assert list(created) == [finished, failed, stuck]

    def found(**filters: Any) -> list[str]:
        return [job.id for job in hook.iter_jobs(**filters)]

    assert found(states=frozenset({JobState.FINISHED, JobState.ERROR})) == [finished, failed]
    assert found(states=frozenset({JobState.QUEUED})) == [stuck]
    assert found(states=frozenset({JobState.CANCELED})) == []
    assert found(since=created[failed]) == [failed, stuck]
    assert found(until=created[failed]) == [finished]
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    assert found(since=created[failed].astimezone(elsewhere), until=created[stuck]) == [failed]
    assert found(since=created[finished], states=frozenset({JobState.ERROR})) == [failed]


def test_listing_goes_past_a_thousand(ams_emulator: Emulator, hook: AmsHook) -> None:
    """The service gives a thousand rows at most; all jobs come, each once, in two requests."""
    session = requests.Session()
    session.headers["X-AMS-Emulator"] = "test"
    with session, ThreadPoolExecutor(4) as pool:
        made = pool.map(
            lambda _: session.post(f"{ams_emulator.url}_emulator/jobs", json={"name": "many", "script": {}}),
            range(1003),
        )
        ids = {answer.json()["id"] for answer in made}
    ams_emulator.clear_requests()
    found = [job.id for job in hook.iter_jobs()]
    assert len(found) == 1003
    assert set(found) == ids
    assert len(ams_emulator.requests("Jobs")) == 2


def test_a_job_is_submitted_with_one_post(ams_emulator: Emulator, hook: AmsHook, tmp_path: Path) -> None:
    """What comes back is the job, and its chained tasks are there."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"not really a film")
    asset_id = ams_emulator.upload(clip)
    ams_emulator.clear_requests()
    script = json.dumps({"states": ["Finished"]})
    job = hook.submit_job(
        {
            "name": "Encode & 'chain'",
            "priority": 3,
            "input_asset_ids": [asset_id],
            "tasks": [
                {"name": "one", "processor": SCRIPTED, "configuration": script, "outputs": ["first <1>"]}
            ],
        }
    )
    assert (job.name, job.priority) == ("Encode & 'chain'", 3)
    assert hook.get_job(job.id).name == "Encode & 'chain'"
    assert len([r for r in ams_emulator.requests("^Jobs$") if r["method"] == "POST"]) == 1
    assert [asset.name for asset in hook.get_output_assets(job.id)] == ["first <1>"]


def test_an_unknown_processor_makes_no_job(ams_emulator: Emulator, hook: AmsHook, tmp_path: Path) -> None:
    """The name is refused with a sentence, before anything is created."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x")
    task = {"processor": "No Such Encoder", "configuration": "x", "outputs": ["o"]}
    with pytest.raises(RefusedError, match="No Such Encoder"):
        hook.submit_job({"input_asset_ids": [ams_emulator.upload(clip)], "tasks": [task]})
    assert list(hook.iter_jobs()) == []


def test_what_the_service_refuses_is_told(hook: AmsHook) -> None:
    """A 400 on submit carries the service's own text."""
    with pytest.raises(RefusedError) as caught:
        hook.submit_job({"Name": "x", "Tasks": [], "NoSuchProperty": 1})
    assert caught.value.status == 400
    assert "Parsing request content failed" in str(caught.value)


def test_cancel_is_idempotent(ams_emulator: Emulator, hook: AmsHook) -> None:
    """Asking again while it is Canceling, or Canceled, is no error; a job that ended otherwise says so."""
    job_id = ams_emulator.submit_scripted(states=STUCK, canceling=10)
    ams_emulator.advance(5)
    hook.cancel_job(job_id)
    assert hook.get_job_state(job_id) is JobState.CANCELING
    hook.cancel_job(job_id)
    ams_emulator.advance(10)
    assert hook.get_job_state(job_id) is JobState.CANCELED
    hook.cancel_job(job_id)
    finished = ams_emulator.submit_scripted(states=["Finished"])
    with pytest.raises(RefusedError, match="Finished"):
        hook.cancel_job(finished)


def test_only_an_ended_job_is_deleted(ams_emulator: Emulator, hook: AmsHook) -> None:
    """Deleting a running job is refused; an ended one is gone afterwards."""
    running = ams_emulator.submit_scripted(states=STUCK)
    with pytest.raises(RefusedError):
        hook.delete_job(running)
    finished = ams_emulator.submit_scripted(states=["Finished"])
    hook.delete_job(finished)
    with pytest.raises(JobNotFoundError):
        hook.get_job(finished)


def test_priority_changes_while_queued(ams_emulator: Emulator, hook: AmsHook) -> None:
    """Larger runs first; once it runs, the service's own words say that it is too late."""
    job_id = ams_emulator.submit_scripted(states=STUCK)
    hook.set_job_priority(job_id, 7)
    assert hook.get_job(job_id).priority == 7
    ams_emulator.advance(5)
    with pytest.raises(RefusedError, match="Queued"):
        hook.set_job_priority(job_id, 8)


def test_outputs_and_their_files(ams_emulator: Emulator, hook: AmsHook) -> None:
    """Assets have id, name and a plain address; files have name and size."""
    job_id = ams_emulator.submit_scripted(states=["Finished"], outputs=[{"name": "a.mp4", "size": 10}])
    (asset,) = hook.get_output_assets(job_id)
    assert asset.asset_id.startswith("nb:cid:UUID:")
    assert asset.uri is not None
    assert "?" not in asset.uri
    assert [(file.name, file.size) for file in hook.get_output_files(asset.asset_id)] == [("a.mp4", 10)]


def test_one_hook_keeps_one_connection(ams_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook opens one session; after `close()` it opens another."""
    opened = []
    real = requests.Session.__init__

    def counted(self: requests.Session) -> None:
        opened.append(self)
        real(self)

    job_id = ams_emulator.submit_scripted()
    monkeypatch.setattr(requests.Session, "__init__", counted)
    with AmsHook() as hook:
        for _ in range(5):
            hook.get_job(job_id)
        assert len(opened) == 2, "one for the API, one for the sign-in"
        hook.close()
        hook.get_job(job_id)
    assert len(opened) == 3, "the token is kept"


@pytest.mark.parametrize(
    ("change", "good", "words"),
    [
        ({}, True, ["accepts the token", "no job yet"]),
        ({"password": "wrong-key-entirely"}, False, ["login", "password", "token"]),
        ({"login": "stranger"}, False, ["login"]),
        ({"host": "http://127.0.0.1:9/api/"}, False, ["127.0.0.1:9", "refused"]),
        ({"extra": {"token_url": "http://127.0.0.1:9/"}}, False, ["127.0.0.1:9"]),
        ({"schema": "x"}, False, ["schema"]),
    ],
)
def test_test_connection_says_what_to_do(
    ams_emulator: Emulator,
    connection: Callable[..., str],
    change: dict[str, Any],
    good: bool,
    words: list[str],
) -> None:
    """One read proves token and permission; each failure is a sentence that names what is wrong."""
    answer, sentence = AmsHook(connection(**{**ams_emulator.connection, **change})).test_connection()
    assert answer is good, sentence
    for word in words:
        assert word in sentence
    assert "wrong-key-entirely" not in sentence


@pytest.mark.parametrize(("status", "word"), [(403, "quota"), (401, "Contributor"), (400, "api_version")])
def test_test_connection_explains_a_refusal(ams_emulator: Emulator, status: int, word: str) -> None:
    """A good token without permission is told apart."""
    ams_emulator.inject({"when": {"path": "Jobs"}, "then": {"status": status}})
    good, sentence = AmsHook().test_connection()
    assert not good
    assert str(status) in sentence
    assert word in sentence


def test_test_connection_counts_jobs(ams_emulator: Emulator) -> None:
    """With a job there, the sentence says so; one read is all it takes."""
    ams_emulator.submit_scripted()
    assert AmsHook().test_connection() == (
        True,
        f"{ams_emulator.base_url} accepts the token and lets it read jobs, and there is at least one job",
    )
    assert len(ams_emulator.requests("Jobs")) == 1


def test_a_bearer_token_is_used_as_it_is(ams_emulator: Emulator, connection: Callable[..., str]) -> None:
    """With a password alone no sign-in happens."""
    form = {
        "grant_type": "client_credentials",
        "client_id": ams_emulator.account,
        "client_secret": ams_emulator.key,
    }
    token = requests.post(ams_emulator.token_url, data=form, timeout=20).json()["access_token"]
    ams_emulator.clear_requests()
    good, _ = AmsHook(connection(host=ams_emulator.base_url, password=token)).test_connection()
    assert good
    assert [request["path"] for request in ams_emulator.requests()] == ["Jobs()"]


def test_times_are_compared_in_utc(ams_emulator: Emulator, hook: AmsHook) -> None:
    """A job made now is created now, whatever zone this machine is in."""
    created = hook.get_job(ams_emulator.submit_scripted()).created
    assert created is not None
    assert abs(created - datetime.now(timezone.utc)) < timedelta(minutes=5)
