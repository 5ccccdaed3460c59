"""Where bearer tokens come from.

A `TokenSource` gives the token to use now, and another one when that was refused. Sources that cost a request
are shared by everything in a process that signs in alike (`shared_tokens`), so that many waits make one
sign-in.
"""

from __future__ import annotations

import copy
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http import HTTPStatus
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, quote_plus, urlencode, urlsplit

from airflow_ams.api.errors import RefusedError, ServiceError, SignInError, TransientError
from airflow_ams.api.wire import Answer, Wire

if TYPE_CHECKING:
    from azure.identity import ClientSecretCredential, ManagedIdentityCredential

ACS_TOKEN_URL = "https://wamsprodglobal001acs.accesscontrol.windows.net/v2/OAuth2-13"
ACS_SCOPE = "urn:WindowsAzureMediaServices"
ENTRA_EXTRA = "pip install 'airflow-ams[entra]'"

MAX_LEAD = 300.0
"""Seconds before its expiry at which a token is renewed; short-lived ones are used for nine tenths of it."""

MIN_LIFETIME = 30.0
"""Seconds that a new token of RMS is taken to be good for at least.

If the clock here is ahead by more than a token lives, each seems to be over when it comes, and there would be
a sign-in for every request. One that is over indeed is refused, and renewed then.
"""


@dataclass(frozen=True)
class Cloud:
    """The addresses of one national cloud (AzureEnvironmentConstants of the v2 SDKs).

    :param authority: where Entra ID signs in
    :param media: what the v2 media service is called there
    :param management: Azure Resource Manager there
    """

    authority: str
    media: str
    management: str


CLOUDS = {
    "public": Cloud(
        "https://login.microsoftonline.com", "https://rest.media.azure.net", "https://management.azure.com"
    ),
    "usgov": Cloud(
        "https://login.microsoftonline.us",
        "https://rest.media.usgovcloudapi.net",
        "https://management.usgovcloudapi.net",
    ),
    "china": Cloud(
        "https://login.chinacloudapi.cn",
        "https://rest.media.chinacloudapi.cn",
        "https://management.chinacloudapi.cn",
    ),
}


class TokenSource(Protocol):
    """Gives tokens; raises `ServiceError` when it cannot."""

    def token(self, time_left: float | None = None) -> str:
        """Return a token that should be good now; a sign-in may take `time_left` seconds."""

    def renewed(self, refused: str, time_left: float | None = None) -> str | None:
        """Return another token than the refused one, or None if there is no other."""


@dataclass(frozen=True)
class StaticToken:
    """A token that somebody pasted: it is what it is."""

    value: str = field(repr=False)

    def token(self, time_left: float | None = None) -> str:
        """Return the token."""
        return self.value

    def renewed(self, refused: str, time_left: float | None = None) -> str | None:
        """Return None: there is no other."""
        return None


@dataclass(frozen=True)
class SignIn:
    """All that a sign-in depends on; equal sign-ins share their token.

    :param method: ``acs``, ``entra`` or ``api_key``
    :param client_id: account name (ACS), client id (Entra ID), subscription id (API key), or empty
    :param tenant_id: the Entra ID tenant
    :param managed_identity: sign in as the machine (or the pod), by this identity if `client_id` is set
    :param token_url: post the form there ourselves
    :param cloud: key of `CLOUDS`
    :param resource: what the token is for (Entra ID); empty: the cloud's v2 media service
    :param authority: a private Entra ID, https
    :param verify: True, or the path of a CA bundle
    :param timeout: seconds that one request may take
    """

    method: str
    client_id: str = ""
    secret: str = field(default="", repr=False)
    tenant_id: str = ""
    managed_identity: bool = False
    token_url: str = ""
    cloud: str = "public"
    resource: str = ""
    authority: str = ""
    verify: bool | str = True
    timeout: float = 30.0

    @property
    def audience(self) -> str:
        """What the token is for."""
        return self.resource or CLOUDS[self.cloud].media


