"""The proxy in front of an upstream that writes down what it gets, byte for byte."""

import asyncio
import gzip

import pytest

from cahoots_vllm.control.terms import Terms

from .front import OK, PAUSE, get, running


async def test_request_arrives_with_the_clients_own_headers_and_no_other() -> None:
    async with running() as front:
        await front.send(get("/v1/models", "X-Request-Id: 7", "Authorization: Bearer k"))
        lines = front.upstream.heads[0].decode().rstrip().split("\r\n")
    assert lines[0] == "GET /v1/models HTTP/1.1"
    assert sorted(line.partition(":")[0].lower() for line in lines[1:]) == [
        "authorization", "host", "x-request-id",
    ]  # fmt: skip


async def test_headers_of_one_connection_go_no_further() -> None:
    request = (
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nProxy-Authorization: secret\r\nX-Theirs: 2\r\n\r\n"
    )
    async with running() as front:
        front.upstream.answer = (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nX-Up: 1\r\n"
            b"Proxy-Authenticate: no\r\n\r\nok"
        )
        answer = (await front.send(request)).lower()
        head = front.upstream.heads[0].lower()
    for name in (b"x-mine", b"keep-alive", b"\r\nte:", b"proxy-"):
        assert name not in head
        assert name not in answer
    assert b"x-theirs: 2" in head
    assert b"x-up: 1" in answer


@pytest.mark.parametrize(
    "path",
    ["/v1/a%2Fb%20c?x=%C3%A4&y=+", "/v1/%ff", "/v1/a;b=c", "/v1/x?q=http://other/.."],
)
async def test_path_arrives_as_sent(path: str) -> None:
    async with running() as front:
        await front.send(get(path))
        assert front.upstream.heads[0].split(b" ")[1] == path.encode()


@pytest.mark.parametrize(
    "path",
    ["/sleep", "/v1/../sleep", "/v1/%2e%2e/sleep", "/%73leep", "//sleep", "/v1//models",
     "/v1/models/", "/v1/%2573leep", "/v1/a%5cb", "/v1/a%00b", "http://worker/sleep", "*",
     "/collective_rpc", "/server_info", "/reset_prefix_cache", "/wake_up?level=1", "/",
     "/" + "x" * 5000],
)  # fmt: skip
async def test_path_that_clients_have_no_business_with_goes_nowhere(path: str) -> None:
    async with running() as front:
        answer = await front.send(get(path))
        assert answer.split(b" ")[1] in (b"400", b"403", b"404")
        assert front.upstream.heads == []


async def test_compressed_answer_is_passed_on_compressed() -> None:
    packed = gzip.compress(b"hello" * 100)
    async with running() as front:
        front.upstream.answer = (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        ) + packed
        answer = await front.send(get("/v1/x", "Accept-Encoding: gzip"))
        assert b"\r\nAccept-Encoding: gzip\r\n" in front.upstream.heads[0]
    assert answer.endswith(b"\r\n\r\n" + packed)
    assert b"content-encoding: gzip" in answer.lower()


async def test_compressed_request_is_passed_on_compressed() -> None:
    packed = gzip.compress(b"{}")
    async with running() as front:
        headers = ("Content-Encoding: gzip", f"Content-Length: {len(packed)}")
        await front.send(get("/v1/x", *headers, method="POST") + packed)
        assert front.upstream.bodies == [packed]
        assert b"content-encoding: gzip" in front.upstream.heads[0].lower()


async def test_head_is_answered_with_length_and_without_body() -> None:
    async with running() as front:
        front.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"
        answer = await front.send(get("/v1/models", method="HEAD"))
    assert b"content-length: 12345" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified", b"302 Found"])
async def test_answers_without_a_body_and_redirects_pass(status: bytes) -> None:
    async with running() as front:
        front.upstream.answer = b"HTTP/1.1 " + status + b"\r\nLocation: /x\r\n\r\n"
        if status.startswith(b"302"):
            front.upstream.answer = front.upstream.answer[:-2] + b"Content-Length: 0\r\n\r\n"
        answer = await front.send(get())
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"location: /x" in answer.lower()


async def test_cookies_are_not_kept_between_clients() -> None:
    async with running() as front:
        front.upstream.answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n"
        assert b"set-cookie: a=1" in (await front.send(get())).lower()
        await front.send(get())
        assert b"cookie" not in front.upstream.heads[1].lower()


