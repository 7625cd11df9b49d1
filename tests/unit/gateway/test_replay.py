"""Requests that a worker's death cut off: sent again once, or ended so that they cannot pass."""

import asyncio
import json

import pytest

from cahoots_vllm.control.terms import Terms
from cahoots_vllm.gateway import call as gateway_call
from cahoots_vllm.gateway import deliver
from cahoots_vllm.gateway.record import End

from .front import PAUSE, Front, get, running

_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
_TOKEN = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
_ABORT = b'data: {"choices":[{"delta":{},"finish_reason":"abort"}]}\n\n'
_ERROR = b'data: {"error":{"message":"EngineCore encountered an issue","code":500}}\n\n'
_DONE = b"data: [DONE]\n\n"
_CHAT = b'{"model":"a"}'
_STREAM = b'{"model":"a","stream":true}'


def whole(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


_DEAD = whole(
    b'{"error":{"message":"EngineCore encountered an issue"}}', "500 Internal Server Error"
)
_GIVEN_UP = whole(b'{"choices":[{"message":{"content":"x"},"finish_reason":"abort"}]}')
_GOOD = whole(b'{"choices":[{"message":{"content":"good"},"finish_reason":"stop"}]}')


def dying(front: Front, *answers: bytes, last: bytes = _GOOD) -> None:
    """Give these answers, each with a death, and then the last one for ever."""
    left = list(answers)

    def answer_to(_body: bytes) -> bytes:
        if not left:
            return last
        front.die()
        return left.pop(0)

    front.upstream.answer_to = answer_to


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    "end",
    [_DEAD, _GIVEN_UP, b"", _SSE + _ERROR + _DONE, _SSE + _ABORT + _DONE, _SSE + _TOKEN + _ERROR,
     _SSE + b": alive\n\n" + PAUSE + _ERROR, _SSE],
)  # fmt: skip
async def test_request_whose_answer_had_not_begun_is_sent_again(end: bytes) -> None:
    async with running() as front:
        dying(front, end)
        assert body_of(await front.post(_CHAT)) == body_of(_GOOD)
        assert front.upstream.bodies == [_CHAT, _CHAT]
    (record,) = front.records
    assert (record.deliveries, record.status, record.end) == (2, 200, End.ANSWERED)


async def test_error_without_a_death_is_the_clients() -> None:
    async with running() as front:
        front.upstream.answer = _DEAD
        assert await front.post(_CHAT) != b""
        assert front.upstream.bodies == [_CHAT]
    assert front.records[0].status == 500


async def test_error_event_without_a_death_passes_untouched() -> None:
    async with running() as front:
        front.upstream.answer_to = lambda _: _SSE + _TOKEN + _ERROR + _DONE
        answer = await front.post(_STREAM)
    assert _ERROR in answer
    assert _DONE in answer


@pytest.mark.parametrize("end", [_ERROR + _DONE, _ABORT + _DONE, _TOKEN + _ABORT + _DONE, b""])
async def test_stream_that_had_begun_ends_with_an_error_event(end: bytes) -> None:
    async with running() as front:
        head = _SSE.replace(b"close", b"close\r\nContent-Length: 9999")
        dying(front, head + _TOKEN + PAUSE + end)
        answer = await front.post(_STREAM)
        assert front.upstream.bodies == [_STREAM]
    assert _TOKEN in answer
    assert b"[DONE]" not in answer
    assert b"abort" not in answer
    last = [part for part in answer.split(b"\n\n") if b"data: " in part][-1]
    said = json.loads(last[last.index(b"data: ") + 6 :])
    assert said["error"]["code"] == "worker-lost"
    assert front.records[0].end is End.BROKEN


async def test_answer_that_was_given_up_without_a_death_is_no_answer_either() -> None:
    async with running() as front:
        front.upstream.answer_to = lambda _: _SSE + _TOKEN + PAUSE + _ABORT + _DONE
        answer = await front.post(_STREAM)
    assert b"[DONE]" not in answer
    assert b"worker-lost" in answer


async def test_whole_answer_that_was_given_up_without_a_death_is_asked_for_once_more() -> None:
    async with running() as front:
        answers = [_GIVEN_UP, _GOOD, _GIVEN_UP, _GIVEN_UP]
        front.upstream.answer_to = lambda _: answers.pop(0)
        assert body_of(await front.post(_CHAT)) == body_of(_GOOD)
        assert (await front.post(_CHAT)).startswith(b"HTTP/1.1 503")
        assert not answers