class CachedTokens:
    """Keeps the last token, and fetches the next for all who wait for it at once.

    :param fetch: given the seconds that it may take (None: as many as usual), returns a token and the seconds
        that it lives
    """

    def __init__(self, fetch: Callable[[float | None], tuple[str, float]]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._fetches = 0
        self._value: str | None = None
        self._stale_at = 0.0
        self._failure: ServiceError | None = None

    def token(self, time_left: float | None = None) -> str:
        """Return the cached token, or fetch one when its end is near."""
        return self._get(lambda: self._value is None or time.monotonic() >= self._stale_at, time_left)

    def renewed(self, refused: str, time_left: float | None = None) -> str | None:
        """Fetch another token, unless somebody else has done so since the refused one was handed out."""
        return self._get(lambda: self._value is None or self._value == refused, time_left)

    def _get(self, is_stale: Callable[[], bool], time_left: float | None) -> str:
        fetches_before = self._fetches
        with self._lock:
            if self._fetches != fetches_before and self._failure is not None:
                # Whoever waited for a fetch shares its failure too, or a hundred would try one after another.
                raise copy.copy(self._failure)
            if is_stale():
                self._renew(time_left)
            assert self._value is not None  # noqa: S101  # _renew() set it, or raised
            return self._value

    def _renew(self, time_left: float | None) -> None:
        self._failure = None
        try:
            self._value, lifetime = self._fetch(time_left)
        except ServiceError as exc:
            self._failure = exc
            raise
        finally:
            # Counted when it ends, so that whoever comes while it goes on is one of those who waited for it.
            self._fetches += 1
        self._stale_at = time.monotonic() + lifetime - min(MAX_LEAD, lifetime / 10)


@lru_cache(maxsize=64)
def shared_tokens(sign_in: SignIn) -> CachedTokens:
    """Return the process's one token cache for a sign-in."""
    fetch = _azure_identity_token
    if sign_in.method == "acs":
        fetch = _acs_token
    elif sign_in.method == "api_key":
        fetch = _api_key_token
    elif sign_in.token_url:
        fetch = _entra_form_token
    return CachedTokens(partial(fetch, sign_in))


def _acs_token(sign_in: SignIn, time_left: float | None) -> tuple[str, float]:
    """Sign in at ACS with account name and key ("Connect to Media Services account using REST API")."""
    form = {
        "grant_type": "client_credentials",
        "client_id": sign_in.client_id,
        "client_secret": sign_in.secret,
        "scope": ACS_SCOPE,
    }
    return _post_form(sign_in.token_url or ACS_TOKEN_URL, form, sign_in, time_left)


def _entra_form_token(sign_in: SignIn, time_left: float | None) -> tuple[str, float]:
    """Sign in at a token end point by hand: azure-identity speaks to no plain http and to no other path."""
    resource = sign_in.audience
    form = {
        "grant_type": "client_credentials",
        "client_id": sign_in.client_id,
        "client_secret": sign_in.secret,
    }
    if urlsplit(sign_in.token_url).path.rstrip("/").endswith("/oauth2/v2.0/token"):
        form["scope"] = f"{resource}/.default"
    else:
        form["resource"] = resource
    return _post_form(sign_in.token_url, form, sign_in, time_left)


def _azure_identity_token(sign_in: SignIn, time_left: float | None) -> tuple[str, float]:
    """Sign in through azure-identity, as a service principal or as the machine."""
    try:
        from azure.core.exceptions import AzureError
    except ImportError as exc:
        raise RefusedError(
            f"auth 'entra' needs azure-identity, which is not installed: {ENTRA_EXTRA}"
        ) from exc
    timeout = sign_in.timeout if time_left is None else min(sign_in.timeout, max(time_left, 1.0))
    statuses: list[int] = []
    try:
        with _credential(sign_in, timeout, statuses) as credential:
            token = credential.get_token(f"{sign_in.audience}/.default")
    except (AzureError, ValueError) as exc:
        raise _azure_error(exc, sign_in, statuses[-1] if statuses else None) from exc
    return token.token, token.expires_on - time.time()


def _credential(
    sign_in: SignIn, timeout: float, statuses: list[int]
) -> ClientSecretCredential | ManagedIdentityCredential:
    """Make azure-identity's credential; it notes the status of each answer in `statuses`."""
    from azure.identity import ClientSecretCredential, ManagedIdentityCredential

    if sign_in.managed_identity:
        return ManagedIdentityCredential(client_id=sign_in.client_id or None)
    return ClientSecretCredential(
        sign_in.tenant_id,
        sign_in.client_id,
        sign_in.secret,
        authority=sign_in.authority or CLOUDS[sign_in.cloud].authority,
        disable_instance_discovery=bool(sign_in.authority),
        connection_verify=sign_in.verify,
        connection_timeout=timeout,
        read_timeout=timeout,
        retry_total=0,
        raw_response_hook=lambda answer: statuses.append(answer.http_response.status_code),
    )


def _azure_error(exc: Exception, sign_in: SignIn, status: int | None) -> ServiceError:
    """Make our error of azure-identity's."""
    from azure.identity import CredentialUnavailableError

    said = _first_line(exc, sign_in.secret)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return RefusedError(
            "The certificate of Entra ID is not trusted: give the CA bundle's path in extra.verify"
        )
    if not isinstance(exc, CredentialUnavailableError) and _is_passing(exc, status):
        return TransientError(f"Entra ID could not be reached ({said})")
    return SignInError(
        f"Entra ID gave no token ({said}): look at login (client id), password (client secret) and "
        "extra.tenant_id, or at the machine's managed identity",
        status=status,
    )


def _is_passing(exc: Exception, status: int | None) -> bool:
    """Whether azure-identity failed for a reason that may pass; it calls every failure one of authentication.

    What it merely caught is in ``__cause__``, where a ValueError stands for an argument that it did not take.

    :param status: of Entra ID's last answer
    """
    if status is not None and status >= HTTPStatus.BAD_REQUEST:
        return status in (408, 429) or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    cause = exc.__cause__
    return cause is not None and (not isinstance(cause, ValueError) or isinstance(cause, JSONDecodeError))


def _post_form(url: str, form: dict[str, str], sign_in: SignIn, time_left: float | None) -> tuple[str, float]:
    """Post a client-credentials form, and take token and lifetime from the answer."""
    answer = _post(url, urlencode(form), "application/x-www-form-urlencoded", sign_in, time_left)
    host = urlsplit(url).netloc
    if answer.status != HTTPStatus.OK:
        reason = _without(sign_in.secret, _oauth_error(answer))[:300]
        raise SignInError(
            f"The token end point {host} gave no token ({reason}): look at the connection's login and "
            "password, and at extra.token_url",
            status=answer.status,
        )
    document = answer.document()
    try:
        # ACS and Entra ID v1 send the number as a string, Entra ID v2 as a number.
        return str(document["access_token"]), float(document["expires_in"])
    except (KeyError, TypeError, ValueError) as exc:
        raise TransientError(f"The token end point {host} answered without a token") from exc


def _api_key_token(sign_in: SignIn, time_left: float | None) -> tuple[str, float]:
    """Sign in at RMS with an API key, for which it answers with a bare JWT ("RMS API authentication")."""
    body = json.dumps({"subscriptionId": sign_in.client_id, "apiKey": sign_in.secret})
    answer = _post(sign_in.token_url, body, "application/json", sign_in, time_left)
    host = urlsplit(sign_in.token_url).netloc
    reason = _without(sign_in.secret, f"{answer.status} {answer.reason}".strip())
    if answer.status in (400, 401, 403, 422):
        raise SignInError(
            f"{host} gave no token for the API key ({reason}). The key itself, which is not the token, may "
            "have expired or been deleted: look at it in the RMS console and put a new one into password; "
            "look at extra.subscription_id, too",
            status=answer.status,
        )
    if answer.status != HTTPStatus.OK:
        raise RefusedError(
            f"{host} has no sign-in for API keys at {urlsplit(sign_in.token_url).path} ({reason}): look at "
            "the connection's host",
            status=answer.status,
        )
    token = answer.body.decode("utf-8-sig", "replace").strip().strip('"')
    return token, _lifetime(token, host)


def _lifetime(token: str, host: str) -> float:
    """Return for how many seconds a JWT is good, by its own account: it is not ours to verify."""
    # Not at the top: it imports cryptography.
    import jwt

    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        # Not since `iat`: the service may give out one that it made a while ago.
        seconds = float(claims["exp"]) - time.time()
    except (jwt.InvalidTokenError, KeyError, OverflowError, TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        # The reason is not shown: it may quote the token.
        raise TransientError(f"{host} answered with no token that tells when it expires")
    return max(seconds, MIN_LIFETIME)


def _post(url: str, body: str, content_type: str, sign_in: SignIn, time_left: float | None) -> Answer:
    """Post to a token end point.

    The session lives for this one request: tokens are fetched once an hour, by any thread.
    """
    with Wire(verify=sign_in.verify, read_timeout=sign_in.timeout) as wire:
        answer = wire.exchange(
            "POST",
            url,
            headers={"Content-Type": content_type, "Accept": "application/json, text/plain"},
            body=body.encode(),
            time_left=time_left,
        )
    if answer.status in (408, 429) or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        reason = _without(sign_in.secret, answer.reason)
        # Without the status, which would be taken for one of the service's own: a 501 for a refused filter.
        raise TransientError(
            f"The token end point {urlsplit(url).netloc} has trouble ({answer.status} {reason})",
            retry_after=answer.retry_after,
        )
    return answer


def _oauth_error(answer: Answer) -> str:
    try:
        document: Any = answer.document()
        description = " ".join(str(document.get("error_description") or "").split())
        return f"{document['error']}: {description}" if description else str(document["error"])
    except (ServiceError, AttributeError, KeyError, TypeError):
        return f"{answer.status} {answer.reason}".strip()


def _first_line(exc: Exception, secret: str) -> str:
    line = (str(exc).splitlines() or [type(exc).__name__])[0]
    return _without(secret, line)[:300]


def _without(secret: str, text: str) -> str:
    """Blank a secret that a service quotes, as it is or as the form encoded it."""
    for form in {secret, quote_plus(secret), quote(secret, safe="")} - {""}:
        text = text.replace(form, "***")
    return text
