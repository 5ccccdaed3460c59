"""What the dialects have in common of OData: its primitive types, and times."""

from __future__ import annotations

from datetime import datetime, timezone

STRING, BOOLEAN, DATETIME = "Edm.String", "Edm.Boolean", "Edm.DateTime"
INT32, INT64, DOUBLE = "Edm.Int32", "Edm.Int64", "Edm.Double"


def as_datetime(seconds: float | None) -> datetime | None:
    """Return a time of the emulator's clock as an aware datetime."""
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
