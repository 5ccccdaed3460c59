"""Lists of v3: how they are asked for, and how their pages are read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from airflow_ams.api.errors import TransientError
from airflow_ams.api.model import JobState
from airflow_ams.api.times import utc
from airflow_ams.api.wire import Answer

ACTIVE = (JobState.PROCESSING, JobState.QUEUED, JobState.SCHEDULED, JobState.CANCELING)
"""What a sweep lists."""

Row = dict[str, Any]


def plain(state: JobState) -> str:
    """Write a state for a filter as MK.IO's documents do of other resources."""
    return f"'{state}'"


def typed(state: JobState) -> str:
    """Write a state for a filter as Azure's documents do."""
    return f"Microsoft.Media.JobState'{state}'"


def filters(literal: Callable[[JobState], str], *more: str) -> tuple[str, ...]:
    """Return the query for the active jobs."""
    text = " or ".join(f"properties/state eq {literal(state)}" for state in ACTIVE)
    return ("&".join((f"$filter={quote(text, safe='')}", *more)),)


def filters_by_state(literal: Callable[[JobState], str]) -> tuple[str, ...]:
    """Return the queries for the active jobs, one for each state."""
    return tuple(f"$filter={quote(f'properties/state eq {literal(state)}', safe='')}" for state in ACTIVE)


NEWEST_FIRST = (f"$orderby={quote('properties/created desc', safe='')}",)
"""The query for all jobs, active or not, for a service that takes no filter."""


def read_list(answer: Answer) -> tuple[list[Row], str | None]:
    """Take the entities out of a page, and the query of the next one; None if it is the last."""
    document = answer.document()
    rows = document.get("value") if isinstance(document, dict) else None
    entities = [row for row in rows if _is_entity(row)] if isinstance(rows, list) else []
    if not isinstance(rows, list) or (rows and not entities):
        raise TransientError("The service's answer holds no list", status=answer.status)
    link = document.get("@odata.nextLink")
    return entities, _query_of(str(link)) if link else None


def _is_entity(row: Any) -> bool:
    return isinstance(row, dict) and bool(row.get("name")) and isinstance(row.get("properties"), dict)


def _query_of(link: str) -> str:
    """Take the query out of a link to the next page.

    Nothing else of it is followed, so that the token goes nowhere else: it may be absolute or relative,
    MK.IO's may be percent-encoded as a whole, and a gateway's may name a host that cannot be reached.
    """
    query = (link if "?" in link else unquote(link)).partition("?")[2].partition("#")[0]
    if not query:
        # Without it the list would end here, and nobody would know.
        raise TransientError("The service's list goes on, but does not say where")
    return query


def literal_time(moment: datetime) -> str:
    """Write a time for a filter."""
    return utc(moment).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
