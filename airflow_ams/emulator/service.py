"""The emulator without HTTP: its parts, made once and handed to every dialect."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from airflow_ams.emulator.assets import Assets
from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.encoder import Encoder
from airflow_ams.emulator.exchange import RequestLog
from airflow_ams.emulator.faults import Faults, read_fault_file
from airflow_ams.emulator.jobs import JobRequest, Jobs
from airflow_ams.emulator.limits import Limits
from airflow_ams.emulator.records import Job
from airflow_ams.emulator.runner import Runner
from airflow_ams.emulator.settings import DEFAULT_ACCOUNT, Settings
from airflow_ams.emulator.store import Store
from airflow_ams.emulator.tokens import Tokens


class Service:
    """A media service: accounts, assets, jobs, and the clock that all of them follow.

    :param settings: how it is set up; as an attribute, it always has an account.
    :param folder: where its files go; without ``--data`` a temporary folder, which the caller removes.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.store = Store(":memory:" if settings.data is None else str(folder / "emulator.sqlite"))
        self._blobs = folder / "blobs"
        self._blobs.mkdir(exist_ok=True)
        secret = self._kept("secret")
        if not settings.accounts:
            settings = replace(settings, accounts={DEFAULT_ACCOUNT: self._kept("key")})
        self.settings = settings
        self.clock = Clock(**(self.store.fact("clock") or {}))
        self.tokens = Tokens(settings.accounts, secret, self.clock, settings.token_lifetime)
        self.assets = Assets(self.store, self._blobs, secret, self.clock)
        self.jobs = Jobs(self.store, self.assets, self.clock)
        self.limits = Limits(self.clock)
        self.log = RequestLog()
        self.faults = Faults(settings.seed)
        if settings.faults is not None:
            self.faults.replace(read_fault_file(settings.faults))
        self.runner = Runner(self.store, self.assets, Encoder(), settings.units, self.clock)
        self._offer_media()

    def _kept(self, name: str) -> str:
        """Return the random text called *name*; it outlives a restart, and with it what was made from it."""
        text: str = self.store.fact(name) or secrets.token_urlsafe(32)
        self.store.remember(name, text)
        return text

    def _offer_media(self) -> None:
        if self.settings.media is not None:
            self.assets.offer_media(list(self.settings.accounts), self.settings.media)

    def submit(self, account: str, request: JobRequest) -> Job:
        """Make a job, and start its encode as soon as a unit is free."""
        job = self.jobs.submit(account, request)
        if job.script is None:
            self.runner.wake()
        return job

    def cancel(self, account: str, job_id: str) -> None:
        """Cancel a job, and stop its encode."""
        self.jobs.request_cancel(account, job_id)
        self.runner.cancel(job_id)

    def keep_clock(self) -> None:
        """Remember the clock, so that a restart goes on by it."""
        self.store.remember("clock", {"offset": self.clock.offset, "frozen_at": self.clock.frozen_at})

    async def reset(self) -> None:
        """Forget jobs, assets, faults and the log, put clock and limits right; tokens stay good."""
        await self.runner.stop()
        self.store.clear()
        self.jobs.forget()
        self.faults.replace([])
        self.log.clear()
        self.clock.reset()
        self.limits.reset()
        self.tokens.api_keys_expired = False
        self.keep_clock()
        shutil.rmtree(self._blobs, ignore_errors=True)
        self._blobs.mkdir(exist_ok=True)
        self._offer_media()
        self.runner.start()

    async def close(self) -> None:
        """Stop all work, so that a restart can go on with it."""
        await self.runner.stop()
        self.store.close()
