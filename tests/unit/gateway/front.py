"""The gateway in front of an upstream that plays a worker and writes down what it gets."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.ollama.catalog import Catalog
from cahoots_vllm.gateway.record import Record
from cahoots_vllm.gateway.server import GatewayServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# Within an answer: what follows comes in a packet of its own.
PAUSE = b"<pause>"
_DEFAULTS = GatewaySettings()


@dataclass
class Given:
    """Has one listening socket to give, and keeps it open: a server closes its own."""

    listener: socket.socket

    def gateway(self, _hosts: tuple[str, ...], _port: int) -> list[socket.socket]:
        return [self.listener.dup()]

    def retire(self) -> None:
        return


@dataclass
class Upstream:
    """A worker's socket; `answer` is sent once a request is there, after so many hang-ups.

    `answer_to` is asked instead, with the request's body; empty: it says nothing and hangs up.
    """

    uds: Path
    answer: bytes = OK
    answer_to: Callable[[bytes], bytes] | None = None
    hang_ups: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                body = b""
                length = [h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")]
                if length:
                    body = await reader.readexactly(int(length[0].split(b":")[1]))
                    self.bodies.append(body)
                if self.hang_ups:
                    self.hang_ups -= 1
                    break
                answer = self.answer if self.answer_to is None else self.answer_to(body)
                if self.answer_to is not None and not answer:
                    break
                for part in answer.split(PAUSE):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.02 if PAUSE in answer else 0)
                if b"Connection: close" in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the gateway hung up
        finally:
            writer.close()


@dataclass
class Front:
    """The gateway on a free port, or on a Unix socket."""

    address: int | str
    gateway: GatewayServer
    rotation: Rotation
    upstream: Upstream
    records: list[Record]
    generation: int = 1
    successions: list[asyncio.Future[None]] = field(default_factory=list)

    def die(self) -> None:
        """Play the worker's death, and its successor on the same socket a moment later."""
        dead, self.generation = self.generation, self.generation + 1
        self.rotation.lose(dead)

        async def succeed() -> None:
            await asyncio.sleep(0.05)
            await self.rotation.retire(dead)
            self.rotation.admit(dead + 1, self.upstream.uds)

        self.successions.append(asyncio.ensure_future(succeed()))

    async def post(self, body: bytes, path: str = "/v1/chat/completions") -> bytes:
        """Send a request with a JSON body and return the whole answer."""
        return await self.send(get(path, f"Content-Length: {len(body)}", method="POST") + body)

    @property
    def port(self) -> int:
        assert isinstance(self.address, int)
        return self.address

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.address, str):
            return await asyncio.open_unix_connection(self.address)
        return await asyncio.open_connection("127.0.0.1", self.address)

    async def send(self, request: bytes) -> bytes:
        """Send raw bytes and return everything up to the end of the connection."""
        reader, writer = await self.connect()
        writer.write(request)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        return answer


def _listener(path: str | None) -> socket.socket:
    if path is None:
        return socket.create_server(("127.0.0.1", 0))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.setblocking(False)  # noqa: FBT003 (its only parameter)
    return listener


@asynccontextmanager
async def running(
    settings: GatewaySettings = _DEFAULTS,
    *,
    is_unix: bool = False,
    catalog: Catalog | None = None,
    **changes: float,
) -> AsyncIterator[Front]:
    """Run it; with a catalog it speaks Ollama's API, too."""
    with tempfile.TemporaryDirectory(prefix="cahoots-") as directory:
        upstream = Upstream(Path(directory) / "worker-1.sock")
        listener = _listener(f"{directory}/gateway.sock" if is_unix else None)
        rotation = Rotation()
        records: list[Record] = []
        gateway = GatewayServer(
            rotation,
            replace(settings, **changes),  # type: ignore[arg-type] # their types are the test's
            Given(listener),
            (records.append,),
        )
        if catalog is not None:
            gateway.speak_ollama(catalog)
        await gateway.start()
        server = await asyncio.start_unix_server(upstream.serve, upstream.uds)
        rotation.admit(1, upstream.uds)
        name = listener.getsockname()
        address = name if is_unix else name[1]
        front = Front(address, gateway, rotation, upstream, records)
        yield front
        await asyncio.gather(*front.successions)
        await rotation.retire(front.generation)
        await gateway.stop()
        listener.close()
        server.close()
        await server.wait_closed()


def get(path: str = "/v1/models", *headers: str, method: str = "GET") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost:8001", "Connection: close", *headers)
    return "\r\n".join((*lines, "", "")).encode()
