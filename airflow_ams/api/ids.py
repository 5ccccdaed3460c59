"""The ids that a task was given, in whichever shape they came."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any


def read_ids(given: Any) -> str | list[str]:
    """Read what a task was given as its job, or jobs, after templates were rendered.

    :param given: an id, a sequence of ids, or the text of a list, which is what a template makes of one
    :returns: the id, or the list of ids
    :raises ValueError: it is neither, or an id comes twice; the text says which
    """
    given = parsed(given)
    if isinstance(given, str):
        return given.strip()
    if isinstance(given, (Mapping, bytes)) or not hasattr(given, "__iter__"):
        raise ValueError(f"job_id is {str(given)[:200]!r}; give a job id or a list of job ids")
    ids = [parsed(item) for item in given]
    for job_id in ids:
        if not isinstance(job_id, str) or not job_id.strip():
            raise ValueError(f"job_id holds {str(job_id)[:200]!r}; each item must be a job id, a string")
    if twice := [job_id for job_id, count in Counter(ids).items() if count > 1]:
        raise ValueError(f"job_id holds {twice[0][:200]!r} more than once; give each job once")
    return ids


def parsed(text: Any, field: str = "job_id", openings: tuple[str, ...] = ("[", '"')) -> Any:
    """Read a text that is JSON, or a value as Python prints it; anything else is what it is.

    :param field: where it was given, for messages
    :param openings: what such a text begins with
    :raises ValueError: it begins so, but is neither
    """
    if not isinstance(text, str) or not text.lstrip().startswith(openings):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (RecursionError, SyntaxError, ValueError):  # noqa: PERF203  # two turns
            continue
    raise ValueError(f"{field} looks like a list or a dict, but is none that can be read: {text[:200]!r}")
