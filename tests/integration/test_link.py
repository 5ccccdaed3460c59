"""The link from a task to its job: made of the connection alone, there while the task waits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_ams.api.errors import RefusedError
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.links.ams import AmsJobLink
from tests.integration.submits import RUNNING, Try, encode, operator
from tests.integration.waits import all_apis, audible, on, sensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_ams.emulator.process import Emulator

KEY = "_link_AmsJobLink"
ACCOUNT = {"subscription_id": "S 1", "resource_group": "R", "account_name": "A"}


def templated(ams: Emulator, monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    """Give the connection a template."""
    connection = json.loads(ams.connection_json())
    connection["extra"]["job_url_template"] = template
    monkeypatch.setenv("AIRFLOW_CONN_AMS_DEFAULT", json.dumps(connection))


@pytest.mark.parametrize(
    ("extra", "template", "job_id", "url"),
    [
        ({}, "https://p/{job_id}", "NB:JID:uuid:F3C43F94-327f-2347-90bb-3bf79f8559f1", "https://p/nb%3Ajid%3AUUID%3Af3c43f94-327f-2347-90bb-3bf79f8559f1"),
        ({"api": "rms", **ACCOUNT}, "https://p/{transform_name}/x/{job_name}", "t 1/j", "https://p/t%201/x/j"),
        ({"api": "rms", **ACCOUNT}, "https://p/{subscription_id}/{account_name}?id={job_id}", "t/j", "https://p/S%201/A?id=t%2Fj"),
        ({"api": "mkio", "project": "P"}, "https://p/{project}", "t/j", "https://p/P"),
        ({}, "", "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1", None),
    ],
)  # fmt: skip
def test_the_template_makes_an_address(
    connection: Callable[..., str], extra: dict[str, str], template: str, job_id: str, url: str | None
) -> None:
    """Every value is percent-encoded; without a template there is none. Nothing is sent."""
    given = {**extra, "job_url_template": template}
    with AmsHook(connection(host="127.0.0.1:1", password="secret", extra=given)) as hook:
        assert hook.get_job_url(job_id) == url


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("https://p/{id}", "{id}; what it can have is {job_id}"),
        ("https://p/{job_id.__class__}", "job_id.__class__"),
        ("https://p/{", "no template"),
        ("https://p/{}", "what it can have"),
        ("javascript:alert({job_id})", "no http"),
        ("/jobs/{job_id}", "no http"),
    ],
)
def test_a_bad_template_is_an_error_of_the_connection(
    connection: Callable[..., str], template: str, said: str
) -> None:
    """It names the field."""
    conn_id = connection(host="127.0.0.1:1", password="secret", extra={"job_url_template": template})
    with pytest.raises(RefusedError, match=r"extra\.job_url_template") as caught:
        AmsHook(conn_id).get_conn()
    assert said in str(caught.value)


@all_apis
def test_waiting_tasks_have_a_link(ams: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds, before the wait is over."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    templated(ams, monkeypatch, "https://portal/{job_id}")
    submitting, waiting = Try(), Try(task_id="wait")
    with pytest.raises(TaskDeferred):
        audible(operator(encode(ams, states=RUNNING), deferrable=True)).execute(submitting.context)
    job_id = submitting.xcoms["job_id"]
    with pytest.raises(TaskDeferred):
        audible(sensor(job_id, deferrable=True)).execute(waiting.context)
    assert submitting.xcoms[KEY] == waiting.xcoms[KEY]
    assert submitting.xcoms[KEY].startswith("https://portal/")
    operator(encode(ams, states=["Finished"]), wait_for_completion=False).execute(waiting.context)
    assert waiting.xcoms[KEY] != submitting.xcoms[KEY]


@on("v2")
def test_a_link_that_cannot_be_pushed_stops_nothing(
    ams: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job runs; it would not be waited for, nor canceled."""

    class Deaf(Try):
        def xcom_push(self, key: str, value: Any) -> None:
            raise ConnectionError("no API server")

    templated(ams, monkeypatch, "https://portal/{job_id}")
    with caplog.at_level("WARNING"):
        job = Deaf().run(operator(encode(ams, states=["Finished"])))
        assert Deaf(task_id="wait").run(sensor(job["id"]))["state"] == "Finished"
    assert caplog.text.count("The link to job") == 2


@on("v2")
def test_a_task_may_have_no_link(ams: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a template, and of a list of jobs."""
    without, many = Try(task_id="wait"), Try(task_id="wait")
    job_id = ams.submit_scripted(states=["Finished"])
    audible(sensor(job_id)).execute(without.context)
    templated(ams, monkeypatch, "https://portal/{job_id}")
    audible(sensor([job_id])).execute(many.context)
    assert KEY not in {**without.xcoms, **many.xcoms}


def test_the_link_is_what_the_task_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read from XCom; that needs Airflow's own server, which stands in `test_submits.py`."""
    from airflow.providers.common.compat.sdk import XCom

    left: Any = "https://portal/1"
    monkeypatch.setattr(XCom, "get_value", lambda ti_key, key: left if key == KEY else None)
    link = AmsJobLink()
    assert (link.name, link.xcom_key) == ("Media job", KEY)
    assert link.get_link(None, ti_key=None) == left  # type: ignore[arg-type]
    left = None
    assert link.get_link(None, ti_key=None) == ""  # type: ignore[arg-type]
