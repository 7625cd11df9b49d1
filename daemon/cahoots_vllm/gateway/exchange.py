"""One request to one worker, and its answer to the client: what is an answer, and what a death."""

from typing import Final

from cahoots_vllm.control.backend import Backend
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.gateway.call import REQUEST_ID, Call, broken_body
from cahoots_vllm.gateway.events import (
    EVENT_END,
    EventCutter,
    Sign,
    find_sign,
    has_abort,
    is_aborted,
    is_comment,
    is_suspicious,
)
from cahoots_vllm.gateway.meter import Meter
from cahoots_vllm.gateway.reply import Reply
from cahoots_vllm.host.engine_answer import Answer, BrokenOffError
from cahoots_vllm.host.engine_client import UnreachableError
from cahoots_vllm.host.engine_connection import Head

# The death of an engine process is noticed at once, a worker's exit within this.
_NOTICE_S: Final = 1.5
# An answer up to this size is read whole before it is begun: it can still be asked for again.
_WHOLE_BYTES: Final = 1024 * 1024
_JSON: Final = "application/json"
_ABORT_BYTES: Final = 64
_SERVER_ERROR: Final = 500
_BROKEN: Final = (UnreachableError, BrokenOffError, TimeoutError)


class LostError(Exception):
    """The worker was lost before an answer began. `is_sent`: the request may have reached it."""

    def __init__(self, backend: Backend, why: str, *, is_sent: bool) -> None:
        """`why` goes on from "the worker was lost: "."""
        super().__init__(why)
        self.backend = backend
        self.is_sent = is_sent


async def exchange(call: Call, backend: Backend, reply: Reply, meter: Meter) -> None:
    """Send a request and pass its answer on.

    Raises LostError where the client has got nothing and another worker may be asked; CahootsError
    where the answer cannot be finished, or the client's own body is broken.
    """
    try:
        await _ask(call, backend, reply, meter)
    except _BROKEN as error:
        if call.body.is_broken:
            raise broken_body() from error
        why = f"{type(error).__name__}: {error}"
        if reply.is_begun:
            raise cut_short() from error
        is_sent = not isinstance(error, UnreachableError)
        raise LostError(backend, why, is_sent=is_sent) from error


def cut_short() -> CahootsError:
    """Return the error that ends an answer which had begun when its worker was lost."""
    what = "the worker was lost in the middle of the answer"
    return CahootsError(Kind.WORKER_LOST, what, "send the request again")


async def _ask(call: Call, backend: Backend, reply: Reply, meter: Meter) -> None:
    headers = call.headers.copy()
    headers[REQUEST_ID] = call.id
    head = Head(call.method, call.target, headers, call.body.length)
    async with (
        backend.request(is_use=call.is_use) as client,
        client.request(head, call.body.data()) as answer,
    ):
        if answer.content_type == "text/event-stream":
            await _pass_stream(answer, backend, reply, meter)
        elif call.method != "HEAD" and _is_short(answer):
            await _pass_whole(answer, backend, reply, meter)
        else:
            await _pass_parts(answer, b"", reply, meter)


def _is_short(answer: Answer) -> bool:
    """Whether it comes at once: what has no length is a stream, e.g. of speech, but for JSON."""
    if answer.content_length is None:
        return answer.content_type == _JSON
    return answer.content_length <= _WHOLE_BYTES


async def _pass_whole(answer: Answer, backend: Backend, reply: Reply, meter: Meter) -> None:
    """Read an answer, and begin it only if it is one: a dying engine answers 5xx, or "abort"."""
    parts, size = [], 0
    while size <= _WHOLE_BYTES and (part := await answer.read()):
        parts.append(part)
        size += len(part)
    body = b"".join(parts)
    is_given_up = is_aborted(body)
    is_doubtful = answer.status >= _SERVER_ERROR or is_given_up
    if is_doubtful and await backend.is_lost_within(_NOTICE_S):
        why = f"it answered {answer.status} and died"
        raise LostError(backend, why, is_sent=True)
    if is_given_up:
        why = "it gave the answer up"
        raise LostError(backend, why, is_sent=True)
    await _pass_parts(answer, body, reply, meter)


async def _pass_parts(answer: Answer, first: bytes, reply: Reply, meter: Meter) -> None:
    await reply.begin(answer.status, answer.reason, answer.headers)
    if first:
        meter.passed(first)
        await reply.write(first)
    is_json, before = answer.content_type == _JSON, first
    while part := await answer.read():
        if is_json:
            # One too large to be read whole; what says that it was given up may be cut in two.
            before = before[-_ABORT_BYTES:] + part
            if has_abort(before):
                raise cut_short()
        meter.passed(part)
        await reply.write(part)
    await reply.end()


async def _pass_stream(answer: Answer, backend: Backend, reply: Reply, meter: Meter) -> None:
    cutter = EventCutter()

    def pass_now(part: bytes) -> bool:
        """Pass on at once what is whole events of an answer: nearly everything."""
        is_plain = not cutter.rest and part.endswith(EVENT_END) and not is_suspicious(part)
        if not is_plain or not reply.write_now(part):
            return False
        meter.passed(part, is_stream=True)
        return True

    while part := await answer.read():
        events = cutter.take(part)
        if is_suspicious(events):
            events = await _without_end(events, backend, reply, meter)
        if not reply.is_begun:
            if is_comment(events):
                continue  # nothing yet: the engine is alive, and it may still be asked again
            await reply.begin(answer.status, answer.reason, answer.headers)
        meter.passed(events, is_stream=True)
        await reply.write(events)
        await answer.pour(pass_now)
    if not reply.is_begun:
        if await backend.is_lost_within(_NOTICE_S):
            why = "its stream was empty"
            raise LostError(backend, why, is_sent=True)
        await reply.begin(answer.status, answer.reason, answer.headers)
    if cutter.rest:
        await reply.write(cutter.rest)
    await reply.end()


async def _without_end(events: bytes, backend: Backend, reply: Reply, meter: Meter) -> bytes:
    """Return events that are an answer, or the engine's error about this very request.

    Raises LostError and CahootsError as `exchange` does, where they are the engine's own end.
    """
    found = find_sign(events)
    if found is None:
        return events
    begin, sign = found
    is_lost = await backend.is_lost_within(_NOTICE_S)
    if sign is Sign.ERROR and not is_lost:
        return events
    before = events[:begin]
    if reply.is_begun:
        meter.passed(before, is_stream=True)
        await reply.write(before)
    elif is_lost or is_comment(before):
        why = "its stream ended before it began"
        raise LostError(backend, why, is_sent=True)
    raise cut_short()
