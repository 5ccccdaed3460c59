"""What the dialects of v3 do to transforms, assets and jobs, once HTTP and documents are out of the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_ams.emulator.errors import InvalidRequest, NotFound
from airflow_ams.emulator.jobs import check_name
from airflow_ams.emulator.records import FINAL, Asset, Job, Transform
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.v3 import submission
from airflow_ams.emulator.v3.documents import state_name

GONE = "The requested resource was not found."


class Operations:
    """The changes and look-ups that all dialects of v3 share.

    :param service: the emulator.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def transform(self, account: str, name: str) -> Transform:
        """Return a transform, or raise `NotFound`."""
        transform = self._service.jobs.transforms.find(account, name)
        if transform is None:
            raise NotFound(GONE)
        return transform

    def put_transform(
        self, account: str, name: str, *, properties: Mapping[str, Any]
    ) -> tuple[Transform, bool]:
        """Make or change a transform; return it, and whether it is new."""
        transforms = self._service.jobs.transforms
        new = transforms.find(account, check_name(name)) is None
        outputs = submission.read_transform_outputs(properties)
        description = submission.text(properties, "description")
        return transforms.put(account, name, outputs, description), new

    def patch_transform(self, account: str, name: str, *, properties: Mapping[str, Any]) -> Transform:
        """Change what *properties* name of a transform."""
        kept = self.transform(account, name)
        outputs, description = kept.outputs, kept.description
        if "outputs" in properties:
            outputs = submission.read_transform_outputs(properties)
        if "description" in properties:
            description = submission.text(properties, "description")
        return self._service.jobs.transforms.put(account, name, outputs, description)

    def asset(self, account: str, name: str) -> Asset:
        """Return an asset, or raise `NotFound`."""
        asset = self._service.assets.named(account, name)
        if asset is None:
            raise NotFound(GONE)
        return asset

    def put_asset(self, account: str, name: str, *, properties: Mapping[str, Any]) -> tuple[Asset, bool]:
        """Make an asset or change its texts; return it, and whether it is new."""
        kept = self._service.assets.named(account, check_name(name))
        asset = kept or self._service.assets.create(account, name, asset_name=name)
        asset.description = submission.text(properties, "description") or asset.description
        asset.alternate_id = submission.text(properties, "alternateId") or asset.alternate_id
        asset.modified = self._service.clock.now()
        self._service.store.put(asset)
        return asset, kept is None

    def delete_asset(self, account: str, name: str) -> bool:
        """Delete an asset; return whether there was one."""
        asset = self._service.assets.named(account, name)
        if asset is not None:
            self._service.assets.delete(account, asset.id)
        return asset is not None

    def asset_id(self, account: str, name: str) -> str:
        """Return the identifier of an asset that a job needs."""
        asset = self._service.assets.named(account, name)
        if asset is None:
            # No source says what the services do then; the job cannot be made, that is sure.
            raise InvalidRequest(f"The asset '{name}' was not found.")
        return asset.id

    def job(self, account: str, transform: str, name: str) -> Job:
        """Return a job as it is now, or raise `NotFound`."""
        self.transform(account, transform)
        job = self._service.jobs.find_named(account, transform, name)
        if job is None:
            raise NotFound(GONE)
        return job

    def patch_job(self, account: str, transform: str, name: str, *, properties: Mapping[str, Any]) -> Job:
        """Change a job's description and priority; the rest of *properties* is passed over."""
        priority = submission.read_priority(properties)
        kept = self._service.jobs.patched(account, self.job(account, transform, name).id)
        if "description" in properties:
            kept.description = submission.text(properties, "description")
        kept.priority = kept.priority if priority is None else priority
        self._service.store.put(kept)
        return kept

    def delete_job(self, account: str, transform: str, name: str) -> bool:
        """Delete a job; return whether there was one.

        :raises InvalidRequest: it is not final.
        """
        job = self._service.jobs.find_named(account, transform, name)
        if job is None:
            return False
        if job.state not in FINAL:
            raise InvalidRequest(
                f"The job '{job.job_name}' is in the '{state_name(job.state)}' state and cannot be deleted. "
                "Cancel the job, or try again when it has been processed."
            )
        self._service.jobs.delete(account, job.id)
        return True

    def cancel_job(self, account: str, transform: str, name: str) -> None:
        """Cancel a job.

        :raises InvalidRequest: it is final, or being canceled. No source says what the services answer then.
        """
        self._service.cancel(account, self.job(account, transform, name).id)
