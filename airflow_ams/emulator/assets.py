"""Assets: folders of files, the policies and locators that open them, and where the bytes lie."""

from __future__ import annotations

import hashlib
import hmac
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import InvalidRequest, NotAllowed, NotFound
from airflow_ams.emulator.ids import guid_of, make_id, new_id
from airflow_ams.emulator.records import AccessPolicy, Asset, AssetFile, Locator
from airflow_ams.emulator.store import Store

READ, WRITE, DELETE, LIST = 1, 2, 4, 8
_MEDIA_NAMESPACE = uuid.UUID("5c819ed0-0000-4000-8000-0000000a55e7")


def check_file_name(name: str) -> str:
    """Return *name* if it is a plain file name.

    :raises InvalidRequest: it is empty, too long, or could lead out of the folder.
    """
    if name in ("", ".", "..") or any(mark in name for mark in "/\\\0") or len(name.encode()) > 255:
        raise InvalidRequest(f"'{name}' is not a file name.")
    return name


class Assets:
    """All that concerns assets.

    :param store: holds the records.
    :param blobs: the folder that holds the files.
    :param secret: signs locators.
    :param clock: decides on expiry.
    """

    def __init__(self, store: Store, blobs: Path, secret: str, clock: Clock) -> None:
        self._store = store
        self._blobs = blobs
        self._secret = secret.encode()
        self._clock = clock

    def create(
        self,
        account: str,
        name: str,
        *,
        options: int = 0,
        alternate_id: str | None = None,
        job: str | None = None,
        asset_name: str = "",
    ) -> Asset:
        """Make an empty asset; *job* is the job that will fill it, *asset_name* its name in v3."""
        now = self._clock.now()
        asset = Asset(new_id("cid"), account, now, name, now, alternate_id, options, job, asset_name)
        self._store.put(asset)
        self.folder(asset.id).mkdir(parents=True, exist_ok=True)
        return asset

    def folder(self, asset_id: str) -> Path:
        """Return the folder of an asset's files."""
        return self._blobs / f"asset-{guid_of(asset_id)}"

    def get(self, account: str, asset_id: str) -> Asset:
        """Return an asset of *account*, or raise `NotFound`."""
        asset = self._store.get(Asset, asset_id)
        if asset is None or asset.account != account:
            raise NotFound("Resource Asset not found")
        return asset

    def named(self, account: str, asset_name: str) -> Asset | None:
        """Return the asset that v3 calls *asset_name*, in whatever case; None if there is none."""
        wanted = asset_name.lower()
        assets = self._store.all(Asset, account)
        return next((asset for asset in assets if asset.asset_name.lower() == wanted), None)

    def fill(self, asset: Asset, job_id: str) -> None:
        """Note that an asset which was there before is to be filled by a job."""
        asset.job = job_id
        self._store.put(asset)

    def job_of(self, asset_id: str) -> str | None:
        """Return the job that makes an asset, None for one that was uploaded."""
        asset = self._store.get(Asset, asset_id)
        return None if asset is None else asset.job

    def files(self, asset_id: str) -> list[AssetFile]:
        """Return the files of an asset."""
        return [file for file in self._store.all(AssetFile) if file.asset == asset_id]

    def path(self, file: AssetFile) -> Path:
        """Return where the bytes of *file* are."""
        return Path(file.source) if file.source else self.folder(file.asset) / file.name

    def record_file(self, asset_id: str, name: str, *, mime_type: str | None = None) -> AssetFile:
        """Make or renew the record of the file *name*, with the size that it has on disk."""
        asset = self._store.get(Asset, asset_id)
        if asset is None:
            raise NotFound("Resource Asset not found")
        now, files = self._clock.now(), self.files(asset_id)
        file = next((file for file in files if file.name == name), None)
        if file is None:
            # Files share their prefix with assets; AssetFile (REST reference), Id.
            file = AssetFile(new_id("cid"), asset.account, now, asset_id, check_file_name(name), now)
            file.primary = not files
        path = self.folder(asset_id) / name
        if path.is_file():
            file.size, file.source = path.stat().st_size, None
        file.mime_type = mime_type or file.mime_type
        file.modified = asset.modified = now
        self._store.put(file)
        self._store.put(asset)
        return file

    def record_folder(self, account: str, asset_id: str) -> None:
        """Make records of all files in an asset's folder; CreateFileInfos (REST reference)."""
        for path in sorted(self.folder(self.get(account, asset_id).id).iterdir()):
            if path.is_file():
                self.record_file(asset_id, path.name)

    def delete(self, account: str, asset_id: str) -> None:
        """Delete an asset with its files and locators."""
        asset = self.get(account, asset_id)
        for file in self.files(asset.id):
            self._store.remove(file)
        for locator in list(self._store.all(Locator)):
            if locator.asset == asset.id:
                self._store.remove(locator)
        self._store.remove(asset)
        shutil.rmtree(self.folder(asset.id), ignore_errors=True)

    def offer_media(self, accounts: list[str], media: Path) -> None:
        """Make each file in *media* an asset of each account, with identifiers that stay the same."""
        for account in accounts:
            for path in sorted(media.iterdir()):
                if path.is_file() and not path.name.startswith("."):
                    self._offer_file(account, path)

    def _offer_file(self, account: str, path: Path) -> None:
        now, size = self._clock.now(), path.stat().st_size
        asset_id = make_id("cid", uuid.uuid5(_MEDIA_NAMESPACE, f"{account}/{path.name}"))
        file_id = make_id("cid", uuid.uuid5(_MEDIA_NAMESPACE, f"{account}/{path.name}/file"))
        asset = self._store.get(Asset, asset_id) or Asset(asset_id, account, now, path.name, now)
        self._store.put(asset)
        source = str(path.resolve())
        file = AssetFile(file_id, account, now, asset_id, path.name, now, size, True, None, source)
        self._store.put(file)
        self.folder(asset_id).mkdir(parents=True, exist_ok=True)

    def create_policy(self, account: str, name: str, minutes: float, permissions: int) -> AccessPolicy:
        """Make an access policy; AccessPolicy (REST reference)."""
        if minutes <= 0:
            raise InvalidRequest("AccessPolicy.DurationInMinutes must be greater than 0.")
        now = self._clock.now()
        policy = AccessPolicy(new_id("pid"), account, now, name, minutes, permissions, now)
        self._store.put(policy)
        return policy

    def create_locator(
        self, account: str, asset_id: str, policy_id: str, starts: float | None, name: str | None = None
    ) -> Locator:
        """Make a SAS locator; Locator (REST reference). An asset can have five."""
        asset = self.get(account, asset_id)
        policy = self._store.get(AccessPolicy, policy_id)
        if policy is None or policy.account != account:
            raise NotFound("Resource AccessPolicy not found")
        if sum(1 for locator in self._store.all(Locator, account) if locator.asset == asset.id) >= 5:
            raise InvalidRequest("An asset can have at most 5 locators.")
        now = self._clock.now()
        expires = (starts or now) + policy.minutes * 60
        locator = Locator(
            new_id("lid"), account, now, asset.id, policy.id, policy.permissions, starts, expires, name
        )
        self._store.put(locator)
        return locator

    def signature(self, locator: Locator) -> str:
        """Return what proves that a URL was made from *locator*."""
        text = f"{locator.id}\n{locator.asset}\n{locator.permissions}\n{locator.expires}"
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def share(self, asset_id: str, permissions: int, expires: float) -> str:
        """Return the query string that opens an asset's container until *expires*; it needs no locator."""
        until, container = int(expires), self.folder(asset_id).name
        signature = self._sign_share(container, permissions, until)
        return f"sv=2021-06-08&sr=c&sp={permissions}&se={until}&sig={signature}"

    def open_shared(self, container: str, query: Mapping[str, str], permission: int) -> str:
        """Return the asset in *container* that the query string of a shared URL opens.

        :raises NotAllowed: the signature is wrong or has expired, the permission or the asset is missing.
        """
        try:
            permissions, expires = int(query["sp"]), int(query["se"])
        except (KeyError, ValueError):
            raise NotAllowed("The URL is not signed.") from None
        expected = self._sign_share(container, permissions, expires)
        asset_id = f"nb:cid:UUID:{container.removeprefix('asset-')}"
        if not hmac.compare_digest(expected.encode(), query.get("sig", "").encode()):
            raise NotAllowed("The signature of the request does not match.")
        if self._clock.now() >= expires or self._store.get(Asset, asset_id) is None:
            raise NotAllowed("The signature is not valid any more.")
        if not permissions & permission:
            raise NotAllowed("The signature does not give this permission.")
        return asset_id

    def _sign_share(self, container: str, permissions: int, expires: int) -> str:
        text = f"{container}\n{permissions}\n{expires}"
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def open_with(self, container: str, locator_guid: str, signature: str, permission: int) -> str:
        """Return the asset in *container* (``asset-GUID``) that a locator's URL opens.

        :raises NotAllowed: the signature is wrong, the locator gone or expired, or the permission missing.
        """
        locator = self._store.get(Locator, f"nb:lid:UUID:{locator_guid}")
        if (
            locator is None
            or not hmac.compare_digest(self.signature(locator).encode(), signature.encode())
            or container != self.folder(locator.asset).name
        ):
            raise NotAllowed("The signature of the request does not match.")
        now = self._clock.now()
        if now >= locator.expires or (locator.starts is not None and now < locator.starts):
            raise NotAllowed("The locator is not valid at this time.")
        if not locator.permissions & permission:
            raise NotAllowed("The locator does not give this permission.")
        return locator.asset
