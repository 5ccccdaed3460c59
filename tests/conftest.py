"""What all tests share: an Airflow home of their own, loopback only, a service that does as it is told."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

# Airflow reads these when it is imported, so they are set before any test module is.
_HOME = Path(tempfile.mkdtemp(prefix="airflow-ams-tests-"))
os.environ.update(
    AIRFLOW_HOME=str(_HOME),
    AIRFLOW__CORE__UNIT_TEST_MODE="True",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(_HOME / "dags"),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME}/airflow.db",
    AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS="False",
)
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
_BUNDLES = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"}
for _name in list(os.environ):
    if _name.lower() in _PROXIES or _name in _BUNDLES or _name.startswith("AIRFLOW_CONN_"):
        del os.environ[_name]

# A slow machine is no failure, and examples are not kept: tests leave nothing behind.
hypothesis.settings.register_profile("tests", deadline=None, database=None)
hypothesis.settings.load_profile("tests")
set_hypothesis_home_dir(_HOME / "hypothesis")

_LOOPBACK = ("127.", "::1", "localhost")


def pytest_configure(config: pytest.Config) -> None:
    """Load the emulator's fixture, unless the installed package has brought it already."""
    plugin = importlib.import_module("airflow_ams.emulator.pytest_plugin")
    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin)


def pytest_unconfigure() -> None:
    """Remove the Airflow home."""
    shutil.rmtree(_HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the folder that it is in."""
    for item in items:
        folder = item.path.parent.name
        if folder in ("unit", "integration", "system"):
            item.add_marker(getattr(pytest.mark, folder))


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach another machine."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK):
            raise OSError(f"tests reach no other machine: {address[0]}")
        connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(host, str) and not host.startswith(_LOOPBACK):
            raise socket.gaierror(socket.EAI_NONAME, f"tests reach no other machine: {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)


@pytest.fixture
def airflow_home() -> Path:
    """Return the tests' own Airflow home."""
    return _HOME


@dataclass
class Seen:
    """One request as it came over the wire; `target` is the request line's, unchanged."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The decoded path, without the query."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        """The decoded query."""
        return unquote(self.target.partition("?")[2])

    @property
    def form(self) -> dict[str, str]:
        """The body as a form."""
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}


@dataclass
class Reply:
    """What a test's service answers; `raw` replaces the whole answer, `cut` closes the socket without one."""

    status: int = 200
    document: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: bool = False


Answering = Callable[[Seen], Reply]


class Service:
    """A service that answers what a test says, for what the emulator is too well-behaved to do."""

    def __init__(self, answer: Answering) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body are two writes, between which the kernel would wait for 40 ms.
            disable_nagle_algorithm = True

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen = Seen(self.command, self.path, dict(self.headers.items()), body)
                service.seen.append(seen)
                reply = service.answer(seen)
                if reply.cut:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                content = reply.body if reply.body is not None else json.dumps(reply.document).encode()
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_MERGE = _any

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/"
        self.base_url = f"{self.url}api/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def service() -> Iterator[Callable[[Answering], Service]]:
    """Start services that answer as a function of the test says; all are stopped after it."""
    started: list[Service] = []

    def start(answer: Answering) -> Service:
        started.append(Service(answer))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def reply() -> type[Reply]:
    """Return what services answer with."""
    return Reply


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Define an Airflow connection for the test, and return its id."""

    def define(conn_id: str = "ams_test", /, **fields: Any) -> str:
        value = json.dumps({"conn_type": "ams", **fields})
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", value)
        return conn_id

    return define


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the transport try again at once."""
    import tenacity

    monkeypatch.setattr(tenacity, "wait_random_exponential", lambda **_: tenacity.wait_none())


@pytest.fixture(autouse=True)
def _own_tokens() -> Iterator[None]:
    """Let no test find another's token in the process's cache."""
    yield
    import sys

    if tokens := sys.modules.get("airflow_ams.api.tokens"):
        tokens.shared_tokens.cache_clear()
    if pace := sys.modules.get("airflow_ams.api.pace"):
        pace.shared_budget.cache_clear()
        pace.shared_reads_left.cache_clear()
