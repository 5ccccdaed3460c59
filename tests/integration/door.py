"""An account that takes only the tokens of the day, for tests of keys that change under a wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.account import Account
from tests.integration.account_v3 import RmsAccount

ways = pytest.mark.parametrize(
    ("account", "way"),
    [("v2", "bearer"), ("v2", "acs"), ("arm", "bearer"), ("rms", "api_key"), ("mkio", "bearer")],
    indirect=["account"],
)
"""What a dialect is opened with."""


class Door:
    """Signs in at an account, and turns away who has no token of today's.

    :param key: what the account is opened with
    """

    def __init__(self, account: Account, key: str) -> None:
        self.key = key
        self.day = 1
        self.sign_ins: list[int] = []
        self._account = account
        account.trouble = self.check

    def renew_tokens(self) -> None:
        """Take no token any more that was issued so far."""
        self.day += 1

    def check(self, seen: Any) -> Any:
        """Answer a sign-in, or a request without a good token."""
        reply = self._account.reply
        if "token" in seen.path:
            is_right = seen.form["client_secret"] == self.key
            self.sign_ins.append(200 if is_right else 400)
            if not is_right:
                return reply(400, {"error": "invalid_client"})
            return reply(200, {"access_token": f"token-{self.key}-{self.day}", "expires_in": "3600"})
        if seen.headers.get("Authorization") in (
            f"Bearer token-{self.key}-{self.day}",
            f"Bearer {self.key}",
        ):
            return None
        return reply(401, {"error": {"message": "who are you?"}})


class RmsDoor(Door):
    """The same for RMS, whose account has a sign-in of its own."""

    def __init__(self, account: RmsAccount, key: str) -> None:
        super().__init__(account, key)
        self._rms = account
        self.sign_ins = account.sign_ins

    def renew_tokens(self) -> None:
        """Take no token any more that was issued so far."""
        self._rms.expire_tokens()

    def check(self, seen: Any) -> Any:
        """Leave all to the account."""
        if self._rms.api_key != self.key:
            self._rms.api_key = self.key
            self._rms.expire_tokens()


def locked(
    account: Account, way: str, key: str, connection: Callable[..., str]
) -> tuple[Door, dict[str, Any]]:
    """Put a door before an account; return it, and the connection's fields but for the key."""
    fields: dict[str, Any] = dict(account.connection)
    if way == "acs":
        fields |= {"login": "me", "extra": {"token_url": account.base_url + "token"}}
    connection(account.conn_id, **{**fields, "password": key})
    return RmsDoor(account, key) if isinstance(account, RmsAccount) else Door(account, key), fields
