"""One create after another on the wire: what is sent once, what is looked for, and which job counts then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_ams.api.errors import RefusedError, TransientError, UncertainError
from airflow_ams.api.model import Job, JobState
from airflow_ams.api.submission import create, mark_of, number_in
from airflow_ams.hooks.ams import AmsHook
from tests.integration.submits import RUNNING, creates, encode
from tests.integration.waits import WIRES, all_apis, on

if TYPE_CHECKING:
    from airflow_ams.api import MediaService
    from airflow_ams.emulator.process import Emulator

MARK = mark_of("dag", "task", "run", -1)
GONE = [JobState.CANCELING, JobState.CANCELED]


@pytest.fixture
def media(ams: Emulator) -> Iterator[MediaService]:
    """Return the client of the emulator's service."""
    with AmsHook() as hook:
        yield hook.get_conn()


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a lost job without the pauses that a real service is given."""
    monkeypatch.setattr("airflow_ams.api.submission.LOOKS", (0.0, 0.01))


def lose(ams: Emulator, **then: Any) -> None:
    """Let the next create go wrong."""
    method, path = WIRES[ams.api].create
    ams.inject({"when": {"method": method, "path": path}, "then": then, "times": 1})


def sent(ams: Emulator) -> int:
    """Return how many creates were sent."""
    method, path = WIRES[ams.api].create
    return len([r for r in ams.requests(path) if r["method"] == method])


def refuse_startswith(ams: Emulator, status: int = 400) -> None:
    """Let the service not take the filter that finds all jobs of a mark."""
    ams.inject({"when": {"path": "^Jobs", "query": "startswith"}, "then": {"status": status}})


# -- creating


@on("v2")
@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_create_is_not_repeated_whatever_it_is_answered_with(
    ams: Emulator, service: Callable[..., Any], reply: Any, connection: Callable[..., str], status: int
) -> None:
    """A gateway may say that the service was busy when it was not; the job is there to be found."""

    def passed_on(seen: Any) -> Any:
        headers = {name: value for name, value in seen.headers.items() if name != "Host"}
        address = ams.url + seen.target.lstrip("/")
        answer = requests.request(seen.method, address, headers=headers, data=seen.body, timeout=30)
        if seen.method == "POST":
            return reply(status, {}, {"Retry-After": "7"} if status == HTTPStatus.TOO_MANY_REQUESTS else {})
        return reply(answer.status_code, headers=dict(answer.headers), body=answer.content)

    spec = encode(ams, states=RUNNING)
    gateway = service(passed_on)
    conn_id = connection(**{**ams.connection, "host": gateway.base_url})
    with AmsHook(conn_id) as hook:
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            # That is said before anything is done; the caller waits, and looks then.
            with pytest.raises(TransientError) as caught:
                create(hook.get_conn(), spec, MARK, 1)
            assert caught.value.retry_after == 7.0
            found = hook.get_conn().find_attempt(spec, MARK, 1)
            assert found is not None
            job = found.job
        else:
            job = create(hook.get_conn(), spec, MARK, 1)
    assert number_in(job.name, MARK) == 1
    assert sent(ams) == creates(ams) == 1


@on("v2")
@pytest.mark.usefixtures("quick_retries")
def test_reads_for_a_create_are_repeated(ams: Emulator, media: MediaService) -> None:
    """Only the create itself is sent once; the look-up of its processor is as any other."""
    spec = encode(ams, states=RUNNING)
    ams.inject({"when": {"path": "^MediaProcessors"}, "then": {"status": 503}, "times": 2})
    assert create(media, spec, MARK, 1).state is not JobState.UNKNOWN
    assert len(ams.requests("^MediaProcessors")) == 3
    assert sent(ams) == 1


@all_apis
@pytest.mark.usefixtures("quick_retries")
def test_a_create_whose_answer_was_lost_is_found(ams: Emulator, media: MediaService) -> None:
    """By its name, even when some looks for it fail."""
    spec = encode(ams, states=["Finished"])
    method, path = WIRES[ams.api].create
    ams.inject(
        {"when": {"method": method, "path": path}, "then": {"truncate": True}, "times": 1},
        {"when": {"method": "GET", "path": "[Jj]obs"}, "then": {"status": 503}, "times": 4},
    )
    job = create(media, spec, MARK, 1)
    assert number_in(job.name, MARK) == 1
    assert sent(ams) == creates(ams) == 1


@all_apis
def test_a_create_that_is_not_to_be_seen_is_the_callers_affair(ams: Emulator, media: MediaService) -> None:
    """It is not sent again: who begins anew looks first."""
    spec = encode(ams, states=RUNNING)
    lose(ams, drop=True)
    with pytest.raises(UncertainError):
        create(media, spec, MARK, 1)
    assert (sent(ams), creates(ams)) == (1, 0)


@all_apis
@pytest.mark.usefixtures("quick_retries")
def test_when_looks_fail_the_create_remains_unconfirmed(ams: Emulator, media: MediaService) -> None:
    """The trouble that is told is the create's, not the look's."""
    spec = encode(ams, states=RUNNING)
    method, path = WIRES[ams.api].create
    ams.inject(
        {"when": {"method": method, "path": path}, "then": {"truncate": True}},
        {"when": {"method": "GET", "path": "[Jj]obs"}, "then": {"status": 403}},
    )
    with pytest.raises(UncertainError):
        create(media, spec, MARK, 1)
    ams.clear_faults()
    found = media.find_attempt(spec, MARK, 1)
    assert found is not None
    assert sent(ams) == 1


@pytest.mark.parametrize(
    ("ams", "has_startswith"),
    [("v2", True), ("v2", False), ("arm", False), ("rms", False), ("mkio", False)],
    indirect=["ams"],
)
def test_a_job_of_a_try_that_overlaps_is_taken(
    ams: Emulator, media: MediaService, monkeypatch: pytest.MonkeyPatch, has_startswith: bool
) -> None:
    """While the first try waits to look for its job, the second, begun meanwhile, makes one."""
    spec = encode(ams, states=RUNNING)
    lose(ams, drop=True)
    made: list[Job] = []

    def pause(_: float) -> None:
        if not made:
            ams.clear_faults()
            if ams.api == "v2" and not has_startswith:
                refuse_startswith(ams)
            made.append(media.submit_as(spec, MARK, 2))

    # Nothing but a pause is the moment at which one try can be overtaken by another.
    monkeypatch.setattr("airflow_ams.api.submission.time.sleep", pause)
    job = create(media, spec, MARK, 1)
    assert job.id == made[0].id
    assert number_in(job.name, MARK) == 2
    assert creates(ams) == 1


# -- names that are taken


@on("arm", "rms", "mkio")
def test_a_conflict_with_a_job_of_that_name_is_the_job(ams: Emulator, media: MediaService) -> None:
    """A repeated PUT meets what the first one has made."""
    spec = encode(ams, states=RUNNING)
    first = media.submit_as(spec, MARK, 1)
    assert media.submit_as(spec, MARK, 1).id == first.id
    assert (sent(ams), creates(ams)) == (2, 1)


@on("arm", "rms", "mkio")
def test_a_conflict_with_something_else_is_told(ams: Emulator, media: MediaService) -> None:
    """When there is no job of that name, the service's own words say what is in the way."""
    spec = encode(ams, states=RUNNING)
    lose(ams, status=409, reason="QuotaExceeded")
    with pytest.raises(RefusedError, match="QuotaExceeded") as caught:
        media.submit_as(spec, MARK, 1)
    assert caught.value.status == 409
    assert "There is a job" not in str(caught.value)


