"""Running the emulator: its sockets, its signals, and what it prints."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import shlex
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvicorn

from airflow_ams.emulator.app import create_app
from airflow_ams.emulator.connections import connections
from airflow_ams.emulator.injection import OpenProtocol
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.settings import Settings
from airflow_ams.emulator.tokens import PERSONAL_LIFETIME

CONNECTION_VARIABLE = "AIRFLOW_CONN_AMS_DEFAULT"
FRONT_LINE = "Front host: "


def connection(service: Service, root: str) -> dict[str, Any]:
    """Return the Airflow connection of the first account, for the dialect that the settings name.

    :param service: has the account, and gives a token for it.
    :param root: the emulator's URL.
    """
    settings = service.settings
    account, key = next(iter(settings.accounts.items()))
    token = service.tokens.issue_personal(account, None, PERSONAL_LIFETIME)
    certificate = str(settings.ssl_certfile.resolve()) if settings.ssl_certfile else None
    return connections(root, account, key, token, certificate)[settings.api]


def run(settings: Settings, *, until_stdin_closes: bool = False) -> None:
    """Serve until SIGINT or SIGTERM.

    :param settings: what to serve.
    :param until_stdin_closes: also stop when standard input ends, that is, when a parent process has died.
    :raises OSError: a port or the data folder is taken.
    :raises InvalidRequest: the file of fault rules is not good.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    with ExitStack() as stack:
        back = stack.enter_context(_listen(settings.host, settings.port))
        sockets, front_port = [back], None
        if settings.front_port is not None:
            sockets.append(stack.enter_context(_listen(settings.host, settings.front_port)))
            front_port = sockets[1].getsockname()[1]
        port = back.getsockname()[1]
        service = Service(settings, _folder(settings, stack))
        app = create_app(service, port=port, front_port=front_port)
        config = uvicorn.Config(
            app,
            http=OpenProtocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        )
        server = _Server(config, service, until_stdin_closes=until_stdin_closes)
        # uvicorn stops on these and then raises them again for the handlers from before.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server.run(sockets)


class _Server(uvicorn.Server):
    """uvicorn, which tells when it takes requests."""

    def __init__(self, config: uvicorn.Config, service: Service, *, until_stdin_closes: bool) -> None:
        super().__init__(config)
        self._service = service
        self._until_stdin_closes = until_stdin_closes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._until_stdin_closes:
            asyncio.get_running_loop().add_reader(sys.stdin, self._parent_gone)
        roots = [self._root(one.getsockname()[1]) for one in sockets or []]
        document = json.dumps(connection(self._service, roots[0]))
        sys.stdout.write(f"{CONNECTION_VARIABLE}={shlex.quote(document)}\n")
        for front in roots[1:]:
            sys.stdout.write(f"{FRONT_LINE}{front}api/\n")
        sys.stdout.flush()

    def _parent_gone(self) -> None:
        if not sys.stdin.buffer.read1(1):  # type: ignore[union-attr]
            asyncio.get_running_loop().remove_reader(sys.stdin)
            self.should_exit = True

    def _root(self, port: int) -> str:
        host = self._service.settings.host
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"{self._service.settings.scheme}://{host}:{port}/"


def _folder(settings: Settings, stack: ExitStack) -> Path:
    """Return the folder of the service's files; a temporary one goes when *stack* does."""
    if settings.data is None:
        temporary = tempfile.TemporaryDirectory(prefix="airflow-ams-emulator-", ignore_cleanup_errors=True)
        return Path(stack.enter_context(temporary))
    settings.data.mkdir(parents=True, exist_ok=True)
    # The lock goes when the process does, however it ends; the file stays.
    lock = stack.enter_context((settings.data / "emulator.lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(f"Another emulator is running on the data folder {settings.data}.") from None
    return settings.data


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol asyncio leaves Nagle's algorithm on, and each answer takes 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise OSError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
    return listener
