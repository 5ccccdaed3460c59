"""How what a job is to be made of is read, on all APIs, and how a refusal quotes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.ids import parsed
from airflow_ams.api.model import without_signatures

# What no XML holds, and no URL.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def shown(value: Any) -> str:
    """Write a value for a message: in quotes, not too long, and without signatures of storage URLs."""
    return repr(without_signatures(str(value))[:200])


def structure(what: str, value: Any) -> Any:
    """Return the list or dict that a text stands for, as a template writes one; all else is what it is.

    Such a text has brackets, or braces, at both ends, so that ``[clip] a.mp4`` is a name.

    :raises RefusedError: it looks so, but cannot be read
    """
    if not isinstance(value, str) or value.strip()[:1] + value.strip()[-1:] not in ("[]", "{}"):
        return value
    try:
        return parsed(value, what, ("[", "{"))
    except ValueError:
        raise RefusedError(
            f"{what} is {shown(value)}, which looks like a list or a dict, but is none that can be read"
        ) from None


def items(what: str, value: Any, wanted: str) -> list[Any]:
    """Return what a list holds; one text is a list of one.

    :param wanted: what to give, for messages
    :raises RefusedError: it is neither
    """
    value = structure(what, value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return [value]
    if isinstance(value, bytes | bytearray) or not isinstance(value, Sequence):
        raise RefusedError(f"{what} is {shown(value)}; give {wanted}")
    return list(value)


def names(what: str, value: Any, wanted: str) -> list[str]:
    """Return one name, or more; raise RefusedError if there is none, or something else."""
    given = items(what, value, wanted)
    if not given or not all(_is_text(name) and str(name).strip() for name in given):
        raise RefusedError(f"{what} is {shown(value)}; give {wanted}")
    return [text(what, name) for name in given]


def text(what: str, value: Any) -> str:
    """Return a text; a template that writes digits may have made a number of it.

    :raises RefusedError: it is something else, or cannot be written
    """
    if not _is_text(value):
        raise RefusedError(f"{what} is {shown(value)}; give a text")
    if _UNWRITABLE.search(str(value)):
        raise RefusedError(f"{what} is {shown(value)}, which holds a character that cannot be sent")
    return str(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def as_json(what: str, value: Any) -> str:
    """Write a value as JSON; raise RefusedError if that is not possible."""
    try:
        return json.dumps(value, allow_nan=False)
    except (RecursionError, TypeError, ValueError) as exc:
        raise RefusedError(f"{what} cannot be written as JSON: {without_signatures(str(exc))}") from exc


def check_keys(what: str, given: Any, known: Sequence[str]) -> None:
    """Raise RefusedError if it is no dict, or has a key that is not known."""
    if not isinstance(given, Mapping):
        raise RefusedError(f"{what} is {shown(given)}; give a dict with {', '.join(known)}")
    if unknown := sorted(map(without_signatures, map(str, set(given) - set(known)))):
        raise RefusedError(f"{what} has no {unknown}; it has {', '.join(known)}")
