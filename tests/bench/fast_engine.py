"""An engine that costs next to nothing: streaming chats of ready-made events, to measure proxies.

    python tests/bench/fast_engine.py --uds PATH [--first-ms 20 --step-ms 10] [--burst N]

Without `--step-ms` events go out as fast as the reader takes them; with it each open stream gets
one event a step, as vLLM does it. One HTTP chunk an event of 225 bytes (VLLM.md, 6). Prints the TCP
port it listens on as well: what a client sees without any proxy.
"""

import argparse
import asyncio
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

EVENT_BYTES: Final = 225
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_MODELS: Final = b'{"object":"list","data":[{"id":"fast","object":"model","owned_by":"vllm"}]}'
_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MAX_TOKENS: Final = re.compile(rb'"max_tokens": *(\d+)')


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event() -> bytes:
    begin = (
        b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk",'
        b'"created":1700000000,"model":"fast","choices":[{"index":0,"delta":{"content":" '
    )
    end = b'"},"logprobs":null,"finish_reason":null}]}\n\n'
    return begin + b"x" * (EVENT_BYTES - len(begin) - len(end)) + end


_EVENT: Final = _chunk(_event())
_LAST: Final = (
    _chunk(
        b'data: {"id":"chatcmpl-0123456789abcdef","choices":[],"usage":{"prompt_tokens":9,'
        b'"completion_tokens":1,"total_tokens":10}}\n\n'
    )
    + _chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


@dataclass
class Pace:
    """How fast tokens come; `step_s` 0: as fast as they are taken."""

    first_s: float
    step_s: float
    burst: int
    streams: set["Connection"] = field(default_factory=set)

    async def run(self) -> None:
        """Give every open stream its token, step by step."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self.step_s, loop.time())
            await asyncio.sleep(due - loop.time())
            for stream in list(self.streams):
                stream.send_one()


class Connection(asyncio.Protocol):
    """One client: requests one after the other."""

    def __init__(self, pace: Pace) -> None:
        """`pace` is shared by all."""
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._left = 0
        self._is_paused = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        """Stop."""
        self._left = 0
        self._transport = None
        self._pace.streams.discard(self)

    def pause_writing(self) -> None:
        """Wait for a slow reader."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        if not self._pace.step_s:
            self._pump()

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is whole."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            self._received = b""
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if head.startswith(b"GET"):
            form = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            self._transport.write(form % len(_MODELS) + _MODELS)
            return
        found = _MAX_TOKENS.search(body)
        self._left = int(found[1]) if found else 16
        self._transport.write(_HEAD)
        self._loop.call_later(self._pace.first_s, self._begin)

    def _begin(self) -> None:
        if self._pace.step_s:
            self._pace.streams.add(self)
            self.send_one()
        else:
            self._pump()

    def send_one(self) -> None:
        """Send one event, and the end after the last."""
        if self._transport is not None and self._left and not self._is_paused:
            self._left -= 1
            self._transport.write(_EVENT)
            if not self._left:
                self._pace.streams.discard(self)
                self._transport.write(_LAST)

    def _pump(self) -> None:
        if self._transport is None or self._is_paused or not self._left:
            return
        count = min(self._left, self._pace.burst)
        self._left -= count
        self._transport.write(_EVENT * count)
        if self._left:
            self._loop.call_soon(self._pump)  # the other streams have their turn
        else:
            self._transport.write(_LAST)


async def _serve(uds: Path, pace: Pace) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(lambda: Connection(pace), uds, backlog=2048)
    tcp = await loop.create_server(lambda: Connection(pace), "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"{tcp.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await (pace.run() if pace.step_s else asyncio.Event().wait())


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--first-ms", type=float, default=0.0, help="delay of the first token")
    parser.add_argument("--step-ms", type=float, default=0.0, help="time between tokens")
    parser.add_argument("--burst", type=int, default=1, help="events written at once")
    asked = parser.parse_args()
    pace = Pace(asked.first_ms / 1000, asked.step_ms / 1000, asked.burst)
    asyncio.run(_serve(asked.uds, pace))


if __name__ == "__main__":
    main()
