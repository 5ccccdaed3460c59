"""What the v2 service shows to an account: the entities of each set, and what is related to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from airflow_ams.emulator.errors import NotFound
from airflow_ams.emulator.ids import canonical_id
from airflow_ams.emulator.records import PROCESSORS, AccessPolicy, Asset, AssetFile, Locator, Task
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.v2.call import Call
from airflow_ams.emulator.v2.edm import (
    ASSET,
    FILE,
    JOB,
    LOCATOR,
    POLICY,
    PROCESSOR,
    TASK,
    Entity,
    EntityType,
    asset_entity,
    file_entity,
    job_entity,
    locator_entity,
    policy_entity,
    processor_entity,
    task_entity,
)

Related = tuple[EntityType, list[Entity], bool]
"""The type of the related entities, the entities, and whether there can be only one."""


class Reading:
    """Read access to everything that an account has.

    :param service: the emulator.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lists: dict[str, Callable[[Call], Iterable[Entity]]] = {
            JOB.set: self._jobs,
            TASK.set: self._tasks,
            ASSET.set: self._assets,
            FILE.set: self._files,
            POLICY.set: self._policies,
            LOCATOR.set: self._locators,
            PROCESSOR.set: lambda _: [processor_entity(processor) for processor in PROCESSORS],
        }

    def entities(self, call: Call, kind: EntityType, only_id: str | None = None) -> Iterable[Entity]:
        """Return the entities of a set.

        :param call: whose entities.
        :param kind: of which set.
        :param only_id: the one that is wanted, if the filter says so: the poll of one job among many
            thousands need not look at the others.
        """
        if only_id is not None and kind is JOB:
            job = self._service.jobs.find(call.account, only_id)
            return [] if job is None else [job_entity(job, self._now)]
        return self._lists[kind.set](call)

    def entity(self, call: Call, kind: EntityType, key: str) -> Entity:
        """Return one entity.

        :raises InvalidRequest: *key* is no identifier of such entities.
        :raises NotFound: there is none.
        """
        key = canonical_id(key, kind.kind)
        for entity in self.entities(call, kind, key):
            if entity["Id"] == key:
                return entity
        raise NotFound(f"Resource {kind.name} not found")

    def related(self, call: Call, kind: EntityType, entity: Entity, name: str) -> Related:
        """Return what the navigation property *name* of *entity* leads to."""
        identifier, store = entity["Id"], self._service.store
        if kind is JOB:
            job = self._service.jobs.get(call.account, identifier)
            tasks = self._service.jobs.tasks(job)
            if name == "Tasks":
                return TASK, [task_entity(task, self._now) for task in tasks], False
            ids = job.inputs if name == "InputMediaAssets" else [i for task in tasks for i in task.outputs]
            return ASSET, self._assets_of(call, ids), False
        if kind is TASK:
            found = store.get(Task, identifier)
            ids = [] if found is None else found.inputs if name == "InputMediaAssets" else found.outputs
            return ASSET, self._assets_of(call, ids), False
        if kind is LOCATOR:
            target, key = (POLICY, "AccessPolicyId") if name == "AccessPolicy" else (ASSET, "AssetId")
            return target, [self.entity(call, target, entity[key])], True
        if name == "Files":
            files = [
                file_entity(file) for file in self._service.assets.files(identifier) if self._ready(file)
            ]
            return FILE, files, False
        return LOCATOR, [one for one in self._locators(call) if one["AssetId"] == identifier], False

    @property
    def _now(self) -> float:
        return self._service.clock.now()

    def _jobs(self, call: Call) -> list[Entity]:
        now = self._now
        # No document gives the order; clients of the time relied on newest first.
        return [job_entity(job, now) for job in reversed(list(self._service.jobs.all(call.account)))]

    def _tasks(self, call: Call) -> Iterable[Entity]:
        now = self._now
        for job in self._service.jobs.all(call.account):
            for task in self._service.jobs.tasks(job):
                yield task_entity(task, now)

    def _assets(self, call: Call) -> Iterable[Entity]:
        for asset in self._service.store.all(Asset, call.account):
            yield asset_entity(asset, call.storage)

    def _assets_of(self, call: Call, ids: list[str]) -> list[Entity]:
        found = (self._service.store.get(Asset, identifier) for identifier in ids)
        return [asset_entity(asset, call.storage) for asset in found if asset is not None]

    def _files(self, call: Call) -> Iterable[Entity]:
        for file in self._service.store.all(AssetFile, call.account):
            if self._ready(file):
                yield file_entity(file)

    def _ready(self, file: AssetFile) -> bool:
        asset = self._service.store.get(Asset, file.asset)
        return asset is None or asset.job is None or self._service.jobs.outputs_ready(asset.job)

    def _policies(self, call: Call) -> Iterable[Entity]:
        for policy in self._service.store.all(AccessPolicy, call.account):
            yield policy_entity(policy)

    def _locators(self, call: Call) -> Iterable[Entity]:
        for locator in self._service.store.all(Locator, call.account):
            yield locator_entity(locator, call.storage, self._service.assets.signature(locator))
