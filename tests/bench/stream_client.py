"""A client of streaming chats that costs far less than what it measures: it parses nothing.

It looks for the first `data:` of an answer (time to first token), counts them, and knows an
answer's end by the last HTTP chunk.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

# A path is a Unix socket, a number a port on 127.0.0.1.
Address = str | int
_MARK: Final = b"data:"
_END: Final = b"0\r\n\r\n"
_DEADLINE_S: Final = 300.0


@dataclass
class Sample:
    """What was seen of some requests; times in seconds. `events` without the last, `[DONE]`."""

    first_s: list[float] = field(default_factory=list)
    events: int = 0
    wall_s: float = 0.0
    failures: int = 0
    proxy_cpu_s: float = 0.0


def chat_request(model: str, tokens: int) -> bytes:
    """Return a streaming chat for so many tokens."""
    message = {"role": "user", "content": "Tell me a long story about a proxy."}
    body = json.dumps(
        {
            "model": model, "messages": [message], "stream": True, "max_tokens": tokens,
            "ignore_eos": True, "temperature": 0,
        }
    ).encode()  # fmt: skip
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body


class _Chat(asyncio.Protocol):
    """One kept-alive connection: asks as long as there is something to ask."""

    def __init__(self, requests: Iterator[bytes], sample: Sample) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._time = asyncio.get_running_loop().time
        self._requests, self._sample = requests, sample
        self._transport: asyncio.Transport | None = None
        self._asked_at = 0.0
        self._has_first = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self) -> None:
        """Send the next request, or end."""
        assert self._transport is not None
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            return
        self._has_first, self._tail = False, b""
        self._asked_at = self._time()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        self._sample.events += seen.count(_MARK)
        if not self._has_first and _MARK in seen:
            self._has_first = True
            self._sample.first_s.append(self._time() - self._asked_at)
        self._tail = seen[-(len(_MARK) - 1) :]
        if seen.endswith(_END):
            self._sample.failures += not self._has_first
            self._sample.events -= 1  # [DONE]
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._sample.failures += error is not None
        if not self.done.done():
            self.done.set_result(None)


async def measure(
    address: Address, requests: Sequence[bytes], concurrency: int, stagger_s: float = 0.0
) -> Sample:
    """Send all requests, so many at a time, and return what was seen.

    `stagger_s`: from the first request of one connection to that of the next.
    """
    loop = asyncio.get_running_loop()
    sample = Sample()
    turns = iter(requests)

    def chat() -> _Chat:
        return _Chat(turns, sample)

    chats = []
    for _ in range(concurrency):
        if isinstance(address, str):
            _, made = await loop.create_unix_connection(chat, address)
        else:
            _, made = await loop.create_connection(chat, "127.0.0.1", address)
        chats.append(made)
    begun = loop.time()
    for number, each in enumerate(chats):
        loop.call_later(number * stagger_s, each.ask)
    async with asyncio.timeout(_DEADLINE_S):
        await asyncio.gather(*(each.done for each in chats))
    sample.wall_s = loop.time() - begun
    return sample
