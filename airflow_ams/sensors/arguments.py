"""What can be said of a sensor's arguments when the DAG is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, overload

MIN_POKE_INTERVAL = 1.0
"""Seconds between two polls that a service can be asked for at least."""


def check_settings(given: Mapping[str, Any], task_id: Any, default_timeout: float) -> None:
    """Refuse, when the DAG is read, what a wait cannot do.

    :param given: the sensor's arguments by their names, as far as they are known
    :raises TypeError: one is no time
    :raises ValueError: one is out of bounds, or does not go with another
    """
    grace = seconds(given.get("not_found_grace", 60), "not_found_grace", task_id)
    interval = seconds(given.get("poke_interval", 60), "poke_interval", task_id)
    queue_timeout = seconds(given.get("queue_timeout"), "queue_timeout", task_id)
    timeout = seconds(given.get("timeout", default_timeout), "timeout", task_id)
    for what, value in (("not_found_grace", grace), ("poke_interval", interval), ("timeout", timeout)):
        if value is None:
            raise ValueError(f"{what} of task '{task_id}' is None; give seconds or a timedelta")
    if timeout < 0:
        raise ValueError(f"timeout of task '{task_id}' is {timeout:g} s; give seconds from 0")
    if grace < 0:
        raise ValueError(f"not_found_grace of task '{task_id}' is {grace:g}; give seconds from 0")
    if interval < MIN_POKE_INTERVAL:
        raise ValueError(f"poke_interval of task '{task_id}' is {interval:g} s; give at least 1 s")
    if queue_timeout is not None and not 0 < queue_timeout <= timeout:
        raise ValueError(
            f"queue_timeout of task '{task_id}' is {queue_timeout:g} s; give more than 0 s and no more than "
            f"timeout, which is {timeout:g} s"
        )
    if given.get("deferrable") and given.get("exponential_backoff"):
        raise ValueError(
            f"Task '{task_id}' has both deferrable and exponential_backoff; in the triggerer all waits share "
            "one poll, so poke_interval is what there is to choose"
        )


def default_args(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a mapped task takes over from its DAG and task group; Airflow adds it only at run time."""
    merged: dict[str, Any] = {}
    for place in ("dag", "task_group"):
        merged.update(getattr(given.get(place), "default_args", None) or {})
    return merged | (given.get("default_args") or {})


@overload
def seconds(value: timedelta | float, what: str, task_id: Any) -> float: ...
@overload
def seconds(value: timedelta | float | None, what: str, task_id: Any) -> float | None: ...
def seconds(value: timedelta | float | None, what: str, task_id: Any) -> float | None:
    """Return a time in seconds; raise TypeError if it is none, ValueError if it has no end."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{what} of task '{task_id}' is {value!r}; give seconds or a timedelta")
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{what} of task '{task_id}' is {value!r}; give a number of seconds that has an end")
    return value


def check_ids(job_id: Any, task_id: str) -> None:
    """Refuse, when the DAG is read, what could not become ids when the task runs.

    :raises TypeError: it is neither an id, nor a list of them, nor another task's output
    :raises ValueError: it is empty, or holds an id twice
    """
    items = job_id if isinstance(job_id, list | tuple) else [job_id]
    for item in items:
        if item is None or isinstance(item, bytes | int | float | list | tuple | dict | set):
            raise TypeError(
                f"job_id of task '{task_id}' is {job_id!r}; give a job id, a list of job ids or an upstream "
                "task's output"
            )
    texts = [item.strip() for item in items if isinstance(item, str)]
    if not all(texts):
        raise ValueError(f"job_id of task '{task_id}' is {job_id!r}; a job id is not empty")
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise ValueError(f"job_id of task '{task_id}' holds {twice!r} more than once; give each job once")