async def test_connection_closed_by_the_worker_does_not_shut_the_gateway() -> None:
    """Seen of uvicorn after 5 s idle: no sign of the worker's death."""
    async with running() as front:
        front.upstream.hang_ups = 1
        request = get("/v1/x", "Content-Length: 2", method="POST") + b"{}"
        assert (await front.send(request)).endswith(b"ok")
        assert front.upstream.bodies == [b"{}", b"{}"]
        assert front.rotation.is_open
        assert (await front.send(get())).endswith(b"ok")


async def test_body_that_comes_slowly_over_a_swap_goes_to_the_next_worker() -> None:
    async with running() as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(get("/v1/x", "Content-Length: 4", method="POST") + b"ab")
        await asyncio.sleep(0.1)
        await front.rotation.drain(1, 0)
        await front.rotation.retire(1)
        front.rotation.admit(1, front.upstream.uds)
        writer.write(b"cd")
        assert (await reader.read()).endswith(b"ok")
        writer.close()
        assert front.upstream.bodies == [b"abcd"]


async def test_retired_worker_ends_a_request_that_waits_for_its_answer() -> None:
    async with running() as front:
        front.upstream.answer = b""
        waiting = asyncio.create_task(front.send(get()))
        while not front.rotation.running:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        front.upstream.answer = OK
        await front.rotation.retire(1)
        front.rotation.admit(1, front.upstream.uds)
        assert (await waiting).endswith(b"ok")
        assert len(front.upstream.heads) == 2


async def test_retired_worker_ends_a_stream_with_an_error_event() -> None:
    async with running() as front:
        front.upstream.answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(get())
        await reader.readuntil(b"data: 1\n\n")
        await front.rotation.retire(1)
        assert b"worker-lost" in await reader.read()
        writer.close()


async def test_short_answer_cut_short_is_asked_for_again() -> None:
    async with running() as front:
        front.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
        waiting = asyncio.create_task(front.send(get()))
        while not front.upstream.heads:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        front.upstream.answer = OK
        await front.rotation.retire(1)
        front.rotation.admit(2, front.upstream.uds)
        assert (await waiting).endswith(b"ok")
        await front.rotation.retire(2)


async def test_long_answer_cut_short_cannot_pass_for_whole() -> None:
    async with running() as front:
        front.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\nonly this"
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(get())
        await reader.readuntil(b"only this")
        await front.rotation.retire(1)
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(91)
        writer.close()


async def test_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    async with running() as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(get("/v1/x", "Content-Length: 2", "Expect: 100-Continue", method="POST"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.read()).endswith(b"ok")
        writer.close()
        assert b"expect" not in front.upstream.heads[0].lower()


async def test_stream_of_another_kind_is_passed_on_as_it_comes() -> None:
    async with running() as front:
        front.upstream.answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"4\r\nRIFF\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(get("/v1/audio/speech", "Content-Length: 2", method="POST") + b"{}")
        await reader.readuntil(b"RIFF")
        writer.close()


@pytest.mark.parametrize("path", ["/ping", "/version", "/v1/models/org/a", "/openapi.json"])
async def test_look_at_an_unloaded_engine_does_not_wake_it(path: str) -> None:
    async with running() as front:
        front.rotation.close(1)
        front.rotation.take(Terms(asleep=("org/a",)))
        for method in ("GET", "HEAD"):
            answer = await front.send(get(path, method=method))
            assert answer.startswith(b"HTTP/1.1 503")
        assert front.rotation.held == 0
        assert b"brings it back" in await front.send(get(path))
        assert front.upstream.heads == []


async def test_stream_goes_on_when_a_client_that_took_nothing_for_a_while_reads_again() -> None:
    # Each event is so large that aiohttp waits for the client in whichever fills the buffers.
    event = b"data: " + b"x" * 69_992 + b"\n\n"
    async with running(is_unix=True) as front:
        front.upstream.answer = PAUSE.join(
            [
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
                *[event] * 30,
            ]
        )
        reader, writer = await front.connect()
        writer.write(get("/v1/chat/completions", "Content-Length: 2", method="POST") + b"{}")
        await asyncio.sleep(1)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
    assert answer.count(b"x" * 69_992) == 30
