"""The roads that a request takes: redirects, proxies, TLS, and what may not take the token's place."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import requests
import trustme

from airflow_ams.api.errors import RefusedError, TransientError
from airflow_ams.api.retries import NO_RETRIES
from airflow_ams.api.wire import MAX_BODY
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.sensors.ams import AmsJobSensor

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

ID = "nb:jid:UUID:f3c43f94-327f-2347-90bb-3bf79f8559f1"
FOUND = {"value": [{"Id": ID, "Name": "x", "State": 3}]}


@pytest.fixture(scope="module")
def front() -> Iterator[Emulator]:
    """Run an emulator that has a front host, too."""
    from airflow_ams.emulator.process import Emulator

    with Emulator(front=True) as emulator:
        yield emulator


@pytest.fixture
def by_front(front: Emulator, connection: Callable[..., str]) -> str:
    """Define a connection that names the front host, as those of 2015 did."""
    front.reset()
    return connection(**{**front.connection, "host": front.front_url})


def test_the_front_host_is_left_after_one_redirect(front: Emulator, by_front: str) -> None:
    """The 301 is followed once per client, with the token; every later call goes to the cluster itself."""
    job_id = front.submit_scripted(states=[{"state": "Processing"}], canceling=10)
    front.clear_requests()
    with AmsHook(by_front) as hook:
        assert hook.get_conn().check()
        hook.get_job(job_id)
        hook.cancel_job(job_id)
        assert str(hook.get_job_state(job_id)) == "Canceling"
    assert front.front_url is not None
    host = urlsplit(front.front_url).netloc
    by_host = [(r["host"], r["status"]) for r in front.requests() if "OAuth" not in r["path"]]
    assert by_host[0] == (host, 301)
    assert len(by_host) == 5
    assert host not in [netloc for netloc, _ in by_host[1:]]


def test_a_create_follows_the_redirect_with_its_body(front: Emulator, by_front: str, tmp_path: Path) -> None:
    """Verb and body are carried along, and the links in it are of the new base."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x")
    asset_id = front.upload(clip)
    task = {
        "processor": "nb:mpid:UUID:5c819ed0-0000-4000-8000-a1f10a35c819",
        "configuration": "{}",
        "outputs": ["o"],
    }
    with AmsHook(by_front) as hook:
        job = hook.submit_job({"name": "Encode", "input_asset_ids": [asset_id], "tasks": [task]})
        assert [found.id for found in hook.iter_jobs()] == [job.id]


def test_a_sensor_waits_through_the_front_host(
    front: Emulator, by_front: str, wait: Callable[..., Any]
) -> None:
    """Nothing but the connection differs."""
    job_id = front.submit_scripted(states=["Finished"])
    assert wait(AmsJobSensor(task_id="wait", job_id=job_id, ams_conn_id=by_front))["id"] == job_id


