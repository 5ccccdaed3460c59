"""A few threads that speak to one service, for whoever must not wait for it: an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_ams.api.errors import RefusedError, TransientError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_ams.api import MediaService

POLLING = 6
CANCELING = 2
"""Threads of a watch. More would be no faster on one interpreter, and keep the event loop from its turns."""

_T = TypeVar("_T")


class ServicePool:
    """A few threads, each of which has a conversation of its own with the service of one connection.

    :param conn_id: the connection; it is read on the event loop, once, when it is first needed
    :param threads: how many
    """

    def __init__(self, conn_id: str, threads: int) -> None:
        self._conn_id = conn_id
        self._connection: Connection | None = None
        self._reading = asyncio.Lock()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"ams-{conn_id}")
        self._guard = threading.Lock()
        self._idle: list[MediaService] = []
        self._generation = 0
        self.requests = 0

    async def call(self, function: Callable[[MediaService], _T]) -> _T:
        """Return what a function makes of the service, in a thread.

        :raises RefusedError: there is no such connection, or one that names no service
        """
        connection, generation = await self._read(), self._generation
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run, function, connection, generation)

    async def renew(self) -> bool:
        """Read the connection anew; return whether it has changed."""
        # What is refused from now on, to those who have not read it anew, says nothing.
        self._drop_idle()
        async with self._reading:
            before, self._connection = self._connection, await self._look_up()
        return before is None or _essence(self._connection) != _essence(before)

    def close(self) -> None:
        """Let go of threads and sessions; a request that is still on its way does so when it is answered."""
        self._drop_idle()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self) -> Connection:
        async with self._reading:
            if self._connection is None:
                self._connection = await self._look_up()
            return self._connection

    async def _look_up(self) -> Connection:
        try:
            return await get_async_connection(self._conn_id)
        except AirflowNotFoundException as exc:
            raise RefusedError(str(exc)) from exc

    def _run(self, function: Callable[[MediaService], _T], connection: Connection, generation: int) -> _T:
        with self._guard:
            service = self._idle.pop() if self._idle and generation == self._generation else None
        service = service or self._connect(connection)
        before = service.requests
        try:
            return function(service)
        except RefusedError as exc:
            if generation != self._generation:
                raise TransientError(f"The connection was changed meanwhile. {exc.message}") from exc
            raise
        finally:
            with self._guard:
                self.requests += service.requests - before
                is_current = generation == self._generation
                if is_current:
                    self._idle.append(service)
            if not is_current:
                service.close()

    def _connect(self, connection: Connection) -> MediaService:
        # Here and not above, since it imports requests, which would hold up the event loop.
        from airflow_ams.hooks.connection import open_service

        return open_service(connection, self._conn_id)

    def _drop_idle(self) -> None:
        with self._guard:
            self._generation += 1
            idle, self._idle = self._idle, []
        for service in idle:
            service.close()


def _essence(connection: Connection) -> tuple[object, ...]:
    return (
        connection.host,
        connection.port,
        connection.schema,
        connection.login,
        connection.password,
        connection.extra,
    )
