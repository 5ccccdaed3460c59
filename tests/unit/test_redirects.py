"""Where a 301 may lead, and with it the token."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_ams.api.errors import RefusedError
from airflow_ams.api.redirects import is_loopback, redirected_base

FRONT = "https://media.windows.net/api/"


def follow(location: str, configured: str = FRONT, extra: tuple[str, ...] = ()) -> str:
    """Ask where a 301 from the configured base leads."""
    return redirected_base(location, current=configured, configured=configured, extra_hosts=extra)


@pytest.mark.parametrize(
    ("location", "base"),
    [
        (
            "https://wamsbayclus001rest-hs.cloudapp.net/api/",
            "https://wamsbayclus001rest-hs.cloudapp.net/api/",
        ),
        ("https://wamsbayclus001rest-hs.cloudapp.net/api", "https://wamsbayclus001rest-hs.cloudapp.net/api/"),
        (
            "https://WAMSbayclus001REST-hs.cloudapp.net/API/",
            "https://wamsbayclus001rest-hs.cloudapp.net/API/",
        ),
        ("HTTPS://wams-x-rest-hs.cloudapp.net:443/api/", "https://wams-x-rest-hs.cloudapp.net/api/"),
        (
            "https://acc.restv2.westeurope.media.azure.net/api/",
            "https://acc.restv2.westeurope.media.azure.net/api/",
        ),
        ("https://a.restv2.b.media.chinacloudapi.cn/api/", "https://a.restv2.b.media.chinacloudapi.cn/api/"),
        (
            "https://a.restv2.b.media.usgovcloudapi.net/api/",
            "https://a.restv2.b.media.usgovcloudapi.net/api/",
        ),
        ("https://a.restv2.b.media.cloudapi.de/api/", "https://a.restv2.b.media.cloudapi.de/api/"),
        ("https://media.windows.net/v2/", "https://media.windows.net/v2/"),
        ("https://media.windows.net:443/v2/", "https://media.windows.net/v2/"),
        ("https://wamsxrest-hs.cloudapp.net:8443/a:443/b", "https://wamsxrest-hs.cloudapp.net:8443/a:443/b/"),
    ],
)
def test_the_services_own_hosts_are_followed(location: str, base: str) -> None:
    """The configured host, the clusters' own naming and media.azure.net in all its clouds."""
    assert follow(location) == base


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.test/api/",
        "https://stranger.cloudapp.net/api/",
        "https://rest-hs.cloudapp.net/api/",
        "https://evilwamsrest-hs.cloudapp.net/api/",
        "https://wamsx.rest-hs.cloudapp.net/api/",
        "https://wamsx.evilrest-hs.cloudapp.net/api/",
        "https://a.wamsxrest-hs.cloudapp.net/api/",
        "https://wamsxrest-hs.cloudapp.net.evil.test/api/",
        "https://wamsx.rest-hs.cloudapp.net.evil.test/api/",
        "https://wamsxrest-hs.cloudapp.net./api/",
        "https://wamsxrest-hsxcloudapp.net/api/",
        "https://wamsxrest-hs.cloudapp.net\u3002evil.test/api/",
        "https://media.azure.net/api/",
        "https://evilmedia.azure.net/api/",
        "https://a.evilmedia.azure.net/api/",
        "https://media.azure.net.evil.test/api/",
        "https://a.media.azure.net.evil.test/api/",
        "https://media.windows.net.evil.test/api/",
        "https://media.windows.net@evil.test/",
        "https://media.windows.net:443@evil.test/",
        "https://media.windows.net%40evil.test/",
        "https://evil.test\\@media.windows.net.evil.test/",
        "https://evil.test#media.windows.net",
        "https://evil.test/?media.windows.net",
        "//evil.test/api/",
        "//media.windows.net/v2/",
        "http://wamsxrest-hs.cloudapp.net/api/",
        "http://media.windows.net/v2/",
        "ftp://media.windows.net:21/v2/",
        "javascript:alert(1)",
        "https://media.windows.net:8443/v2/",
        "https://media.windows.net:99999/v2/",
        "https://media.windows.net:port/v2/",
        "https://[::1]/api/",
        "https://[::1/api/",
        "https://[evil]/api/",
        "https://127.0.0.1/api/",
        "http://127.0.0.1/api/",
        "",
        "/",
        "/api/",
        "api/",
        "https://",
        "https:///api/",
        " ",
        "\x00",
    ],
)
def test_a_stranger_is_not_followed(location: str) -> None:
    """Look-alikes, user info tricks, other schemes, other ports, relative and broken addresses."""
    with pytest.raises(RefusedError) as caught:
        follow(location)
    assert "media.windows.net" in str(caught.value)


