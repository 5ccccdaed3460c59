"""Where a service may send us, and with us the token.

The v2 front host ``media.windows.net`` answers 301 with the base of the account's regional cluster ("Connect
to Media Services account using REST API"). Whoever can forge that answer would be handed the token, so it is
followed only to hosts that can be the service.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from airflow_ams.api.errors import RefusedError

MAX_HOPS = 3
"""Redirects that one request follows."""

_SERVICE_HOSTS = re.compile(
    r"""
    # The domain is shared by all customers of the cloud, so only the service's own naming is let through.
    wams[a-z0-9-]*rest-hs\.cloudapp\.net
    | (?:[a-z0-9-]+\.)+media\.(?:azure\.net|chinacloudapi\.cn|usgovcloudapi\.net|cloudapi\.de)
    """,
    re.VERBOSE,
)
_DEFAULT_PORTS = {"https": 443, "http": 80}


def is_loopback(host: str | None) -> bool:
    """Whether a host name can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def redirected_base(
    location: str, *, current: str, configured: str, extra_hosts: tuple[str, ...] = ()
) -> str:
    """Check where a 301 leads, and return it as the new base.

    :param location: the header's value; it names a base, not the address of the call
    :param current: the base that answered
    :param configured: the base that the connection names; its host and, on loopback, its scheme are allowed
    :param extra_hosts: further hosts, each exact or ``*.domain``
    :returns: the new base, with its last slash
    :raises RefusedError: it leads nowhere, in a circle, or to a host that is not the service's
    """
    here = urlsplit(configured)
    try:
        there = urlsplit(location)
        host = (there.hostname or "").lower()
        port = there.port or _DEFAULT_PORTS.get(there.scheme)
    except ValueError:
        host, port = "", None
    home = host == (here.hostname or "").lower()
    if not host or port is None:
        raise RefusedError(f"{here.hostname} redirects to no usable address ({location[:200]!r})")
    if not (home or _SERVICE_HOSTS.fullmatch(host) or _is_listed(host, extra_hosts)):
        raise RefusedError(
            f"{here.hostname} redirects to {host}, which is no host of the service, so the token was not "
            "sent there; if it is right, name it in extra.redirect_hosts"
        )
    if there.scheme != "https" and not (there.scheme == here.scheme and is_loopback(host)):
        raise RefusedError(
            f"{here.hostname} redirects to {host} over {there.scheme}; the token is sent over https only"
        )
    if home and not is_loopback(host) and port not in (443, here.port):
        raise RefusedError(f"{here.hostname} redirects to its port {port}, so the token was not sent there")
    netloc = f"[{host}]" if ":" in host else host
    if port != _DEFAULT_PORTS[there.scheme]:
        netloc += f":{port}"
    base = f"{there.scheme}://{netloc}{there.path.rstrip('/')}/"
    if base == current:
        raise RefusedError(f"{here.hostname} redirects {host} to itself")
    return base


def _is_listed(host: str, allowed: tuple[str, ...]) -> bool:
    return any(
        host == entry or (entry.startswith("*.") and host.endswith(entry[1:]))
        for entry in (entry.lower() for entry in allowed)
    )
