"""Bearer tokens of all the services: ACS (SWT), and Entra, RMS and MK.IO (JWT)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import NotAuthenticated
from airflow_ams.emulator.settings import SUBSCRIPTION

ACS_SCOPE = "urn:WindowsAzureMediaServices"
ACS_LIFETIME = 21600.0
JWT_LIFETIME = 3600.0
# A personal token of MK.IO is good for a year at most.
PERSONAL_LIFETIME = 31_536_000.0
_NAME_CLAIM = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier"
_SIGNATURE = "&HMACSHA256="


@dataclass(frozen=True)
class Bearer:
    """Who a token is for, and what for.

    :param account: whose token it is.
    :param kind: ``acs``, ``entra``, ``rms`` or ``personal``.
    :param audience: what an Entra token was asked for; None for the others.
    :param capabilities: what a restricted personal token may do; None means everything.
    """

    account: str
    kind: str
    audience: str | None = None
    capabilities: frozenset[str] | None = None


class Tokens:
    """Issues tokens and tells whose they are.

    :param accounts: account name to key; the pair is client id and secret as well, the key an RMS API key.
    :param secret: signs the tokens, so that they outlive a restart.
    :param clock: decides on expiry.
    :param lifetime: seconds; None means 21600 for ACS and 3600 for Entra, as the services had it, and 3600
        for RMS, whose own is not known. Personal tokens have theirs.
    """

    def __init__(
        self, accounts: Mapping[str, str], secret: str, clock: Clock, lifetime: float | None = None
    ) -> None:
        self._accounts = accounts
        self._secret = secret.encode()
        self._clock = clock
        self.acs_lifetime = ACS_LIFETIME if lifetime is None else lifetime
        self.entra_lifetime = JWT_LIFETIME if lifetime is None else lifetime
        self.rms_lifetime = JWT_LIFETIME if lifetime is None else lifetime
        self.api_keys_expired = False
        """Whether RMS takes no API key any more; tokens that it has given out stay good."""

    def check(self, account: str, key: str) -> None:
        """Raise `NotAuthenticated` unless *key* is the key of *account*."""
        expected = self._accounts.get(account)
        if expected is None or not hmac.compare_digest(expected.encode(), key.encode()):
            raise NotAuthenticated("The account name or its key is wrong.")

    def account_with_key(self, subscription: str, key: str) -> str:
        """Return the account that an RMS API key belongs to.

        :raises NotAuthenticated: there is none, or the key has expired.
        """
        for account, expected in self._accounts.items():
            if hmac.compare_digest(expected.encode(), key.encode()) and subscription.lower() == SUBSCRIPTION:
                if self.api_keys_expired:
                    raise NotAuthenticated("The API key has expired.")
                return account
        raise NotAuthenticated("The subscription or the API key is wrong.")

    def issue_swt(self, account: str) -> str:
        """Return a Simple Web Token for *account*, as the Access Control Service made them."""
        claims = urlencode(
            {
                _NAME_CLAIM: account,
                "urn:SubscriptionId": "00000000-0000-0000-0000-000000000000",
                "Audience": ACS_SCOPE,
                "ExpiresOn": self._at(self.acs_lifetime),
                "Issuer": "https://wamsprodglobal001acs.accesscontrol.windows.net/",
            }
        )
        return claims + _SIGNATURE + urlencode({"": self._sign(claims)})[1:]

    def issue_jwt(self, account: str, tenant: str, audience: str) -> str:
        """Return an Entra token for *account*; tenant and audience are taken as they come."""
        return self._issue("entra", account, self.entra_lifetime, aud=audience, tid=tenant)

    def issue_rms(self, account: str) -> str:
        """Return what RMS gives for the API key of *account*."""
        return self._issue("rms", account, self.rms_lifetime)

    def issue_personal(self, account: str, capabilities: Sequence[str] | None, lifetime: float) -> str:
        """Return a personal token of MK.IO.

        :param account: the project.
        :param capabilities: for instance ``ams.job.get``; None gives full access.
        :param lifetime: seconds.
        """
        allowed = None if capabilities is None else list(capabilities)
        return self._issue("personal", account, lifetime, capabilities=allowed)

    def bearer_of(self, authorization: str | None) -> Bearer:
        """Return what the token of an Authorization header is good for.

        :raises NotAuthenticated: there is no token, it was not issued here, or it has expired.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated("The Authorization header with a bearer token is missing.")
        bearer, expires = self._read(token.strip())
        if bearer.account not in self._accounts:
            raise NotAuthenticated("The token is for an account that does not exist.")
        if self._clock.now() >= expires:
            raise NotAuthenticated("The token has expired.")
        return bearer

    def account_of(self, authorization: str | None) -> str:
        """Return the account of a token that the v2 service takes: one of ACS or Entra.

        :raises NotAuthenticated: there is no such token.
        """
        bearer = self.bearer_of(authorization)
        if bearer.kind not in ("acs", "entra"):
            raise NotAuthenticated("The token is one of another service.")
        return bearer.account

    def _issue(self, kind: str, account: str, lifetime: float, **more: Any) -> str:
        claims = {"kind": kind, "appid": account, "iat": self._at(0), "exp": self._at(lifetime), **more}
        head = _unpadded(json.dumps({"typ": "JWT", "alg": "HS256"}).encode())
        signed = f"{head}.{_unpadded(json.dumps(claims).encode())}"
        return f"{signed}.{self._sign(signed)}"

    def _read(self, token: str) -> tuple[Bearer, float]:
        """Return what a token says, and when it expires."""
        try:
            if _SIGNATURE in token:
                text, _, signature = token.partition(_SIGNATURE)
                self._verify(text, dict(parse_qsl("s=" + signature))["s"])
                values = dict(parse_qsl(text))
                return Bearer(values[_NAME_CLAIM], "acs"), float(values["ExpiresOn"])
            signed, _, signature = token.rpartition(".")
            self._verify(signed, signature)
            claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
            allowed = claims.get("capabilities")
            capabilities = None if allowed is None else frozenset(allowed)
            bearer = Bearer(claims["appid"], claims["kind"], claims.get("aud"), capabilities)
            return bearer, float(claims["exp"])
        except (ValueError, KeyError, IndexError):
            raise NotAuthenticated("The token is not one of this service.") from None

    def _at(self, seconds: float) -> float:
        """Return the time *seconds* from now."""
        return round(self._clock.now() + seconds, 3)

    def _sign(self, text: str) -> str:
        return _unpadded(hmac.new(self._secret, text.encode(), hashlib.sha256).digest())

    def _verify(self, text: str, signature: str) -> None:
        if not hmac.compare_digest(self._sign(text).encode(), signature.encode()):
            raise ValueError("wrong signature")


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
