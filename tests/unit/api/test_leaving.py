"""The control API lets go of its socket for the next daemon."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from cahoots_vllm.api.access import Access
from cahoots_vllm.api.routes import Route
from cahoots_vllm.api.server import ApiServer
from cahoots_vllm.host.sockets import listen_unix

_ASK = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass
class Control:
    """The server, its path, and what it is being asked for."""

    server: ApiServer
    path: str
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        return client


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """Who keeps it is the next daemon."""
    with listen_unix(tmp_path / "control.sock", mode=0o600, group=None) as listener:
        yield listener


async def running(listener: socket.socket, answer_after_s: float = 0.0) -> Control:
    async def answer(_request: web.Request) -> web.Response:
        control.is_asked.set()
        await asyncio.sleep(answer_after_s)
        return web.Response(text="ok")

    routes = (Route("GET", "/v1/status", Access.LOOK, answer, "Status"),)
    control = Control(ApiServer(routes, listener.dup()), listener.getsockname())
    await control.server.start()
    return control


async def leave(control: Control, client: socket.socket) -> tuple[bytes | None, bytes | None]:
    """Return what the client was sent before the server stopped, and by then; None: nothing."""
    with client:
        await control.server.leave()
        left = received(client)
        await control.server.stop()
        return left, left or received(client)


def received(client: socket.socket) -> bytes | None:
    client.setblocking(False)  # noqa: FBT003 (its only parameter)
    try:
        return client.recv(65_536)
    except BlockingIOError:
        return None


@pytest.mark.parametrize("turns", range(8))
async def test_client_that_connects_as_the_server_leaves_is_answered_or_waits(
    listener: socket.socket, turns: int
) -> None:
    control = await running(listener)
    client = control.connect()
    client.sendall(_ASK)
    for _ in range(turns):
        await asyncio.sleep(0)
    _, answer = await leave(control, client)
    assert answer is None or answer.endswith(b"ok")  # None: it waits for the next daemon


async def test_client_that_has_not_asked_yet_is_answered(listener: socket.socket) -> None:
    control = await running(listener)
    client = control.connect()
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.02)
    loop.call_later(0.2, client.sendall, _ASK)
    answer, _ = await leave(control, client)
    assert answer is not None
    assert answer.endswith(b"ok")


async def test_request_under_way_is_answered(listener: socket.socket) -> None:
    control = await running(listener, answer_after_s=0.7)
    client = control.connect()
    client.sendall(_ASK)
    await control.is_asked.wait()
    answer, _ = await leave(control, client)
    assert answer is not None
    assert answer.endswith(b"ok")


async def test_request_that_takes_long_does_not_hold_up_the_end(listener: socket.socket) -> None:
    control = await running(listener, answer_after_s=60)
    client = control.connect()
    client.sendall(_ASK)
    await control.is_asked.wait()
    async with asyncio.timeout(4):
        before, by_then = await leave(control, client)
    assert (before, by_then) == (None, b"")
