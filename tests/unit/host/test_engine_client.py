"""The client of the engine's socket, against an upstream that says exactly what it is told to."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from multidict import CIMultiDict

from cahoots_vllm.host import engine_client
from cahoots_vllm.host.engine_answer import BrokenOffError
from cahoots_vllm.host.engine_client import EngineClient, UnreachableError
from cahoots_vllm.host.engine_connection import Body, Head

GET = Head("GET", "/v1/models", CIMultiDict({"Host": "localhost"}))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def _no_idle_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever closes a connection, it is not that it was idle."""
    monkeypatch.setattr(engine_client, "_IDLE_S", 3600.0)


@asynccontextmanager
async def playing(play: Play) -> AsyncIterator[EngineClient]:
    """Serve each connection by `play`; a connection ends with it."""
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(serve(reader, writer)))

    with tempfile.TemporaryDirectory() as name:
        uds = Path(name) / "engine.sock"
        server = await asyncio.start_unix_server(accept, uds)
        client = EngineClient(uds)
        try:
            async with asyncio.timeout(20):
                yield client
        finally:
            client.close()
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def saying(*answers: bytes) -> Play:
    """Answer one request after the other on a connection, then close it."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await head_of(reader)
            writer.write(answer)
            await writer.drain()

    return play


async def ask(client: EngineClient, head: Head = GET, body: Body = None) -> tuple[int, bytes]:
    async with client.request(head, body) as answer:
        data = b""
        while part := await answer.read():
            data += part
        return answer.status, data


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (OK, (200, b"ok")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            (200, b"ok"),
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", (200, b"to the end")),
        (b"HTTP/1.0 503 Busy\r\n\r\n", (503, b"")),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, (200, b"ok")),
    ],
)
async def test_each_way_to_end_a_body_is_known(answer: bytes, seen: tuple[int, bytes]) -> None:
    async with playing(saying(answer)) as client:
        assert await ask(client) == seen


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_cut_off_or_no_http_is_no_answer(answer: bytes) -> None:
    async with playing(saying(answer)) as client:
        with pytest.raises(BrokenOffError):
            await ask(client)


async def test_head_without_an_end_is_given_up() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000)
        await reader.read()

    async with playing(play) as client:
        with pytest.raises(BrokenOffError, match="no end"):
            await ask(client)


async def test_what_came_before_the_cut_is_given_first() -> None:
    async with (
        playing(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")) as client,
        client.request(GET, None) as answer,
    ):
        assert await answer.read() == b"half"
        with pytest.raises(BrokenOffError):
            await answer.read()


async def test_head_of_an_answer_without_its_body() -> None:
    async with playing(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")) as client:
        assert await ask(client, Head("HEAD", "/x", CIMultiDict())) == (200, b"")


async def test_headers_are_as_they_were_sent() -> None:
    said = (
        b"HTTP/1.1 200 Very Well\r\nSet: a\r\nset: b\r\nUmlaut: \xff\r\nContent-Length: 0\r\n\r\n"
    )
    async with playing(saying(said)) as client, client.request(GET, None) as answer:
        assert answer.reason == "Very Well"
        assert answer.headers.getall("Set") == ["a", "b"]
        assert answer.headers["Umlaut"].encode("utf-8", "surrogateescape") == b"\xff"
        assert answer.content_length == 0


async def test_one_connection_serves_one_request_after_the_other() -> None:
    connections = 0
    closed = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await saying(OK, OK, OK)(reader, writer)
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with playing(play) as client:
        for _ in range(3):
            assert await ask(client) == (200, b"ok")
        assert connections == 1
        await closed.wait()
        await asyncio.sleep(0.01)  # one turn of the loop, for the client to see it
        assert await ask(client) == (200, b"ok")
        assert connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_is_to_end_is_not_used_again(answer: bytes) -> None:
    closed = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer)
        assert await reader.read() == b""
        closed.set()

    async with playing(play) as client:
        assert await ask(client) == (200, b"ok")
        await closed.wait()


async def test_what_nobody_asked_for_ends_the_connection() -> None:
    gone = asyncio.Event()
    asked = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(OK)
        await asked.wait()
        asked.clear()
        writer.write(OK)
        await reader.read()
        gone.set()

    async with playing(play) as client:
        assert await ask(client) == (200, b"ok")
        asked.set()
        await gone.wait()
        assert await ask(client) == (200, b"ok")  # the answer to this one, on another connection


async def test_a_second_answer_is_part_of_no_other() -> None:
    gone = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(OK + OK)
        await reader.read()
        gone.set()

    async with playing(play) as client:
        assert await ask(client) == (200, b"ok")
        await gone.wait()


async def test_idle_connections_are_closed_by_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "_IDLE_S", 0.01)
    gone = asyncio.Semaphore(0)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(OK)
        await reader.read()
        gone.release()

    async with playing(play) as client:
        await asyncio.gather(*(ask(client) for _ in range(3)))
        for _ in range(3):
            await gone.acquire()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="No such file"):
        await ask(EngineClient(tmp_path / "none.sock"))


async def test_a_closed_client_asks_nobody() -> None:
    async with playing(saying(OK)) as client:
        client.close()
        with pytest.raises(UnreachableError, match="retired"):
            await ask(client)


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (
            Head("POST", "/x", CIMultiDict(), 3),
            b"abc",
            b"Content-Length: 3\r\nHost: worker\r\n\r\nabc",
        ),
        (
            Head("POST", "/x", CIMultiDict({"content-length": "9"}), 3),
            b"abc",
            b"Content-Length: 3\r\nHost: worker\r\n\r\nabc",
        ),
        (
            Head("POST", "/x", CIMultiDict({"Host": "a", "Content-Length": "3"})),
            _parts(b"a", b"bc"),
            b"Host: a\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            Head("POST", "/x", CIMultiDict({"Host": "a"})),
            _parts(b"a", b"bc"),
            b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        ),
        (Head("POST", "/x", CIMultiDict({"Host": "a"})), None, b"Host: a\r\n\r\n"),
    ],
)
async def test_request_as_it_is_sent(head: Head, body: Body, expected: bytes) -> None:
    expected = b"POST /x HTTP/1.1\r\n" + expected
    seen = bytearray()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.readexactly(len(expected)))
        writer.write(OK)

    async with playing(play) as client:
        assert await ask(client, head, body) == (200, b"ok")
        assert bytes(seen) == expected


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\rb", "a\0b"])
def test_no_header_can_bring_another_along(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        Head("GET", "/x", CIMultiDict({"X": value})).encode(has_body=False)


async def test_nothing_is_written_to_an_engine_that_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.transport.abort()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536  # never waits itself, as a body that has come already

    async with playing(play) as client:
        with pytest.raises(BrokenOffError):
            await ask(client, Head("POST", "/x", CIMultiDict()), endless())
    assert not caplog.records


async def test_a_body_that_breaks_ends_the_request() -> None:
    got_end = asyncio.Event()

    async def play(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        got_end.set()

    async def breaking() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ValueError

    async with playing(play) as client:
        with pytest.raises(BrokenOffError, match="not sent to its end: ValueError"):
            await ask(client, Head("POST", "/x", CIMultiDict()), breaking())
        await got_end.wait()


async def test_an_answer_may_come_before_the_request_is_whole() -> None:
    never = asyncio.Event()
    gone = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        gone.set()

    async def endless() -> AsyncIterator[bytes]:
        yield b"begun"
        await never.wait()

    async with playing(play) as client:
        head = Head("POST", "/x", CIMultiDict())
        assert await ask(client, head, endless()) == (413, b"")
        await gone.wait()  # half a request is left on it: it serves no other


async def test_who_leaves_ends_the_connection() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        begun.set()
        await reader.read()
        gone.set()

    async with playing(play) as client:
        asking = asyncio.ensure_future(ask(client))
        await begun.wait()
        asking.cancel()
        await gone.wait()


async def test_engine_waits_where_nobody_reads() -> None:
    size = 8 * 1024 * 1024
    stuck, go_on = asyncio.Event(), asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        draining = asyncio.ensure_future(writer.drain())
        await go_on.wait()
        if not draining.done():
            stuck.set()
        await draining

    async with playing(play) as client, client.request(GET, None) as answer:
        first = await answer.read()
        await asyncio.sleep(0.2)  # far more than 8 MB take; it is not to come
        go_on.set()
        await stuck.wait()
        total = len(first)
        while part := await answer.read():
            assert len(part) <= 1024 * 1024
            total += len(part)
        assert total == size


async def test_connection_of_an_answer_that_nobody_read_reads_on() -> None:
    size = 300_000  # its last part is more than is kept
    connections = 0
    drained = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await writer.drain()
        drained.set()
        await saying(OK)(reader, writer)

    async with playing(play) as client:
        async with client.request(GET, None) as answer:
            await drained.wait()
            await asyncio.sleep(0.05)  # the client takes what is in the socket
            assert answer.is_whole
        assert await ask(client) == (200, b"ok")
        assert connections == 1


async def test_parts_are_poured_out_until_one_is_refused() -> None:
    go_on = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        for part in (b"a", b"b", b"stop", b"c"):
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0.02)  # each by itself
        writer.write(b"0\r\n\r\n")

    taken: list[bytes] = []

    def take(part: bytes) -> bool:
        if part != b"stop":
            taken.append(part)
        return part != b"stop"

    async with playing(play) as client, client.request(GET, None) as answer:
        go_on.set()
        await answer.pour(take)
        assert taken == [b"a", b"b"]
        assert await answer.read() == b"stop"
        await answer.pour(take)
        assert taken == [b"a", b"b", b"c"]
        assert await answer.read() == b""


async def test_chunks_that_come_together_are_passed_on_together() -> None:
    taken: list[bytes] = []

    def take(part: bytes) -> bool:
        taken.append(part)
        return True

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        writer.write(b"1\r\na\r\n2\r\nbc\r\n1\r\nd\r\n0\r\n\r\n")

    go_on = asyncio.Event()
    async with playing(play) as client, client.request(GET, None) as answer:
        go_on.set()
        await answer.pour(take)
        assert taken == [b"abcd"]
        assert await answer.read() == b""


async def test_pouring_ends_with_the_engine() -> None:
    go_on = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()

    async with playing(play) as client, client.request(GET, None) as answer:
        go_on.set()
        await answer.pour(lambda _: True)
        with pytest.raises(BrokenOffError):
            await answer.read()


async def test_engine_whose_queue_of_connections_is_full_is_waited_for() -> None:
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listener:
        uds = Path(name) / "engine.sock"
        listener.bind(str(uds))
        listener.listen(0)  # one waits in it, and no more
        client = EngineClient(uds)

        async def ask() -> bytes:
            async with client.request(GET, None) as answer:
                return await answer.read()

        asked = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in asked)
        for _ in asked:
            accepted, _ = await asyncio.to_thread(listener.accept)
            await asyncio.to_thread(accepted.recv, 9999)
            accepted.sendall(OK)
            accepted.close()
        assert await asyncio.gather(*asked) == [b"ok"] * 3
        client.close()


async def test_retired_while_it_waits_for_a_full_queue_is_unreachable() -> None:
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listener:
        uds = Path(name) / "engine.sock"
        listener.bind(str(uds))
        listener.listen(0)
        client = EngineClient(uds)

        async def ask() -> None:
            async with client.request(GET, None):
                pass

        asked = [asyncio.create_task(ask()) for _ in range(2)]
        await asyncio.sleep(0.1)
        client.close()
        with pytest.raises(UnreachableError, match="retired"):
            await asyncio.wait_for(asked[1], 2)
        asked[0].cancel()
