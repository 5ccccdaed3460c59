"""Wait for a media job that something else has submitted, then publish what it made.

Trigger it with the job's id: ``airflow dags trigger example_ams_wait --conf '{"job_id": "nb:jid:UUID:…"}'``.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_ams.api.model import verdict
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.sensors.ams import AmsJobSensor


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    params={"job_id": Param("", type="string", title="Job id", description="nb:jid:UUID:…")},
    tags=["example", "ams"],
)
def example_ams_wait() -> None:
    """Wait, then publish; or report why there is nothing to publish."""
    # [START howto_sensor_ams_job]
    wait_for_encode = AmsJobSensor(
        task_id="wait_for_encode",
        job_id="{{ params.job_id }}",
        deferrable=True,
        poke_interval=30,
        timeout=timedelta(hours=6),
    )
    # [END howto_sensor_ams_job]

    @task
    def publish(job: Any) -> None:
        for output in job["outputs"] or []:
            print(f"publishing {output['name']} ({output['asset_id']}) from {output['uri']}")

    @task(trigger_rule="one_failed")
    def report_failure(job_id: str) -> str:
        with AmsHook() as hook:
            service = hook.get_conn()
            reason = verdict(service.with_tasks(service.get_job(job_id))).text
        print(f"nothing to publish: {reason}")
        return reason

    publish(wait_for_encode.output)
    wait_for_encode >> report_failure("{{ params.job_id }}")


example_ams_wait()
