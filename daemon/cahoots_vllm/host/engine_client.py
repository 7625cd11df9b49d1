"""Requests to the engine over its Unix socket, for the gateway alone.

aiohttp's own client takes 0.2 ms of CPU for a request and wakes a task for each part of its answer,
which every client would feel (tests/bench/README.md).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cahoots_vllm.host.engine_answer import Answer
from cahoots_vllm.host.engine_connection import Body, Connection, Head

# Below uvicorn's 5 s: the engine must not close a connection we are about to use.
_IDLE_S: Final = 3.0
# A busy engine accepts connections late; more than wait there are tried again after this.
_FULL_S: Final = 0.05


class UnreachableError(ConnectionError):
    """Nobody answers at the engine's socket: nothing was sent."""


class EngineClient:
    """The connections to one engine; as many as there are requests, kept a while afterwards."""

    def __init__(self, uds: Path) -> None:
        """Nothing is connected before a request."""
        self.is_closed = False
        self._uds = str(uds)
        self._idle: list[Connection] = []
        self._sweep: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def request(self, head: Head, body: Body) -> AsyncIterator[Answer]:
        """Send a request; the answer's body ends with the context, read or not.

        An answer that was not read to its end closes its connection: the engine stops at once.

        Raises UnreachableError, BrokenOffError, and what `body` raises.
        """
        connection = self._reuse() or await self._connect()
        try:
            yield await connection.ask(head, body)
        finally:
            self._give_back(connection)

    def _reuse(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        while not self.is_closed:
            try:
                transport, connection = await loop.create_unix_connection(Connection, self._uds)
            except OSError as error:
                what = f"cannot connect: {error.strerror or error}"
                raise UnreachableError(what) from error
            if transport.get_extra_info("peername") is not None:
                return connection
            # As many wait as may (connect(2): EAGAIN); asyncio takes that for a connection.
            connection.abort()
            await asyncio.sleep(_FULL_S)
        what = "the worker is retired"
        raise UnreachableError(what)

    def _give_back(self, connection: Connection) -> None:
        if self.is_closed or not connection.is_reusable:
            connection.abort()
            return
        connection.rest()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_IDLE_S, self._close_idle)

    def _close_idle(self) -> None:
        """Close what nobody has used for a while; the longest unused come first."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since + _IDLE_S <= loop.time():
            self._idle.pop(0).abort()
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].idle_since + _IDLE_S, self._close_idle)

    def close(self) -> None:
        """Close the connections that are not in use; the others with their requests."""
        self.is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop().abort()