@pytest.mark.parametrize("head", [b"Content-Length: 9999999", b"Transfer-Encoding: chunked"])
async def test_large_answer_that_was_given_up_does_not_pass_for_whole(head: bytes) -> None:
    """It is with the client before its end is there; the mark may be cut in two, too."""
    many = b'{"logprobs":[' + b"0," * 800_000
    end = b'],"finish_reason": "abo', b'rt"}'
    chunks = [many + end[0], end[1]]
    if b"chunked" in head:
        chunks = [b"%x\r\n%b\r\n" % (len(one), one) for one in chunks] + [b"0\r\n\r\n"]
    json_head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head + b"\r\n\r\n"
    async with running() as front:
        front.upstream.answer_to = lambda _: json_head + PAUSE.join(chunks)
        got = await front.post(_CHAT)
    assert got.startswith(b"HTTP/1.1 200")
    assert b'rt"}' not in got
    assert not got.endswith(b"0\r\n\r\n")
    assert front.records[0].end is End.BROKEN


async def test_worker_that_lives_and_hangs_up_is_asked_once_more_only() -> None:
    async with running() as front:
        front.upstream.hang_ups = 1
        assert (await front.post(_CHAT)).endswith(b"ok")
        front.upstream.hang_ups, front.upstream.bodies = 99, []
        answer = await front.post(_CHAT)
        assert answer.startswith(b"HTTP/1.1 503")
        assert front.upstream.bodies == [_CHAT, _CHAT]


async def test_death_of_a_worker_that_it_never_reached_is_not_a_requests_fault() -> None:
    async with running() as front:
        front.rotation.close(1)
        asked = asyncio.create_task(front.post(_CHAT))
        for generation in (2, 3, 4):
            while not front.rotation.held:  # noqa: ASYNC110 (nothing tells us but asking)
                await asyncio.sleep(0.01)
            front.rotation.admit(generation, front.upstream.uds.with_name("nobody.sock"))
            await asyncio.sleep(0.05)
            front.rotation.lose(generation)
        front.rotation.admit(5, front.upstream.uds)
        assert (await asked).endswith(b"ok")
        assert front.upstream.bodies == [_CHAT]
        for generation in (2, 3, 4, 5):
            await front.rotation.retire(generation)
    assert [record.is_suspect for record in front.records] == [False]


async def test_request_in_flight_in_two_deaths_is_a_suspect() -> None:
    async with running() as front:
        dying(front, _DEAD, _DEAD)
        answer = await front.post(_CHAT)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"two workers died" in answer
        # Clients try again by themselves: it must not kill a third.
        again = await front.post(_CHAT)
        assert again.startswith(b"HTTP/1.1 503")
        assert front.upstream.bodies == [_CHAT, _CHAT]
        assert body_of(await front.post(b'{"model":"b"}')) == body_of(_GOOD)
    assert [record.is_suspect for record in front.records] == [True, False, False]
    assert front.records[0].id.encode() in answer


async def test_poison_takes_nobody_along() -> None:
    """In flight together with others at its first death, and alone to blame at the second."""
    poison = b'{"poison":1}'
    others = [b'{"good":%d}' % number for number in range(5)]
    async with running() as front:
        together = asyncio.Event()

        def answer_to(body: bytes) -> bytes:
            if body == poison:
                front.die()
                return _DEAD
            # Those that are in flight when it dies get what a dying engine gives.
            is_dying = front.upstream.bodies.count(poison) == 1 and not together.is_set()
            return _DEAD if is_dying else _GOOD

        front.upstream.answer_to = answer_to
        tasks = [asyncio.create_task(front.post(body)) for body in (poison, *others)]
        await asyncio.sleep(0.03)
        together.set()
        answers = await asyncio.gather(*tasks)
    assert answers[0].startswith(b"HTTP/1.1 503")
    assert [body_of(answer) for answer in answers[1:]] == [body_of(_GOOD)] * 5
    assert front.upstream.bodies.count(poison) == 2
    assert sum(record.is_suspect for record in front.records) == 1


