"""WebSockets through the gateway, both ends real."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.server import GatewayServer

from .front import Given


async def _speak(request: web.Request) -> web.WebSocketResponse:
    """Echo, as the engine's side; "bye" is answered by closing."""
    own = web.WebSocketResponse(protocols=("realtime",))
    await own.prepare(request)
    async for message in own:
        if message.type is aiohttp.WSMsgType.BINARY:
            await own.send_bytes(message.data)
        elif message.data == "bye":
            await own.close(code=4001)
        else:
            await own.send_str(f"{request.path_qs}: {message.data}")
    return own


@asynccontextmanager
async def speaking(directory: Path) -> AsyncIterator[tuple[str, Rotation]]:
    app = web.Application()
    app.router.add_get("/v1/realtime", _speak)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    uds = directory / "worker-1.sock"
    await web.UnixSite(runner, str(uds)).start()
    listener = socket.create_server(("127.0.0.1", 0))
    rotation = Rotation()
    gateway = GatewayServer(rotation, GatewaySettings(), Given(listener))
    await gateway.start()
    rotation.admit(1, uds)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", rotation
    await rotation.retire(1)
    await gateway.stop()
    await runner.cleanup()


async def test_messages_pass_both_ways_and_the_engines_code_closes(tmp_path: Path) -> None:
    async with speaking(tmp_path) as (url, _), aiohttp.ClientSession() as session:
        target = f"{url}/v1/realtime?model=a"
        async with session.ws_connect(target, protocols=("realtime",)) as own:
            assert own.protocol == "realtime"
            await own.send_str("hello")
            assert await own.receive_str() == "/v1/realtime?model=a: hello"
            await own.send_bytes(b"\0" * 100_000)
            assert len(await own.receive_bytes()) == 100_000
            await own.send_str("bye")
            assert (await own.receive()).data == 4001


async def test_refusal_is_the_engines_own(tmp_path: Path) -> None:
    async with speaking(tmp_path) as (url, _), aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{url}/v1/other")
        assert refused.value.status == 404


async def test_worker_that_is_retired_closes_with_service_restart(tmp_path: Path) -> None:
    async with (
        speaking(tmp_path) as (url, rotation),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/v1/realtime") as own,
    ):
        await own.send_str("hello")
        await own.receive_str()
        assert rotation.running == 1
        await rotation.retire(1)
        assert (await own.receive()).data == aiohttp.WSCloseCode.SERVICE_RESTART


async def test_client_that_hangs_up_leaves_the_engine(tmp_path: Path) -> None:
    async with speaking(tmp_path) as (url, rotation), aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{url}/v1/realtime") as own:
            await own.send_str("hello")
            await own.receive_str()
        async with asyncio.timeout(5):
            while rotation.running:  # noqa: ASYNC110 (nothing tells us but asking)
                await asyncio.sleep(0.01)