def test_a_stranger_gets_no_token(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """A 301 to a host that is not the service's is an error that names both, and nothing is sent there."""
    stranger = service(lambda _: reply(document=FOUND))
    location = f"http://localhost:{stranger.port}/api/"
    here = service(lambda _: reply(status=301, headers={"Location": location}))
    with (
        AmsHook(connection(host=here.base_url, password="tok")) as hook,
        pytest.raises(RefusedError) as caught,
    ):
        hook.get_job(ID)
    assert "127.0.0.1" in str(caught.value)
    assert "localhost" in str(caught.value)
    assert "extra.redirect_hosts" in str(caught.value)
    assert stranger.seen == []


def test_a_named_host_gets_the_token(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """`extra.redirect_hosts` lets a host in, and the token is sent along by hand."""
    there = service(lambda _: reply(document=FOUND))
    location = f"http://localhost:{there.port}/api/"
    here = service(lambda _: reply(status=301, headers={"Location": location}))
    extra = {"redirect_hosts": "localhost"}
    with AmsHook(connection(host=here.base_url, password="tok", extra=extra)) as hook:
        assert hook.get_job(ID).id == ID
        hook.get_job(ID)
    assert [seen.headers["Authorization"] for seen in there.seen] == ["Bearer tok"] * 2
    assert [seen.path for seen in there.seen] == ["/api/Jobs()"] * 2
    assert len(here.seen) == 1


def test_a_redirect_to_itself_ends_at_once(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """A loop of one is one request."""
    bases: list[str] = []
    here = service(lambda _: reply(status=301, headers={"Location": bases[0]}))
    bases.append(here.base_url)
    with (
        AmsHook(connection(host=here.base_url, password="tok")) as hook,
        pytest.raises(RefusedError, match="itself"),
    ):
        hook.get_job(ID)
    assert len(here.seen) == 1


def test_a_circle_of_redirects_ends(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """At most three hops are followed."""
    paths = iter(range(100))
    bases: list[str] = []
    here = service(lambda _: reply(status=301, headers={"Location": f"{bases[0]}{next(paths)}/"}))
    bases.append(here.url)
    with (
        AmsHook(connection(host=here.base_url, password="tok")) as hook,
        pytest.raises(RefusedError, match="more than 3 times"),
    ):
        hook.get_job(ID)
    assert len(here.seen) == 4


def test_three_hops_are_followed(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """The third redirect still leads to the answer."""
    bases: list[str] = []

    def answer(seen: Any) -> Any:
        hop = {"/api/": "/1/", "/1/": "/2/", "/2/": "/3/"}.get(seen.path.removesuffix("Jobs()"))
        return reply(status=301, headers={"Location": bases[0] + hop}) if hop else reply(document=FOUND)

    here = service(answer)
    bases.append(here.url.rstrip("/"))
    with AmsHook(connection(host=here.base_url, password="tok")) as hook:
        assert hook.get_job(ID).id == ID


@pytest.mark.parametrize("location", [None, "", "/api/", "https://[broken", "nonsense"])
def test_a_redirect_to_nowhere_is_told(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str], location: str | None
) -> None:
    """A missing or broken Location is an error in a sentence."""
    headers = {} if location is None else {"Location": location}
    here = service(lambda _: reply(status=301, headers=headers))
    with (
        AmsHook(connection(host=here.base_url, password="tok")) as hook,
        pytest.raises(RefusedError, match="no usable address"),
    ):
        hook.get_job(ID)


def test_the_page_of_a_redirect_is_bounded(
    service: Callable[..., Any], reply: type[Any], connection: Callable[..., str]
) -> None:
    """The body of a 301 is held to the same limit as any other."""
    there = service(lambda _: reply(document=FOUND))
    page = b" " * (MAX_BODY + 1)
    here = service(lambda _: reply(status=301, headers={"Location": there.base_url}, body=page))
    with (
        AmsHook(connection(host=here.base_url, password="tok")) as hook,
        pytest.raises(TransientError, match="larger than"),
    ):
        hook.get_job(ID, retries=NO_RETRIES)
    assert there.seen == []


def test_netrc_does_not_take_the_tokens_place(
    service: Callable[..., Any],
    reply: type[Any],
    connection: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An entry for the host in .netrc changes neither the API's header nor the sign-in's."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    def answer(seen: Any) -> Any:
        if seen.method == "POST":
            return reply(document={"access_token": "tok", "expires_in": "3600"})
        return reply(document=FOUND)

    here = service(answer)
    assert requests.get(here.url, timeout=20).request.headers["Authorization"].startswith("Basic ")
    extra = {"token_url": f"{here.url}token"}
    with AmsHook(connection(host=here.base_url, login="a", password="key", extra=extra)) as hook:
        hook.get_job(ID)
    _, sign_in, call = here.seen
    assert "Authorization" not in sign_in.headers
    assert call.headers["Authorization"] == "Bearer tok"


class Proxy(BaseHTTPRequestHandler):
    """A tiny proxy: absolute-form requests and CONNECT tunnels, all led to one port of this machine."""

    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        """Tunnel."""
        server: Any = self.server
        server.seen.append(("CONNECT", self.path))
        with socket.create_connection(("127.0.0.1", server.leads_to), 20) as far:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: far, far: self.connection}
            while ready := select.select(list(ends), [], [], 20)[0]:
                for end in ready:
                    data = end.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    ends[end].sendall(data)

    def _forward(self) -> None:
        server: Any = self.server
        server.seen.append((self.command, self.path))
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = f"http://127.0.0.1:{server.leads_to}{parts.path}" + (f"?{parts.query}" if parts.query else "")
        session = requests.Session()
        session.trust_env = False
        answer = session.request(self.command, url, headers=dict(self.headers), data=body, timeout=20)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = _forward

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run a proxy, named in the environment; a test sets where it leads."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads, server.seen = True, []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_plain_http_goes_through_the_environments_proxy(
    ams_emulator: Emulator, connection: Callable[..., str], proxy: Any
) -> None:
    """API and sign-in both take it, to a host whose name only the proxy knows."""
    job_id = ams_emulator.submit_scripted(states=["Finished"])
    proxy.leads_to = urlsplit(ams_emulator.url).port
    extra = {"allow_http": True, "token_url": "http://ams.internal/v2/OAuth2-13"}
    fields = {**ams_emulator.connection, "host": "http://ams.internal/api/", "extra": extra}
    with AmsHook(connection(**fields)) as hook:
        assert hook.get_job(job_id).id == job_id
    assert [method for method, _ in proxy.seen] == ["POST", "GET"]
    assert all(target.startswith("http://ams.internal/") for _, target in proxy.seen)


def test_nothing_for_this_machine_goes_through_a_proxy(ams_emulator: Emulator, proxy: Any) -> None:
    """Plain http is allowed to this machine, so it must not lead over another that the environment names."""
    proxy.leads_to = urlsplit(ams_emulator.url).port
    with AmsHook() as hook:
        assert hook.test_connection()[0]
    assert proxy.seen == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a private certificate authority, and a certificate of it for this machine."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = ca.issue_cert("127.0.0.1", "localhost", "ams.internal")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    # The chain ends in the authority itself, which is what the emulator's handle trusts.
    for pem in (*certificate.cert_chain_pems, ca.cert_pem):
        pem.write_to_path(str(folder / "cert.pem"), append=True)
    return folder


@pytest.fixture(scope="module")
def secure(authority: Path) -> Iterator[Emulator]:
    """Run an emulator that speaks https."""
    from airflow_ams.emulator.process import Emulator

    with Emulator(ssl_certfile=authority / "cert.pem", ssl_keyfile=authority / "key.pem") as emulator:
        yield emulator


def fields(secure: Emulator, verify: Path | None) -> dict[str, Any]:
    """Make a connection to the https emulator with or without its authority."""
    extra = {"token_url": secure.token_url} | ({"verify": str(verify)} if verify else {})
    return {**secure.connection, "extra": extra}


def test_a_private_authority_is_trusted_by_extra_verify(
    secure: Emulator, authority: Path, connection: Callable[..., str]
) -> None:
    """The bundle counts for the API and for the sign-in."""
    with AmsHook(connection(**fields(secure, authority / "ca.pem"))) as hook:
        assert hook.test_connection()[0]


def test_an_untrusted_certificate_ends_the_wait_and_names_the_setting(
    secure: Emulator, connection: Callable[..., str]
) -> None:
    """Waiting does not cure it: the error says extra.verify, for the API and for the sign-in."""
    good, sentence = AmsHook(connection(**fields(secure, None))).test_connection()
    assert not good
    assert "extra.verify" in sentence
    with (
        AmsHook(connection(host=secure.base_url, password="tok")) as hook,
        pytest.raises(RefusedError, match=r"extra\.verify"),
    ):
        hook.get_job(ID)


def test_a_certificate_of_another_host_is_not_taken(
    secure: Emulator, authority: Path, connection: Callable[..., str]
) -> None:
    """The right authority is not enough: the name has to be right."""
    secure.clear_requests()
    host = secure.base_url.replace("127.0.0.1", "127.0.0.2")
    extra = {"verify": str(authority / "ca.pem")}
    with (
        AmsHook(connection(host=host, password="tok", extra=extra)) as hook,
        pytest.raises((RefusedError, TransientError)),
    ):
        hook.get_job(ID)
    assert secure.requests("^Jobs") == []


def test_https_goes_through_a_tunnel(
    secure: Emulator, authority: Path, connection: Callable[..., str], proxy: Any
) -> None:
    """The proxy sees a CONNECT and no more; the certificate is checked at the far end."""
    proxy.leads_to = urlsplit(secure.url).port
    extra = {"token_url": "https://ams.internal/v2/OAuth2-13", "verify": str(authority / "ca.pem")}
    named = {**secure.connection, "host": "https://ams.internal/api/", "extra": extra}
    good, sentence = AmsHook(connection(**named)).test_connection()
    assert good, sentence
    assert set(proxy.seen) == {("CONNECT", "ams.internal:443")}


class PlainAnswer(socketserver.BaseRequestHandler):
    """Answers in clear text where TLS is spoken."""

    def handle(self) -> None:
        """Say something that is no handshake."""
        self.request.recv(100)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_no_tls_at_the_other_end_is_told(connection: Callable[..., str], quick_retries: None) -> None:
    """A https base that is served in clear text is trouble, told with the host."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), PlainAnswer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        port = server.server_address[1]
        with (
            AmsHook(connection(host=f"https://127.0.0.1:{port}/api/", password="tok")) as hook,
            pytest.raises(TransientError, match=f"127.0.0.1:{port}"),
        ):
            hook.get_job(ID)
        server.shutdown()
        thread.join(5)
