"""Server-sent events: cut where they end, and the ones that are no answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.gateway.events import (
    EventCutter,
    Sign,
    find_sign,
    is_aborted,
    is_comment,
    is_suspicious,
)


def event(**data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def token(text: str, reason: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": reason}])


_DONE = b"data: [DONE]\n\n"
_ERROR = event(error={"message": "EngineCore encountered an issue", "code": 500})


@given(st.lists(st.text(max_size=20), max_size=8), st.lists(st.integers(1, 400), max_size=20))
def test_nothing_is_lost_and_events_stay_whole(texts: list[str], cuts: list[int]) -> None:
    stream = b"".join(token(text) for text in texts) + _DONE
    cutter, begin, taken = EventCutter(), 0, []
    for size in (*cuts, len(stream)):
        part = stream[begin : begin + size]
        begin += size
        if part:
            taken.append(cutter.take(part))
    assert b"".join(taken) + cutter.rest == stream
    assert all(part.endswith(b"\n\n") for part in taken if part)


def test_endless_event_is_passed_on_as_it_comes() -> None:
    cutter = EventCutter()
    assert cutter.take(b"x" * 1_000_000) == b""
    assert len(cutter.take(b"x" * 100_000)) == 1_100_000


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (token("a") + token("b", "stop") + _DONE, None),
        (token("a") + token("", "abort") + _DONE, (len(token("a")), Sign.ABORTED)),
        (_ERROR + _DONE, (0, Sign.ERROR)),
        (token("x") + _ERROR, (len(token("x")), Sign.ERROR)),
        (b"event: error\n" + event(type="error", error={"type": "api_error"}), (0, Sign.ERROR)),
        (event(type="message_delta", delta={"stop_reason": None}), (0, Sign.ERROR)),
        (event(type="message_delta", delta={"stop_reason": "end_turn"}), None),
        # Words of an answer, and members that say that there is none.
        (token('"error" and "abort"'), None),
        (event(type="response.created", response={"error": None}, error=None), None),
        (event(choices=[{"delta": {"content": "abort"}, "finish_reason": None}]), None),
        (b'data: {"error": broken\n\n', None),
        (b'data: ["error"]\n\n', None),
    ],
)
def test_sign_of_an_end(events: bytes, expected: tuple[int, Sign] | None) -> None:
    assert find_sign(events) == expected
    if expected is not None:
        assert is_suspicious(events)


def test_words_of_an_answer_are_not_even_suspicious() -> None:
    assert not is_suspicious(token('she said "error", then "abort"'))


def test_comments_are_no_answer() -> None:
    assert is_comment(b": keep-alive\n\n: again\n\n")
    assert not is_comment(b": keep-alive\n\n" + token("a"))


def test_answer_that_was_given_up() -> None:
    assert is_aborted(b'{"choices":[{"message":{},"finish_reason":"abort"}]}')
    assert not is_aborted(
        b'{"choices":[{"message":{"content":"\\"finish_reason\\":\\"abort\\""}}]}'
    )


def test_message_that_was_given_up_has_no_reason() -> None:
    message = b'{"id":"chatcmpl-1","type":"message","role":"assistant","content":[]%b}'
    assert is_aborted(message % b"")
    assert not is_aborted(message % b',"stop_reason":"end_turn"')
    assert not is_aborted(b'{"id":"resp_1","object":"response","output":[{"type":"message"}]}')
