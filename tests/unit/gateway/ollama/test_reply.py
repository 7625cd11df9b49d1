"""Answers in Ollama's shape: signs of life, errors at any point, events cut anywhere."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import ollama
import pytest

from cahoots_vllm.control.terms import Refusal, Terms
from cahoots_vllm.gateway import call, deliver
from cahoots_vllm.gateway.record import End
from unit.gateway.front import PAUSE, Front, get, running

from .models import NOW, Models

USER = {"role": "user", "content": "Hi"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2}


def connected(front: Front) -> ollama.AsyncClient:
    return ollama.AsyncClient(f"http://127.0.0.1:{front.port}")


def sse(*events: object) -> bytes:
    """Return a stream; bytes among the events are sent as they are."""
    wire = (e if isinstance(e, bytes) else f"data: {json.dumps(e)}\n\n".encode() for e in events)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return head + b"".join(wire)


def piece(text: str, finish_reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}


def whole(body: object, status: str = "200 OK") -> bytes:
    data = json.dumps(body).encode() if not isinstance(body, bytes) else body
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


DONE = (piece("", "stop"), {"choices": [], "usage": USAGE}, b"data: [DONE]\n\n")


async def ask(front: Front, path: str = "/api/chat", **members: object) -> tuple[bytes, list[Any]]:
    """Send a chat; return the head of the answer, and its lines."""
    body = {"model": "m", "messages": [USER]} | members
    head, _, rest = (await front.post(json.dumps(body).encode(), path)).partition(b"\r\n\r\n")
    if b"chunked" in head:
        rest = unchunked(rest)
    return head, [json.loads(line) for line in rest.splitlines()]


def unchunked(data: bytes) -> bytes:
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        found, data = found + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return found


def said(lines: list[Any]) -> str:
    return "".join(line["message"]["content"] for line in lines)


async def test_stream_is_ndjson_with_the_requests_id() -> None:
    async with running(catalog=Models()) as front:
        front.upstream.answer = sse(piece("Hel"), piece("lo"), *DONE)
        head, lines = await ask(front)
        record = front.records[0]
    assert b"Content-Type: application/x-ndjson" in head
    assert f"X-Request-Id: {record.id}".encode() in head
    assert [line["done"] for line in lines] == [False, False, True]
    assert said(lines) == "Hello"
    assert (record.route, record.status, record.end) == ("/api/chat", 200, End.ANSWERED)


async def test_events_that_are_cut_anywhere_bring_the_same_lines() -> None:
    wire = sse(piece("Hällo"), *DONE)
    async with running(catalog=Models()) as front:
        cut = wire.index(b"\r\n\r\n") + 20
        front.upstream.answer = wire[:cut] + PAUSE + wire[cut : cut + 30] + PAUSE + wire[cut + 30 :]
        _, lines = await ask(front)
    assert said(lines) == "Hällo"
    assert lines[-1]["eval_count"] == 2


async def test_engine_gets_its_own_api_and_nothing_of_the_clients_headers() -> None:
    async with running(catalog=Models()) as front:
        front.upstream.answer = whole({"choices": [{"message": {"content": "x"}}]})
        await ask(front, model="m:latest", stream=False)
        head = front.upstream.heads[0].decode().lower()
        (body,) = front.upstream.bodies
    assert head.startswith("post /v1/chat/completions http/1.1")
    assert "content-type: application/json" in head
    assert json.loads(body)["model"] == "m"


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "500 Oops"])
@pytest.mark.parametrize("stream", [False, True])
async def test_engines_refusal_keeps_its_status(status: str, *, stream: bool) -> None:
    async with running(catalog=Models()) as front:
        front.upstream.answer = whole({"error": {"message": "too long"}}, status)
        head, lines = await ask(front, stream=stream)
    assert head.split(b" ")[1] == status[:3].encode()
    assert b"Content-Type: application/json" in head
    assert lines == [{"error": "too long"}]


async def test_refusal_that_is_no_json_has_a_reason_all_the_same() -> None:
    async with running(catalog=Models()) as front:
        front.upstream.answer = whole(b"Internal Server Error", "500 Oops")
        _, lines = await ask(front, stream=False)
    assert lines == [{"error": "the engine gave no reason"}]


async def test_answer_that_is_no_json_cannot_pass_for_one() -> None:
    async with running(catalog=Models()) as front:
        front.upstream.answer = whole(b"<html>")
        head, lines = await ask(front, stream=False)
    assert b" 503 " in head
    assert "no JSON" in lines[0]["error"]


async def test_engines_error_in_the_middle_of_a_stream_is_its_last_line() -> None:
    error = {"error": {"message": "out of blocks", "code": 500}}
    async with running(catalog=Models()) as front:
        front.upstream.answer = sse(piece("Hel"), error, b"data: [DONE]\n\n")
        _, lines = await ask(front)
        assert front.records[0].end is End.BROKEN
    assert lines[0]["message"]["content"] == "Hel"
    assert lines[1:] == [{"error": "out of blocks; send the request again"}]


async def test_engines_error_before_anything_else_is_no_200() -> None:
    async with running(catalog=Models()) as front:
        front.upstream.answer = sse({"error": {"message": "out of blocks"}}, b"data: [DONE]\n\n")
        head, lines = await ask(front)
    assert b" 503 " in head
    assert "out of blocks" in lines[0]["error"]


async def test_stream_without_an_end_cannot_pass_for_whole() -> None:
    async with running(catalog=Models()) as front:
        front.upstream.answer = sse(piece("Hel"), b"data: [DONE]\n\n")
        _, lines = await ask(front)
    assert "no end" in lines[-1]["error"]


async def test_held_stream_gets_signs_of_life_that_its_client_can_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty line would not do: the client parses each line."""
    monkeypatch.setattr(deliver, "_ALIVE_EVERY_S", 0.01)
    async with running(catalog=Models()) as front, AsyncExitStack() as leaving:
        front.upstream.answer = sse(piece("Hello"), *DONE)
        front.rotation.close(1)
        client = await leaving.enter_async_context(connected(front))
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        body = json.dumps({"model": "m", "messages": [USER]}).encode()
        writer.write(get("/api/chat", f"Content-Length: {len(body)}", method="POST") + body)
        asking = asyncio.create_task(client.chat("m", [USER], stream=True))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(6) == b"1\r\n \r\n"
        front.rotation.admit(1, front.upstream.uds)
        parts = [part async for part in await asking]
        writer.close()
    assert "".join(part.message.content or "" for part in parts) == "Hello"


