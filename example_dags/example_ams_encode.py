"""Submit an encode, wait until it has finished, and list what it made.

The input is an asset that is there already; its id comes as a parameter, e.g.
``airflow dags trigger example_ams_encode --conf '{"input_asset_id": "nb:cid:UUID:…"}'``.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_ams.hooks.ams import AmsHook
from airflow_ams.sensors.ams import AmsJobSensor


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    params={
        "input_asset_id": Param("", type="string", title="Input asset", description="nb:cid:UUID:…"),
        "preset": Param("H264 Single Bitrate 720p", type="string", title="Preset of Media Encoder Standard"),
    },
    tags=["example", "ams"],
)
def example_ams_encode() -> None:
    """Submit, wait, list."""

    # [START howto_hook_ams_submit]
    # The v2 API cannot tell a repeated create from a new one, so a retry would encode twice.
    @task(retries=0)
    def submit(input_asset_id: str, preset: str) -> str:
        with AmsHook() as hook:
            job = hook.submit_job(
                {
                    "name": f"Encode to {preset}",
                    "input_asset_ids": [input_asset_id],
                    "tasks": [
                        {
                            "name": preset,
                            "processor": "Media Encoder Standard",
                            "configuration": preset,
                            "outputs": [f"Encoded to {preset}"],
                        }
                    ],
                }
            )
        return job.id

    # [END howto_hook_ams_submit]

    wait_for_encode = AmsJobSensor(
        task_id="wait_for_encode",
        job_id=submit("{{ params.input_asset_id }}", "{{ params.preset }}"),
        poke_interval=5,
        timeout=timedelta(hours=6),
    )

    # [START howto_hook_ams_outputs]
    @task
    def list_outputs(job: Any) -> list[str]:
        files = []
        with AmsHook() as hook:
            for asset in hook.get_output_assets(job["id"]):
                for file in hook.get_output_files(asset.asset_id):
                    print(f"{asset.name}: {file.name}, {file.size} bytes")
                    files.append(file.name)
        return files

    # [END howto_hook_ams_outputs]

    list_outputs(wait_for_encode.output)


example_ams_encode()