@on("arm", "rms")
def test_a_conflict_about_an_asset_is_none_about_the_job(ams: Emulator, media: MediaService) -> None:
    """It is told as it is, and no job is looked for."""
    spec = encode(ams, states=RUNNING)
    ams.inject({"when": {"method": "PUT", "path": "/assets/"}, "then": {"status": 409, "reason": "InUse"}})
    with pytest.raises(RefusedError, match="InUse"):
        media.submit_as(spec, MARK, 1)
    with pytest.raises(RefusedError, match="InUse") as caught:
        media.submit_job(spec)
    assert "There is a job" not in str(caught.value)
    assert ams.requests("/jobs/") == []


# -- looking for the last job

CASES = pytest.mark.parametrize(
    ("made", "number", "last"),
    [((), 3, None), ((1,), 3, 1), ((2,), 2, 2), ((1, 3), 5, 3), ((1, 2, 3), 1, 3)],
)


@all_apis
@CASES
def test_the_last_job_of_a_mark_is_found(
    ams: Emulator, media: MediaService, made: tuple[int, ...], number: int, last: int | None
) -> None:
    """Below the number that the next would have, at it, and above it: a try may make more than one."""
    spec = encode(ams, states=RUNNING)
    for n in made:
        media.submit_as(spec, MARK, n)
    found = media.find_attempt(spec, MARK, number)
    assert (found and found.number) == last


@on("v2")
@CASES
@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [400, 501])
def test_without_startswith_the_same_job_is_found(
    ams: Emulator,
    media: MediaService,
    status: int,
    made: tuple[int, ...],
    number: int,
    last: int | None,
) -> None:
    """Each name is asked for then; 501 is a service's word for a filter that it does not know, too."""
    spec = encode(ams, states=RUNNING)
    for n in made:
        media.submit_as(spec, MARK, n)
    refuse_startswith(ams, status)
    found = media.find_attempt(spec, MARK, number)
    assert (found and found.number) == last


@on("v2")
@pytest.mark.parametrize("has_startswith", [True, False])
def test_of_two_jobs_of_one_number_the_one_of_use_is_found(
    ams: Emulator, media: MediaService, has_startswith: bool
) -> None:
    """The first, until it is canceled; then the other, as long as that is not."""
    spec = encode(ams, states=RUNNING)
    first = media.submit_as(spec, MARK, 1)
    ams.advance(60)
    second = media.submit_as(spec, MARK, 1)
    if not has_startswith:
        refuse_startswith(ams)

    def found() -> Any:
        attempt = media.find_attempt(spec, MARK, 1)
        assert attempt is not None
        return attempt.job.id

    assert found() == first.id
    media.cancel_job(first.id)
    assert media.get_job(first.id).state in GONE
    assert found() == second.id
    media.cancel_job(second.id)
    assert found() == first.id