async def test_held_stream_that_is_refused_after_a_sign_of_life_gets_an_error_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliver, "_ALIVE_EVERY_S", 0.01)
    async with running(catalog=Models()) as front, AsyncExitStack() as leaving:
        front.rotation.close(1)
        client = await leaving.enter_async_context(connected(front))
        stream = await client.chat("m", [USER], stream=True)
        asyncio.get_running_loop().call_later(
            0.1, front.rotation.take, Terms(refusal=Refusal("it failed", "mend it"))
        )
        with pytest.raises(ollama.ResponseError, match="it failed; mend it"):
            await anext(aiter(stream))


async def test_raw_prompt_that_waits_in_vain_gets_an_error_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliver, "_ALIVE_EVERY_S", 0.01)
    async with running(catalog=Models(context_length=None)) as front:
        front.rotation.close(1)
        asking = asyncio.create_task(ask(front, "/api/generate", prompt="a", raw=True))
        await asyncio.sleep(0.1)
        front.rotation.take(Terms(refusal=Refusal("it failed", "mend it")))
        head, lines = await asking
        assert front.records[0].end is End.REFUSED
    assert head.startswith(b"HTTP/1.1 200 ")
    assert lines == [{"error": "it failed; mend it"}]


async def test_raw_prompt_is_limited_by_the_length_of_the_worker_that_comes() -> None:
    models = Models(context_length=None)
    async with running(catalog=models) as front:
        front.upstream.answer = whole({"choices": [{"text": "x"}], "usage": USAGE})
        front.rotation.close(1)
        asking = asyncio.create_task(
            ask(front, "/api/generate", prompt="a", raw=True, stream=False)
        )
        while not front.rotation.held:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        models.context_length = 77
        front.rotation.admit(1, front.upstream.uds)
        _, (line,) = await asking
    assert line["response"] == "x"
    assert json.loads(front.upstream.bodies[0])["max_tokens"] == 77


async def test_bodies_with_images_are_taken_whole_and_one_too_large_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = "iVBO" * 700_000
    monkeypatch.setattr(call, "_KEPT_BYTES_OF_ALL", 4_000_000)  # one at a time
    async with running(catalog=Models()) as front:
        front.upstream.answer = whole({"choices": [{"message": {"content": "a cat"}}]})
        message = USER | {"images": [image]}
        for _ in range(2):
            _, (line,) = await ask(front, messages=[message], stream=False)
            assert line["message"]["content"] == "a cat"
        assert image.encode() in front.upstream.bodies[0]
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(get("/api/chat", f"Content-Length: {33 * 1024 * 1024}", method="POST"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        assert await reader.readuntil(b"larger than 32 MiB")
        writer.close()


async def test_client_that_hangs_up_leaves_the_engine() -> None:
    async with running(catalog=Models()) as front:
        front.upstream.answer = sse(piece("Hel"), *[PAUSE] * 400, *DONE)
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        body = json.dumps({"model": "m", "messages": [USER]}).encode()
        writer.write(get("/api/chat", f"Content-Length: {len(body)}", method="POST") + body)
        await reader.readuntil(b'"Hel"')
        assert front.rotation.running == 1
        writer.close()
        async with asyncio.timeout(2):
            while front.rotation.running:  # noqa: ASYNC110 (nothing tells us but asking)
                await asyncio.sleep(0.01)
    assert front.records[0].end is End.LEFT


@pytest.mark.parametrize(
    ("path", "is_ours"),
    [
        ("/api/tags", True), ("/v1/api/tags", True), ("/api/tags?x=1", True),
        ("//api/tags", False), ("/api/../api/tags", True), ("/API/tags", False),
        ("/%61pi/tags", False), ("/v1/v1/api/tags", False), ("/api", False),
    ],
)  # fmt: skip
async def test_only_exact_paths_are_ollamas(path: str, *, is_ours: bool) -> None:
    async with running(catalog=Models()) as front:
        answer = await front.send(get(path))
    has_ollamas_shape = b'{"models"' in answer or b'{"error": "' in answer
    assert has_ollamas_shape == is_ours


async def test_listings_of_a_model_without_a_directory() -> None:
    async with running(catalog=Models()) as front, connected(front) as client:
        (listed,) = (await client.list()).models
        (loaded,) = (await client.ps()).models
        shown = await client.show("m")
    assert (listed.model, loaded.model, listed.modified_at) == ("m", "m", NOW)
    assert shown.modelinfo == {"general.architecture": "vllm", "general.basename": "m"}
