"""Run one DAG when another has encoded something: each output of the job is an asset event.

The first DAG takes the same parameter as ``example_ams_encode``. The second one runs after it, and reads from
the events which assets there are, and of which job.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import AssetAlias, Param, dag, task

from airflow_ams.operators.ams import AmsSubmitJobOperator

ENCODED = AssetAlias("ams-encoded")


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    params={"job": Param({}, type="object", title="Job", description="See example_ams_encode")},
    doc_md=__doc__,
    tags=["example", "ams"],
)
def example_ams_assets_producer() -> None:
    """Encode, and say so."""
    # [START howto_operator_ams_submit_assets]
    AmsSubmitJobOperator(
        task_id="encode",
        job="{{ params.job | tojson }}",
        poke_interval=5,
        timeout=timedelta(hours=6),
        retries=3,
        outlets=[ENCODED],
    )
    # [END howto_operator_ams_submit_assets]


@dag(
    schedule=[ENCODED],
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    doc_md=__doc__,
    tags=["example", "ams"],
)
def example_ams_assets_consumer() -> None:
    """Publish what was encoded."""

    @task
    def publish(**context: Any) -> None:
        # Airflow 2.11 has its older name for it.
        events_by_asset = context.get("triggering_asset_events") or context["triggering_dataset_events"]
        for events in events_by_asset.values():
            for event in events:
                names = ", ".join(output["name"] for output in event.extra["outputs"])
                print(f"publishing {names}, which job {event.extra['id']} wrote")

    publish()


example_ams_assets_producer()
example_ams_assets_consumer()
