"""Sends a load of streamed completions, so many at a time, and notes when tokens arrive.

A bare asyncio protocol: a client library would cost as much CPU as the small model it measures.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from cahoots_vllm.core.bench.answer import StreamReader
from cahoots_vllm.core.bench.figures import Sample

_REQUEST_DEADLINE_S: Final = 600.0
_CONNECT_DEADLINE_S: Final = 10.0


class Route(NamedTuple):
    """A way to the engine: a Unix socket, or host and port; `prefix` stands for `/v1`."""

    name: str
    address: str | tuple[str, int]
    prefix: str = "/v1"
    key: str | None = None


class Prompt(NamedTuple):
    """One request: a prompt and how many tokens are to answer it."""

    text: str
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Outcome:
    """What came of a load, also when it is broken off."""

    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    duration_s: float = 0.0


def build_request(route: Route, model: str, prompt: Prompt) -> bytes:
    """Return the request that `vllm bench serve --ignore-eos` sends; that makes its length exact.

    No `min_tokens` beside it: theirs has none, and the engine masks tokens for it in each step.
    """
    body = json.dumps(
        {
            "model": model, "prompt": prompt.text, "repetition_penalty": 1.0,
            "max_tokens": prompt.output_tokens,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }
    ).encode()  # fmt: skip
    key = f"Authorization: Bearer {route.key}\r\n" if route.key else ""
    head = (
        f"POST {route.prefix}/completions HTTP/1.1\r\nHost: localhost\r\n{key}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def send(
    route: Route,
    model: str,
    prompts: Sequence[Prompt],
    concurrency: int,
    *,
    outcome: Outcome,
    on_answer: Callable[[], None],
) -> None:
    """Send all prompts and fill `outcome`; `on_answer` is told of each answer.

    Raises OSError when nobody listens.
    """
    turns = iter([(prompt, build_request(route, model, prompt)) for prompt in prompts])
    streams = [_Stream(route, outcome, on_answer) for _ in range(min(concurrency, len(prompts)))]
    try:
        for stream in streams:
            await stream.connect()
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number, stream in enumerate(streams):
                tasks.create_task(stream.run(turns), name=f"stream-{number}")
        outcome.duration_s = time.perf_counter() - begun
    finally:
        for stream in streams:
            stream.close()


class _Stream:
    """One of the streams: asks on one connection as long as there is something to ask."""

    def __init__(self, route: Route, outcome: Outcome, on_answer: Callable[[], None]) -> None:
        self._route, self._outcome, self._on_answer = route, outcome, on_answer
        self._connection: _Connection | None = None

    async def connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        address = self._route.address
        async with asyncio.timeout(_CONNECT_DEADLINE_S):
            if isinstance(address, str):
                made = await loop.create_unix_connection(_Connection, address)
            else:
                made = await loop.create_connection(partial(_Connection), *address)
        self._connection = made[1]
        return made[1]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def run(self, turns: Iterator[tuple[Prompt, bytes]]) -> None:
        for prompt, request in turns:
            connection = self._connection
            try:
                if connection is None or connection.is_closed:
                    connection = await self.connect()
                async with asyncio.timeout(_REQUEST_DEADLINE_S):
                    sample = await connection.ask(request)
                _check_length(prompt, sample)
                self._outcome.samples.append(sample)
            except (OSError, ValueError) as error:
                self._outcome.failures.append(str(error) or "no answer in time")
                self.close()
                self._connection = None
            self._on_answer()


def _check_length(prompt: Prompt, sample: Sample) -> None:
    if sample.output_tokens != prompt.output_tokens:
        wanted = prompt.output_tokens
        message = f"the answer has {sample.output_tokens} tokens where {wanted} were asked for"
        raise ValueError(message)


class _Connection(asyncio.Protocol):
    """A kept-alive connection with one request at a time."""

    def __init__(self) -> None:
        self.is_closed = False
        self._transport: asyncio.Transport | None = None
        self._reader = StreamReader()
        self._answer: asyncio.Future[Sample] | None = None
        self._asked_at = self._last_at = 0.0
        self._first_s: float | None = None
        self._gaps: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    async def ask(self, request: bytes) -> Sample:
        """Send a request. Raises ValueError when it is not answered by tokens."""
        if self._transport is None:
            message = "not connected"
            raise ConnectionError(message)
        self._answer = asyncio.get_running_loop().create_future()
        self._reader, self._first_s, self._gaps = StreamReader(), None, []
        self._asked_at = time.perf_counter()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            count = self._reader.feed(data)
        except ValueError as error:
            self._fail(f"cannot understand the answer: {error}")
            return
        if count and self._first_s is None:
            self._first_s, self._last_at, count = now - self._asked_at, now, count - 1
        if count:
            # Events that arrive together: the first one's gap is the wait, the others' is none.
            self._gaps += [now - self._last_at, *[0.0] * (count - 1)]
            self._last_at = now
        if self._reader.is_done:
            self._settle()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        self._reader.end()
        self._fail(str(error) if error else self._reader.problem or "the connection ended")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _settle(self) -> None:
        if self._reader.problem or self._first_s is None:
            self._fail(self._reader.problem or "the answer holds no token")
            return
        if not self._reader.is_kept_alive:
            self.is_closed = True
        if self._answer is not None and not self._answer.done():
            sample = Sample(
                first_s=self._first_s,
                latency_s=self._last_at - self._asked_at,
                gaps_s=tuple(self._gaps),
                input_tokens=self._reader.input_tokens,
                output_tokens=self._reader.output_tokens,
            )
            self._answer.set_result(sample)

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ValueError(reason))