async def test_newcomer_waits_while_another_is_on_trial() -> None:
    """Or the one on trial would be to blame for what the newcomer does."""
    harmless, poison = b'{"harmless":1}', b'{"poison":1}'
    slowly = _GOOD[:-3] + (PAUSE * 10) + _GOOD[-3:]
    async with running() as front:
        bodies = front.upstream.bodies

        def answer_to(body: bytes) -> bytes:
            if body == poison or bodies.count(harmless) == 1:
                front.die()
                return _DEAD
            return slowly

        front.upstream.answer_to = answer_to
        first = asyncio.create_task(front.post(harmless))
        while not bodies:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(first, front.post(poison))
    assert body_of(answers[0]) == body_of(_GOOD)
    assert answers[1].startswith(b"HTTP/1.1 503")
    assert bodies == [harmless, harmless, poison, poison]


async def test_trial_that_waits_for_its_worker_keeps_nobody_from_another() -> None:
    async with running() as front:
        rotation, named = front.rotation, {"a": b'{"model":"a"}', "b": b'{"model":"b"}'}
        rotation.take(Terms(names=frozenset(named)))
        rotation.close(1)
        rotation.admit(2, front.upstream.uds, "b", ("b",))

        def answer_to(body: bytes) -> bytes:
            if body == named["b"] and front.upstream.bodies.count(body) == 1:
                rotation.lose(2)
                return b""
            return _GOOD

        front.upstream.answer_to = answer_to
        on_trial = asyncio.create_task(front.post(named["b"]))
        while not rotation.held:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        rotation.admit(3, front.upstream.uds, "a", ("a",))
        assert body_of(await front.post(named["a"])) == body_of(_GOOD)
        assert not on_trial.done()
        rotation.admit(4, front.upstream.uds, "b", ("b",))
        assert body_of(await on_trial) == body_of(_GOOD)
        for generation in (2, 3, 4):
            await rotation.retire(generation)


async def test_model_that_is_named_counts_once_it_matters_while_it_is_held() -> None:
    async with running() as front:
        rotation = front.rotation
        rotation.close(1)
        asked = asyncio.create_task(front.post(b'{"model":"b"}'))
        while not rotation.held:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        rotation.take(Terms(names=frozenset("ab")))
        rotation.admit(2, front.upstream.uds, "a", ("a",))
        await asyncio.sleep(0.05)
        assert (front.upstream.heads, rotation.held) == ([], 1)
        rotation.admit(3, front.upstream.uds, "b", ("b",))
        assert (await asked).endswith(b"ok")
        for generation in (2, 3):
            await rotation.retire(generation)


async def test_those_that_wait_beside_a_trial_are_held_within_the_bounds() -> None:
    first, slow = b'{"first":1}', _GOOD[:-3] + PAUSE * 30 + _GOOD[-3:]
    async with running(hold_max=2) as front:
        bodies = front.upstream.bodies

        def answer_to(body: bytes) -> bytes:
            if body == first and bodies.count(first) == 1:
                front.die()
                return b""
            return slow if body == first else _GOOD

        front.upstream.answer_to = answer_to
        on_trial = asyncio.create_task(front.post(first))
        while bodies.count(first) < 2:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        others = await asyncio.gather(*[front.post(b'{"n":%d}' % n) for n in range(6)])
        assert body_of(await on_trial) == body_of(_GOOD)
    statuses = sorted(answer.split()[1] for answer in others)
    assert statuses == [b"200"] * 2 + [b"503"] * 4


async def test_request_too_large_to_be_kept_is_refused_with_when_to_come_again() -> None:
    async with running() as front:
        dying(front, _DEAD)
        answer = await front.post(b"x" * 1_500_000)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in answer
        assert b"too large" in answer
        assert len(front.upstream.bodies) == 1