def test_the_error_names_both_hosts_and_the_way_out() -> None:
    """Whoever reads it learns who sent us where, and which setting would allow it."""
    with pytest.raises(RefusedError) as caught:
        follow("https://proxy.evil.test/api/")
    for part in ("media.windows.net", "proxy.evil.test", "token was not sent", "extra.redirect_hosts"):
        assert part in str(caught.value)


def test_a_redirect_to_itself_is_an_error() -> None:
    """A base that names itself as the new base would be asked for ever."""
    with pytest.raises(RefusedError, match="itself"):
        follow(FRONT)


@pytest.mark.parametrize(
    ("extra", "location", "allowed"),
    [
        ("ams.example.org", "https://ams.example.org/api/", True),
        ("AMS.Example.org", "https://ams.example.org/api/", True),
        ("ams.example.org", "https://x.ams.example.org/api/", False),
        ("ams.example.org", "https://ams.example.org.evil.test/api/", False),
        ("*.example.org", "https://a.b.example.org/api/", True),
        ("*.example.org", "https://example.org/api/", False),
        ("*.example.org", "https://evilexample.org/api/", False),
        ("*", "https://evil.test/api/", False),
        ("ams.example.org", "http://ams.example.org/api/", False),
    ],
)
def test_further_hosts_can_be_named(extra: str, location: str, allowed: bool) -> None:
    """An entry is exact, or `*.domain` for all below it; https is asked of these too."""
    if allowed:
        assert follow(location, extra=(extra,)) == location
    else:
        with pytest.raises(RefusedError):
            follow(location, extra=(extra,))


@pytest.mark.parametrize(
    ("configured", "location", "allowed"),
    [
        ("http://127.0.0.1:8765/api/", "http://127.0.0.1:9999/api/", True),
        ("http://127.0.0.1:8765/api/", "https://127.0.0.1:9999/api/", True),
        ("http://localhost:8765/api/", "http://localhost/api/", True),
        ("http://[::1]:8765/api/", "http://[::1]:9999/api/", True),
        ("http://127.0.0.1:8765/api/", "http://[::1]:9999/api/", False),
        ("http://127.0.0.1:8765/api/", "http://127.0.0.2:9999/api/", False),
        ("http://127.0.0.1:8765/api/", "http://127.0.0.1.evil.test/api/", False),
        ("http://127.0.0.1:8765/api/", "http://wamsxrest-hs.cloudapp.net/api/", False),
        ("https://127.0.0.1:8765/api/", "http://127.0.0.1:8765/v2/", False),
        ("http://ams.internal/api/", "http://ams.internal/v2/", False),
        ("http://ams.internal/api/", "https://ams.internal/v2/", True),
        ("https://ams.internal:8443/api/", "https://ams.internal:8443/v2/", True),
        ("https://ams.internal:8443/api/", "https://ams.internal:9443/v2/", False),
    ],
)
def test_plain_http_stays_on_loopback(configured: str, location: str, allowed: bool) -> None:
    """The connection's own scheme is enough on this machine only; elsewhere the token goes over https."""
    if allowed:
        assert follow(location, configured) == location
    else:
        with pytest.raises(RefusedError):
            follow(location, configured)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost.evil.test", False),
        ("127.0.0.1.evil.test", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("", False),
        (None, False),
    ],
)
def test_only_this_machine_is_loopback(host: str | None, loopback: bool) -> None:
    """Names that merely look like this machine are not it."""
    assert is_loopback(host) is loopback


HOSTS = [
    "media.windows.net",
    "wamsxrest-hs.cloudapp.net",
    "a.media.azure.net",
    "evil.test",
    "[::1]",
    "@",
    ":",
]
PART = st.sampled_from(
    [*HOSTS, "https://", "http://", "/", "\\", "?", "#", "%", ".", "[", "]", "443", "。", "\t"]
)


@given(st.lists(PART | st.characters(), max_size=8).map("".join))
@example("https://evil.test\\@media.windows.net/api/")
def test_no_location_leads_the_token_astray(location: str) -> None:
    """Whatever the header holds, it is refused, or it is a https address on one of the service's hosts."""
    try:
        base = follow(location)
    except RefusedError:
        return
    parts = urlsplit(base)
    assert parts.scheme == "https"
    assert parts.netloc == parts.hostname or parts.netloc == f"{parts.hostname}:{parts.port}"
    assert parts.hostname in ("media.windows.net", "wamsxrest-hs.cloudapp.net", "a.media.azure.net") or (
        str(parts.hostname).endswith((".media.azure.net", "rest-hs.cloudapp.net"))
    )
    assert base.endswith("/")
