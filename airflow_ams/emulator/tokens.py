"""Bearer tokens of the two kinds that the service took: ACS (SWT) and Entra (JWT)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from airflow_ams.emulator.clock import Clock
from airflow_ams.emulator.errors import NotAuthenticated

ACS_SCOPE = "urn:WindowsAzureMediaServices"
ACS_LIFETIME = 21600.0
ENTRA_LIFETIME = 3600.0
_NAME_CLAIM = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier"
_SIGNATURE = "&HMACSHA256="


class Tokens:
    """Issues tokens and tells whose they are.

    :param accounts: account name to key; the pair is client id and secret as well.
    :param secret: signs the tokens, so that they outlive a restart.
    :param clock: decides on expiry.
    :param lifetime: seconds; None means 21600 for ACS and 3600 for Entra, as the services had it.
    """

    def __init__(
        self, accounts: Mapping[str, str], secret: str, clock: Clock, lifetime: float | None = None
    ) -> None:
        self._accounts = accounts
        self._secret = secret.encode()
        self._clock = clock
        self.acs_lifetime = ACS_LIFETIME if lifetime is None else lifetime
        self.entra_lifetime = ENTRA_LIFETIME if lifetime is None else lifetime

    def check(self, account: str, key: str) -> None:
        """Raise `NotAuthenticated` unless *key* is the key of *account*."""
        expected = self._accounts.get(account)
        if expected is None or not hmac.compare_digest(expected.encode(), key.encode()):
            raise NotAuthenticated("The account name or its key is wrong.")

    def issue_swt(self, account: str) -> str:
        """Return a Simple Web Token for *account*, as the Access Control Service made them."""
        claims = urlencode(
            {
                _NAME_CLAIM: account,
                "urn:SubscriptionId": "00000000-0000-0000-0000-000000000000",
                "Audience": ACS_SCOPE,
                "ExpiresOn": self._expiry(self.acs_lifetime),
                "Issuer": "https://wamsprodglobal001acs.accesscontrol.windows.net/",
            }
        )
        return claims + _SIGNATURE + urlencode({"": self._sign(claims)})[1:]

    def issue_jwt(self, account: str, tenant: str, audience: str) -> str:
        """Return a JSON Web Token for *account*; tenant and audience are taken as they come."""
        claims = {
            "appid": account,
            "aud": audience,
            "tid": tenant,
            "exp": self._expiry(self.entra_lifetime),
        }
        head = _unpadded(json.dumps({"typ": "JWT", "alg": "HS256"}).encode())
        signed = f"{head}.{_unpadded(json.dumps(claims).encode())}"
        return f"{signed}.{self._sign(signed)}"

    def account_of(self, authorization: str | None) -> str:
        """Return the account whose token an Authorization header carries.

        :raises NotAuthenticated: there is no token, it was not issued here, or it has expired.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated("The Authorization header with a bearer token is missing.")
        account, expires = self._read(token.strip())
        if account not in self._accounts:
            raise NotAuthenticated("The token is for an account that does not exist.")
        if self._clock.now() >= expires:
            raise NotAuthenticated("The token has expired.")
        return account

    def _read(self, token: str) -> tuple[str, float]:
        try:
            if _SIGNATURE in token:
                claims, _, signature = token.partition(_SIGNATURE)
                self._verify(claims, dict(parse_qsl("s=" + signature))["s"])
                values = dict(parse_qsl(claims))
                return values[_NAME_CLAIM], float(values["ExpiresOn"])
            signed, _, signature = token.rpartition(".")
            self._verify(signed, signature)
            body = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
            return body["appid"], float(body["exp"])
        except (ValueError, KeyError, IndexError):
            raise NotAuthenticated("The token is not one of this service.") from None

    def _expiry(self, lifetime: float) -> float:
        return round(self._clock.now() + lifetime, 3)

    def _sign(self, text: str) -> str:
        return _unpadded(hmac.new(self._secret, text.encode(), hashlib.sha256).digest())

    def _verify(self, text: str, signature: str) -> None:
        if not hmac.compare_digest(self._sign(text).encode(), signature.encode()):
            raise ValueError("wrong signature")


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
