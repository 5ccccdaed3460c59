"""Encode every clip of a folder: a job for each, one wait for all, and a report.

The clips are in a folder that the media service reads over https, so this is for the APIs with transforms::

    airflow dags trigger example_ams_batch --conf '{"folder": "/mnt/clips",
      "address": "https://clips.example.com", "transform_name": "encode-720p"}'

The jobs are submitted by a few tasks at a time, each of which ends at once; one deferred task waits for all
the jobs, for the price of one request an interval.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_ams.operators.ams import AmsSubmitJobOperator
from airflow_ams.sensors.ams import AmsJobSensor

CLIPS = {".mp4", ".mov", ".mkv", ".mxf"}


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    params={
        "folder": Param("", type="string", title="Folder", description="Where Airflow sees the clips"),
        "address": Param("", type="string", title="Address", description="Where the service reads them"),
        "transform_name": Param("", type="string", title="Transform"),
    },
    doc_md=__doc__,
    tags=["example", "ams"],
)
def example_ams_batch() -> None:
    """List, submit, wait, report."""

    @task
    def list_clips(params: Any = None) -> list[dict[str, str]]:
        clips = sorted(path for path in Path(params["folder"]).iterdir() if path.suffix.lower() in CLIPS)
        return [
            {
                # The name tells one encode from another if the task is cleared and the folder has changed.
                "job_name": re.sub(r"[^A-Za-z0-9]+", "-", f"clip {clip.stem}").strip("-"),
                "inputs": f"{params['address']}/{quote(clip.name)}",
                "outputs": f"{clip.stem}-{clip.suffix[1:]}-encoded",
            }
            for clip in clips
        ]

    # [START howto_operator_ams_submit_mapped]
    submit = AmsSubmitJobOperator.partial(
        task_id="submit",
        transform_name="{{ params.transform_name }}",
        wait_for_completion=False,
        retries=3,
        max_active_tis_per_dagrun=8,
    ).expand_kwargs(list_clips())

    wait = AmsJobSensor(
        task_id="wait",
        job_id=submit.output["job_id"],
        deferrable=True,
        fail_fast=False,
        poke_interval=30,
        timeout=timedelta(hours=12),
    )
    # [END howto_operator_ams_submit_mapped]

    @task
    def report(jobs: Any) -> None:
        for job in jobs:
            # Of more than a hundred jobs the sensor does not read what they wrote.
            names = ", ".join(output["name"] for output in job["outputs"] or ())
            print(f"{job['name']} wrote {names}" if names else f"{job['name']} has finished")

    report(wait.output)


example_ams_batch()
