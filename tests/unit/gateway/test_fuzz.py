"""Garbled requests against the gateway, thousands of them: it answers or hangs up, and goes on.

CAHOOTS_FUZZ_CASES says how many; each has its own seed, printed where one fails.
"""

import asyncio
import logging
import os
import random

import pytest

from cahoots_vllm.core.engine_routes import find_route

from .front import OK, Front, get, running
from .ollama.models import Models

_CASES = int(os.environ.get("CAHOOTS_FUZZ_CASES", "1500"))
_AT_ONCE = 50
_BODY = b'{"model":"a","messages":[{"role":"user","content":"x"}],"stream":true}'
_CHAT = b'{"model":"m","messages":[{"role":"user","content":"x","images":["A"]}],"think":true}'
_CHUNKED = b'Transfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n3\r\n:1}\r\n0\r\n\r\n'
_SEEDS = (
    get(),
    get("/v1/chat/completions", f"Content-Length: {len(_BODY)}", method="POST") + _BODY,
    get("/v1/messages", method="POST")[:-2] + _CHUNKED,
    get("/v1/realtime", "Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13").replace(b"close", b"Upgrade"),
    get("/api/chat", f"Content-Length: {len(_CHAT)}", method="POST") + _CHAT,
    get("/v1/api/generate", method="POST")[:-2] + _CHUNKED,
    get("/api/tags") + get("/", method="HEAD") + get("/api/pull", method="POST"),
    get("/health") + get("/ready") + get("/sleep", method="POST"),
    get("/v1/x", "Expect: 100-continue", "Content-Length: 3", method="PUT") + b"abc",
)  # fmt: skip
_PIECES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"//", b"/..", b"%2e%2e", b"%00", b"?", b"#",
    b"HTTP/1.0", b"HTTP/2", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"X-Request-Id: \r\n", b"Host: \xff\r\n",
    b"\xc3\x28", b"-1", b"99999999999999999999", b"ffffffffff\r\n", b"{" * 3000, b"x" * 70_000,
    b"GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n", b"/sleep", b"CONNECT", b"OPTIONS *",
)  # fmt: skip


def garbled(seed: int) -> bytes:
    """Return one of the requests with a few bytes changed, added, taken away or doubled."""
    chance = random.Random(seed)  # noqa: S311 (no secret)
    data = bytearray(chance.choice(_SEEDS))
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[place:place] = chance.choice(_PIECES)
            case 1:
                del data[place : place + chance.randint(1, 12)]
            case 2 if place < len(data):
                data[place] = chance.randrange(256)
            case 3:
                data[place:place] = data[: chance.randint(0, 40)]
            case _:
                data += chance.choice(_SEEDS)
    return bytes(data)


async def throw(front: Front, seed: int) -> None:
    """Send one, in two parts at times, and read what comes until it hangs up or is silent."""
    chance, data = random.Random(-seed), garbled(seed)  # noqa: S311 (no secret)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    cut = chance.randrange(len(data) + 1) if seed % 3 == 0 else len(data)
    try:
        writer.write(data[:cut])
        await asyncio.sleep(0)
        writer.write(data[cut:])
        async with asyncio.timeout(0.3):
            answer = await reader.read()
    except (TimeoutError, ConnectionError):
        return
    finally:
        writer.close()
    assert answer == b"" or answer.startswith(b"HTTP/"), (seed, answer[:80])


@pytest.mark.timeout(600)
async def test_garbled_requests_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with running(catalog=Models(), hold_max=50) as front:
        for begin in range(0, _CASES, _AT_ONCE):
            seeds = range(begin, min(begin + _AT_ONCE, _CASES))
            await asyncio.gather(*(throw(front, seed) for seed in seeds))
        assert (await front.send(get())).endswith(b"ok")
        async with asyncio.timeout(5):
            while front.rotation.running:  # noqa: ASYNC110 (nothing tells us but asking)
                await asyncio.sleep(0.01)
        lines = [head.split(b"\r\n")[0].split(b" ") for head in front.upstream.heads]
        assert front.upstream.answer == OK
    reached = {line[1].decode("utf-8", "surrogateescape") for line in lines}
    assert len(reached) > 3, "nothing got through: it tests nothing"
    assert not [path for path in reached if find_route(path) is None]
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
