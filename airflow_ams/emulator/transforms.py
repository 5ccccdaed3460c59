"""Transforms: what v3 has in place of a task's processor and configuration, kept under a name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import NotFound
from airflow_ams.emulator.records import OTHERS_TRANSFORM, SCRIPTED_TRANSFORM, Transform
from airflow_ams.emulator.store import Store

SCRIPTED_PRESET = "#AirflowAms.ScriptedPreset"


class Transforms:
    """All that concerns transforms; their names compare without case.

    :param store: holds the records.
    :param clock: gives the time stamps.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def all(self, account: str) -> Iterator[Transform]:
        """Yield the transforms of *account*, those that are always there first."""
        for name in (SCRIPTED_TRANSFORM, OTHERS_TRANSFORM):
            if self._store.get(Transform, _key(account, name)) is None:
                yield _built_in(account, name)
        yield from self._store.all(Transform, account)

    def find(self, account: str, name: str) -> Transform | None:
        """Return a transform, or None if *account* has none of that name."""
        kept = self._store.get(Transform, _key(account, name))
        if kept is None and name.lower() in (SCRIPTED_TRANSFORM.lower(), OTHERS_TRANSFORM):
            return _built_in(account, name)
        return kept

    def get(self, account: str, name: str) -> Transform:
        """Return a transform, or raise `NotFound`."""
        transform = self.find(account, name)
        if transform is None:
            raise NotFound(f"The transform '{name}' was not found.")
        return transform

    def put(
        self, account: str, name: str, outputs: list[dict[str, Any]], description: str | None = None
    ) -> Transform:
        """Make a transform, or give the one of that name new outputs."""
        now, kept = self._clock.now(), self.find(account, name)
        transform = Transform(_key(account, name), account, now, name, now, description, outputs)
        if kept is not None:
            transform.name, transform.created = kept.name, kept.created
        self._store.put(transform)
        return transform

    def ensure_scripted(self, account: str, name: str) -> None:
        """Make a transform for scripted jobs, unless there is one of that name."""
        if self.find(account, name) is None:
            self.put(account, name, scripted_outputs())

    def delete(self, account: str, name: str) -> bool:
        """Forget a transform; return whether there was one to forget."""
        kept = self._store.get(Transform, _key(account, name))
        if kept is not None:
            self._store.remove(kept)
        return kept is not None


def scripted_outputs() -> list[dict[str, Any]]:
    """Return the outputs of a transform whose jobs follow a script."""
    preset = {"@odata.type": SCRIPTED_PRESET, "script": {}}
    return [{"onError": "StopProcessingJob", "relativePriority": "Normal", "preset": preset}]


def _key(account: str, name: str) -> str:
    return f"{account}/{name.lower()}"


def _built_in(account: str, name: str) -> Transform:
    """Return a transform that is always there; jobs of other dialects have theirs, which nobody can use."""
    if name.lower() == OTHERS_TRANSFORM:
        return Transform(_key(account, name), account, 0.0, OTHERS_TRANSFORM, 0.0, "Jobs made over v2")
    outputs = scripted_outputs()
    return Transform(_key(account, name), account, 0.0, SCRIPTED_TRANSFORM, 0.0, None, outputs)
