"""The Airflow connections that lead to an emulator, one for each dialect."""

from __future__ import annotations

from typing import Any

from airflow_ams.emulator.settings import RESOURCE_GROUP, SUBSCRIPTION


def connections(
    root: str, account: str, key: str, personal_token: str, certificate: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the connection of each of ``v2``, ``arm``, ``rms`` and ``mkio``.

    :param root: URL of the emulator, with a slash at the end.
    :param account: the account; the project of MK.IO.
    :param key: its key.
    :param personal_token: for MK.IO.
    :param certificate: PEM file that the caller is to trust, for an emulator that speaks https.
    """
    place = {"subscription_id": SUBSCRIPTION, "resource_group": RESOURCE_GROUP, "account_name": account}
    entra = {"auth": "entra", "tenant_id": "emulator", "token_url": f"{root}emulator/oauth2/v2.0/token"}
    key_of_account = {"login": account, "password": key}
    found: dict[str, dict[str, Any]] = {
        "v2": {"host": f"{root}api/", **key_of_account, "extra": {"token_url": f"{root}v2/OAuth2-13"}},
        "arm": {"host": root, **key_of_account, "extra": {"api": "arm", **entra, **place}},
        "rms": {"host": root, "password": key, "extra": {"api": "rms", **place}},
        "mkio": {"host": root, "password": personal_token, "extra": {"api": "mkio", "project": account}},
    }
    for one in found.values():
        one["conn_type"] = "ams"
        if certificate is not None:
            one["extra"]["verify"] = certificate
    return found
