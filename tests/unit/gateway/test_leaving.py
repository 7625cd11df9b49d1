"""The gateway lets go of its addresses for the next daemon."""

import asyncio
import socket

import pytest

from .front import get, running


@pytest.mark.parametrize("turns", range(8))
async def test_client_that_connects_as_the_gateway_leaves_is_answered_or_waits(turns: int) -> None:
    async with running() as front:
        client = socket.create_connection(("127.0.0.1", front.port))
        client.sendall(get())
        for _ in range(turns):
            await asyncio.sleep(0)
        await front.gateway.leave(5)
        await front.gateway.stop()
        client.setblocking(False)  # noqa: FBT003 (its only parameter)
        try:
            answer = client.recv(65_536)
        except BlockingIOError:
            pass  # in the listening socket's queue, for the next daemon
        else:
            assert answer.endswith(b"ok")
        finally:
            client.close()
