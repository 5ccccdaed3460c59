"""How much a service gives at once: page sizes, and how many requests it takes before it answers 429."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import InvalidRequest

# The page size of the real services is not known. Azure Resource Manager took 12,000 reads an hour, MK.IO
# documents 2,000 GETs a minute for a project.
PAGE_SIZE = 1000
ARM_BUCKET = 12_000
ARM_PER_SECOND = 3.34
MKIO_GETS_PER_MINUTE = 2000


@dataclass
class _Bucket:
    """What is left of an account's reads, and when that was so."""

    level: float
    at: float


@dataclass
class _Minute:
    """When a project's minute began, and its requests since."""

    began: float
    count: int = 0


class Limits:
    """The limits in force, and what each account has used of them.

    :param clock: fills up again what was used.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Put all limits back to what the services have."""
        self.page_size = PAGE_SIZE
        """Entities on one page of a list, at most."""

        self.arm_bucket = ARM_BUCKET
        """Reads that Azure Resource Manager takes at once."""

        self.arm_per_second = ARM_PER_SECOND
        """Reads that it takes on top of that each second."""

        self.mkio_gets_per_minute = MKIO_GETS_PER_MINUTE
        """GETs that MK.IO takes in a minute."""

        self._forget()

    def change(self, document: Any) -> None:
        """Set the limits that a JSON document names; what was used so far is forgotten.

        Example: ``{"page_size": 2, "arm_reads": {"bucket": 9, "per_second": 0.5}}``; the third key is
        ``mkio_gets_per_minute``.

        :raises InvalidRequest: the document names something else, or a limit is not positive.
        """
        document = _known(document, "Limits", {"page_size", "arm_reads", "mkio_gets_per_minute"})
        arm = _known(document.get("arm_reads", {}), "'arm_reads'", {"bucket", "per_second"})
        page_size = _count(document, "page_size", self.page_size)
        bucket = _count(arm, "bucket", self.arm_bucket)
        per_second = arm.get("per_second", self.arm_per_second)
        if (
            isinstance(per_second, bool)
            or not isinstance(per_second, (int, float))
            or not 0 < per_second < 1e9
        ):
            raise InvalidRequest(f"'per_second' is a number above 0, not {per_second!r}.")
        gets = _count(document, "mkio_gets_per_minute", self.mkio_gets_per_minute)
        # Only now: a refused document changes nothing.
        self.page_size, self.mkio_gets_per_minute = page_size, gets
        self.arm_bucket, self.arm_per_second = bucket, float(per_second)
        self._forget()

    def take_arm_read(self, account: str) -> tuple[int, int]:
        """Count a read; return how many are left, and 0 or the seconds until there is one again."""
        now = self._clock.now()
        bucket = self._buckets.setdefault(account, _Bucket(self.arm_bucket, now))
        # The clock goes back when it is reset.
        filled = bucket.level + max(0.0, now - bucket.at) * self.arm_per_second
        bucket.level, bucket.at = min(float(self.arm_bucket), filled), now
        if bucket.level < 1:
            return 0, math.ceil((1 - bucket.level) / self.arm_per_second)
        bucket.level -= 1
        return int(bucket.level), 0

    def take_mkio_get(self, project: str) -> bool:
        """Count a GET; tell whether the project may have it in this minute."""
        now = self._clock.now()
        minute = self._minutes.get(project)
        if minute is None or not 0 <= now - minute.began < 60:
            minute = self._minutes[project] = _Minute(now)
        minute.count += 1
        return minute.count <= self.mkio_gets_per_minute

    def _forget(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._minutes: dict[str, _Minute] = {}


def _known(document: Any, what: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(document, dict) or set(document) - keys:
        raise InvalidRequest(f"{what}: a JSON object with the keys {', '.join(sorted(keys))} was expected.")
    return document


def _count(document: dict[str, Any], name: str, now: int) -> int:
    value = document.get(name, now)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest(f"'{name}' is a whole number above 0, not {value!r}.")
    return value
