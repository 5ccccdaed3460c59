"""What a finished job has written, as assets of Airflow, on which other DAGs can run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowException, Asset, AssetAlias

from airflow_ams.sensors.waiting import VERSION

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
                extra = {key: _hashable(value) for key, value in job.items()} if VERSION < (3,) else dict(job)
                context["outlet_events"][alias].add(Asset(uri=_uri(output, ams_conn_id)), extra=extra)


class _HashableDict(dict[str, Any]):
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def _hashable(value: Any) -> Any:
    """Return what becomes the same JSON; Airflow 2.11 puts the items of an event's extra into a set."""
    if isinstance(value, Mapping):
        return _HashableDict({key: _hashable(item) for key, item in value.items()})
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _uri(output: Mapping[str, Any], ams_conn_id: str) -> str:
    """Return where the service keeps an output; if it does not say, which asset of which account it is."""
    return output["uri"] or f"ams://{quote(ams_conn_id, safe='')}/{quote(output['asset_id'], safe='')}"
