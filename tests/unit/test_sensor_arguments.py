"""What the sensor takes, before it runs."""

from __future__ import annotations

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
