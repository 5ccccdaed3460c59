"""What a finished job has written, as assets of Airflow, on which other DAGs can run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowException, Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


def emit_outputs(context: Context, outlets: Iterable[Any], job: Mapping[str, Any], ams_conn_id: str) -> None:
    """Emit one asset for each output of a job on each alias among the outlets.

    :param job: its document, which goes along as ``extra``
    :raises AirflowException: it is not known what the job has written
    """
    for alias in outlets:
        if isinstance(alias, AssetAlias):
            if job["outputs"] is None:
                raise AirflowException(
                    f"Job {job['id']} has finished, but what it wrote could not be read, so outlet "
                    f"'{alias.name}' cannot be told; a new try reads it again"
                )
            for output in job["outputs"]:
                context["outlet_events"][alias].add(Asset(uri=_uri(output, ams_conn_id)), extra=dict(job))


def _uri(output: Mapping[str, Any], ams_conn_id: str) -> str:
    """Return where the service keeps an output; if it does not say, which asset of which account it is."""
    return output["uri"] or f"ams://{quote(ams_conn_id, safe='')}/{quote(output['asset_id'], safe='')}"