async def post_while_held(front: Front, path: str) -> bytes:
    """Send a request for a stream; the worker is there after two signs of life."""
    front.rotation.close(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    head = get(path, f"Content-Length: {len(_STREAM)}", method="POST")
    writer.write(head + _STREAM)
    begun = b""
    for _ in range(2):
        begun += await reader.readuntil(b": waiting for the model\n\n")
    front.rotation.admit(1, front.upstream.uds)
    rest = await reader.read()
    writer.close()
    return begun + rest


async def test_streaming_client_sees_signs_of_life_while_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliver, "_ALIVE_EVERY_S", 0.05)
    async with running() as front:
        front.upstream.answer_to = lambda _: _SSE + _TOKEN + _DONE
        answer = await post_while_held(front, "/v1/chat/completions")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.rindex(b": waiting") < answer.index(_TOKEN)
    assert _DONE in answer


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_refusal_after_a_sign_of_life_is_an_event(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(deliver, "_ALIVE_EVERY_S", 0.05)
    refusal = b'{"error":{"message":"no such model","code":404}}'
    async with running() as front:
        front.upstream.answer = whole(refusal, "404 Not Found")
        answer = await post_while_held(front, path)
    assert b"data: " + refusal + b"\n\n" in answer
    assert (b"event: error" in answer) == (path == "/v1/messages")


async def test_client_that_hangs_up_while_it_waits_is_sent_nowhere() -> None:
    async with running() as front:
        front.rotation.close(1)
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        while not front.rotation.held:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        writer.close()
        while front.rotation.held:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.01)
        front.rotation.admit(1, front.upstream.uds)
        await asyncio.sleep(0.05)
        assert front.upstream.heads == []
    assert front.records[0].end is End.LEFT


@pytest.mark.parametrize("is_reset", [True, False])
async def test_client_whose_large_body_is_unread_can_hang_up_while_it_waits(
    monkeypatch: pytest.MonkeyPatch, *, is_reset: bool
) -> None:
    monkeypatch.setattr(deliver, "_HANG_UP_S", 0.05)
    async with running() as front:
        front.rotation.close(1)
        reader, writer = await front.connect()
        # More than is read of it, and no more than is sent with nobody reading.
        writer.write(get("/v1/x", "Content-Length: 9000000", method="POST") + b"x" * 200_000)
        while not front.rotation.held:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert front.rotation.held == 1, "who is there stays"
        writer.transport.abort() if is_reset else writer.close()
        async with asyncio.timeout(5):
            while front.rotation.held:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.01)
        front.rotation.admit(1, front.upstream.uds)
        assert front.upstream.heads == []
        del reader
    assert front.records[0].end is End.LEFT


async def test_bodies_that_stop_in_the_middle_count_as_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_call, "_KEPT_BYTES_OF_ALL", 1_500_000)
    begun = get("/v1/x", "Content-Length: 900000", method="POST") + b"x" * 800_000
    async with running() as front:
        front.rotation.close(1)
        clients = []
        for _ in range(4):
            clients.append(await front.connect())
            clients[-1][1].write(begun)
        # Two are read and kept as far as they go; the others go on as they come, and only once.
        while front.rotation.held < 2:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
        for _, writer in clients:
            writer.close()
        while front.rotation.held:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.01)
        # All is given back: a whole one is kept again.
        front.rotation.admit(1, front.upstream.uds)
        dying(front, _DEAD)
        assert body_of(await front.post(b"x" * 900_000)) == body_of(_GOOD)
        assert len(front.upstream.bodies) == 2


async def test_sign_of_life_is_only_for_routes_that_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "_ALIVE_EVERY_S", 0.01)
    async with running() as front:
        front.rotation.close(1)
        front.upstream.answer_to = lambda _: _GOOD
        asked = asyncio.create_task(front.post(_STREAM, "/v1/embeddings"))
        await asyncio.sleep(0.1)
        front.rotation.admit(1, front.upstream.uds)
        assert body_of(await asked) == body_of(_GOOD)


async def test_errors_are_in_the_shape_of_the_clients_api() -> None:
    async with running(hold_max=0) as front:
        front.rotation.close(1)
        openai = json.loads(body_of(await front.post(_CHAT)))
        anthropic = json.loads(body_of(await front.post(_CHAT, "/v1/messages")))
        front.rotation.admit(1, front.upstream.uds)
    assert openai["error"]["code"] == "busy"
    assert anthropic["type"] == "error"
    assert anthropic["error"]["type"] == "overloaded_error"


async def test_request_id_is_the_clients_own_or_a_new_one() -> None:
    async with running() as front:
        for given, kept in (("mine-1", True), ("a b", False), ("x" * 200, False)):
            id_header = f"X-Request-Id: {given}\r\n"
            head = f"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{id_header}"
            answer = await front.send(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
            id_ = front.records[-1].id
            assert (id_ == given) is kept
            assert f"x-request-id: {id_}".encode() in answer.lower()
            assert f"x-request-id: {id_}".encode() in front.upstream.heads[-1].lower()
