"""Encode: submit a job, wait until it has finished, and list what it wrote.

What to encode comes as the parameter ``job``, which is what `AmsHook.submit_job` takes. On the v2 API::

    airflow dags trigger example_ams_encode --conf '{"job": {"name": "Clip 7",
      "input_asset_ids": ["nb:cid:UUID:…"],
      "tasks": [{"processor": "Media Encoder Standard", "configuration": "H264 Single Bitrate 720p",
                 "outputs": ["Clip 7 in 720p"]}]}}'

on Ravnur RMS and MediaKind MK.IO::

    airflow dags trigger example_ams_encode --conf '{"job": {"transform_name": "encode-720p",
      "job_name": "clip-7", "inputs": ["clip-7-source"], "outputs": ["clip-7-720p"]}}'
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_ams.operators.ams import AmsSubmitJobOperator


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    params={"job": Param({}, type="object", title="Job", description="What to encode, see the DAG's docs")},
    doc_md=__doc__,
    tags=["example", "ams"],
)
def example_ams_encode() -> None:
    """Submit and wait, then list."""
    # [START howto_operator_ams_submit]
    encode = AmsSubmitJobOperator(
        task_id="encode",
        job="{{ params.job | tojson }}",
        poke_interval=5,
        timeout=timedelta(hours=6),
        retries=3,
    )
    # [END howto_operator_ams_submit]

    @task
    def list_outputs(job: Any) -> list[str]:
        outputs = job["outputs"] or []
        for output in outputs:
            print(f"{job['id']} wrote {output['name']} ({output['asset_id']})")
        return [output["asset_id"] for output in outputs]

    list_outputs(encode.output)


example_ams_encode()
