"""What the sensor takes, before it runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, BaseSensorOperator

from airflow_ams import exceptions
from airflow_ams.sensors.ams import AmsJobSensor

ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"


def test_the_defaults() -> None:
    """`ams_default`, sixty seconds of grace, and both ids templated."""
    sensor = AmsJobSensor(task_id="wait", job_id=ID)
    assert isinstance(sensor, BaseSensorOperator)
    assert (sensor.ams_conn_id, sensor.not_found_grace) == ("ams_default", 60)
    assert set(sensor.template_fields) == {"job_id", "ams_conn_id"}


@pytest.mark.parametrize("job_id", [None, 7, 7.5, b"nb", {"id": ID}, {ID}, [ID, 7], [None], [[ID]], ([ID],)])
def test_a_job_id_of_another_type_is_refused_when_the_dag_is_read(job_id: Any) -> None:
    """The message names the task."""
    with pytest.raises(TypeError, match="'wait'"):
        AmsJobSensor(task_id="wait", job_id=job_id)


def test_a_negative_grace_is_refused_when_the_dag_is_read() -> None:
    """The message names the task; no grace at all is allowed."""
    with pytest.raises(ValueError, match="'wait'"):
        AmsJobSensor(task_id="wait", job_id=ID, not_found_grace=-1)
    assert AmsJobSensor(task_id="wait", job_id=ID, not_found_grace=0).not_found_grace == 0


def test_building_a_sensor_reads_no_connection() -> None:
    """A DAG file that names a connection which is not there still parses, and so does its hook."""
    assert AmsJobSensor(task_id="wait", job_id=ID, ams_conn_id="nowhere").hook.ams_conn_id == "nowhere"


def test_ids_are_rendered() -> None:
    """Both fields are templates, also with nothing but a context at hand."""
    sensor = AmsJobSensor(task_id="wait", job_id="{{ job }}", ams_conn_id="ams_{{ env }}")
    context: Any = {"job": ID, "env": "test"}
    sensor.render_template_fields(context)
    assert (sensor.job_id, sensor.ams_conn_id, sensor.hook.ams_conn_id) == (ID, "ams_test", "ams_test")


def test_an_upstream_output_is_a_job_id() -> None:
    """A TaskFlow task's return value becomes the id, and orders the two tasks."""
    from datetime import datetime, timezone

    from airflow.providers.common.compat.sdk import DAG, task

    with DAG("wiring", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)) as dag:

        @task
        def submit() -> str:
            return ID

        AmsJobSensor(task_id="wait", job_id=submit())
        AmsJobSensor.partial(task_id="many").expand(job_id=[ID, ID.upper()])
    assert dag.get_task("wait").upstream_task_ids == {"submit"}
    assert dag.get_task("many").upstream_task_ids == set()


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_both_modes_are_there(mode: str) -> None:
    """All arguments of Airflow's sensors pass through."""
    sensor = AmsJobSensor(task_id="wait", job_id=ID, mode=mode, poke_interval=7, timeout=70, soft_fail=True)
    assert (sensor.mode, sensor.poke_interval, sensor.timeout, sensor.soft_fail) == (mode, 7, 70, True)


def test_every_bad_end_ends_the_task_without_retries() -> None:
    """Airflow does not retry after an AirflowFailException; a cancellation is a kind of failure."""
    for kind in ("AmsJobFailed", "AmsJobCanceled", "AmsJobNotFound", "AmsRefused"):
        assert issubclass(getattr(exceptions, kind), AirflowFailException)
    assert issubclass(exceptions.AmsJobCanceled, exceptions.AmsJobFailed)
    assert not issubclass(exceptions.AmsJobNotFound, exceptions.AmsJobFailed)
    assert not issubclass(exceptions.AmsRefused, exceptions.AmsJobFailed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"poke_interval": 0.5}, "poke_interval"),
        ({"poke_interval": timedelta(milliseconds=1)}, "poke_interval"),
        ({"queue_timeout": 61, "timeout": 60}, "queue_timeout"),
        ({"not_found_grace": -1}, "not_found_grace"),
        ({"deferrable": True, "exponential_backoff": True}, "exponential_backoff"),
    ],
)
def test_a_mapped_task_is_checked_as_another(arguments: dict[str, Any], words: str) -> None:
    """What is known when the DAG is read is refused then, for one task and for a mapped one."""
    with pytest.raises(ValueError, match=words):
        AmsJobSensor(task_id="wait", job_id=ID, **arguments)
    with pytest.raises(ValueError, match=words):
        AmsJobSensor.partial(task_id="wait", **arguments)


@pytest.mark.parametrize("place", ["dag", "group"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"poke_interval": 0.5}, "poke_interval"),
        ({"not_found_grace": -1}, "not_found_grace"),
        ({"deferrable": True, "exponential_backoff": True}, "exponential_backoff"),
    ],
)
def test_default_args_are_checked_for_a_mapped_task(
    place: str, arguments: dict[str, Any], words: str
) -> None:
    """Airflow gives them to a mapped task when it runs, which is late; what the task itself says counts."""
    from datetime import datetime, timezone

    from airflow.providers.common.compat.sdk import DAG, TaskGroup

    of_dag: Any = arguments if place == "dag" else {}
    of_group: Any = arguments if place == "group" else {}
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with (
        DAG("defaults", schedule=None, start_date=start, default_args=of_dag),
        TaskGroup("group", default_args=of_group),
    ):
        with pytest.raises(ValueError, match=words):
            AmsJobSensor(task_id="plain", job_id=ID)
        with pytest.raises(ValueError, match=words):
            AmsJobSensor.partial(task_id="mapped")
        good = {"poke_interval": 5, "not_found_grace": 0, "exponential_backoff": False}
        AmsJobSensor.partial(task_id="good", **good).expand(job_id=[ID])


@pytest.mark.parametrize("name", ["poke_interval", "timeout", "max_wait", "queue_timeout", "not_found_grace"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_time_without_end_is_refused(name: str, value: float) -> None:
    """Not every one of them survives the way to a triggerer; the message says which argument it is."""
    with pytest.raises(ValueError, match=f"{name} of task 'wait' is {value}"):
        AmsJobSensor(task_id="wait", job_id=ID, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("job_id", [[ID, ID], [ID, f" {ID}"], [f"{ID}\n", ID]])
def test_an_id_that_comes_twice_is_refused_when_the_dag_is_read(job_id: Any) -> None:
    """Blanks around it do not make it another one."""
    with pytest.raises(ValueError, match=f"'{ID}' more than once"):
        AmsJobSensor(task_id="wait", job_id=job_id)


@pytest.mark.parametrize("name", ["queue_timeout", "not_found_grace"])
def test_a_time_that_is_none_is_refused(name: str) -> None:
    """A text is no number of seconds; the message says which argument it is."""
    with pytest.raises(TypeError, match=f"{name} of task 'wait' is '60'"):
        AmsJobSensor(task_id="wait", job_id=ID, **{name: "60"})  # type: ignore[arg-type]


@pytest.mark.parametrize("job_id", ["", " ", [ID, ""]])
def test_an_empty_id_is_refused_when_the_dag_is_read(job_id: Any) -> None:
    """It could only fail later."""
    with pytest.raises(ValueError, match="'wait'"):
        AmsJobSensor(task_id="wait", job_id=job_id)
