"""What can be set when the emulator starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNTS_VARIABLE = "AIRFLOW_AMS_EMULATOR_ACCOUNTS"
DEFAULT_ACCOUNT = "emulator"
DEFAULT_PORT = 8765
# Where accounts are in the ARM paths, and the dialects by their names in an Airflow connection.
SUBSCRIPTION = "00000000-0000-4000-8000-0000000000a5"
RESOURCE_GROUP = "emulator"
APIS = ("v2", "arm", "rms", "mkio")
# Requests to the controls under /_emulator/ carry it.
CONTROL_HEADER = "X-AMS-Emulator"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All options of the emulator, checked and complete.

    :param accounts: account name to key; if empty, the service makes one with a random key.
    :param host: address to listen on.
    :param port: port to listen on; 0 picks a free one.
    :param front_port: port of the global front host that answers 301; 0 picks one, None has none.
    :param token_lifetime: seconds a token is good for; None means 21600 (ACS) and 3600 (Entra, RMS).
    :param units: encodes that run at the same time; the rest stay Queued.
    :param media: folder whose files are assets of every account.
    :param data: folder of the state that survives a restart; None keeps it in memory.
    :param faults: the fault rules to start with, as read from a file.
    :param seed: makes faults that come at a *rate* repeatable.
    :param api: the dialect whose connection is printed; all of them are served.
    :param ssl_certfile: PEM certificate; makes the emulator speak https.
    :param ssl_keyfile: PEM key of that certificate, if it is not in the same file.
    """

    accounts: dict[str, str] = field(repr=False)
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    front_port: int | None = None
    token_lifetime: float | None = None
    units: int = 1
    media: Path | None = None
    data: Path | None = None
    faults: Path | None = None
    seed: int | None = None
    api: str = "v2"
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None

    @property
    def scheme(self) -> str:
        """``https`` with a certificate, else ``http``."""
        return "https" if self.ssl_certfile else "http"


def read_accounts(flags: Iterable[str]) -> dict[str, str]:
    """Return account names and keys from flags, else the environment; empty if neither has any.

    :param flags: each ``NAME:KEY``; when there is one, the environment is not looked at.
    :raises ValueError: an entry is not ``NAME:KEY``, or a name comes twice.
    """
    entries = list(flags)
    if not entries:
        entries = [entry for entry in os.environ.get(ACCOUNTS_VARIABLE, "").split(",") if entry.strip()]
    accounts: dict[str, str] = {}
    for position, entry in enumerate(entries, start=1):
        name, _, key = entry.strip().partition(":")
        if not name or not key:
            # The entry itself is not shown: it may hold a key.
            raise ValueError(f"Account number {position} is not of the form NAME:KEY.")
        if name in accounts:
            raise ValueError(f"Account '{name}' is given twice.")
        accounts[name] = key
    return accounts
