"""The times that services write."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

_MILLISECONDS = re.compile(r"/Date\((-?\d+)(?:[+-]\d{4})?\)/")
_ISO_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?", re.IGNORECASE)


def time_or_none(value: Any) -> datetime | None:
    """Read a time; what is none is as good as unset: how a job ended counts, not when."""
    try:
        return parse_time(value)
    except ValueError:
        return None


def parse_time(text: Any) -> datetime | None:
    """Read a time of a service: ISO with 0 to 7 digits and any or no zone, or ``/Date(ms)/``; UTC.

    :returns: an aware time, or None for null and for the year 1, by which the services mean "unset"
    :raises ValueError: it is none of these
    """
    if text is None:
        return None
    try:
        moment = _moment(str(text))
    except (OverflowError, ValueError) as exc:
        raise ValueError(f"{str(text)[:50]!r} is no time of the service's") from exc
    return None if moment.year == 1 else moment


def utc(moment: datetime) -> datetime:
    """Return an aware time in UTC; raise ValueError if it has no time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; give an aware datetime")
    return moment.astimezone(timezone.utc)


def _moment(text: str) -> datetime:
    if ticks := _MILLISECONDS.fullmatch(text):
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=int(ticks[1]))
    parts = _ISO_TIME.fullmatch(text)
    if parts is None:
        raise ValueError("neither ISO nor ticks")
    zone = "+00:00" if not parts[3] or parts[3] in "Zz" else parts[3]
    fraction = (parts[2] or "").ljust(6, "0")[:6]
    return datetime.fromisoformat(f"{parts[1]}.{fraction}{zone}").astimezone(timezone.utc)
