"""Streams as the engine sends them, in whatever pieces they arrive."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.bench.answer import StreamReader

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def event(**fields: object) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


TOKENS = [event(choices=[{"text": text}]) for text in ("a", "", "data: {}\n\n", "ä")]
USAGE = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 5})
STREAM = [b": still here\n\n", *TOKENS, USAGE, b"data: [DONE]\n\n"]
WHOLE = _HEAD + b"".join(map(chunk, STREAM)) + b"0\r\n\r\n"


def read(*pieces: bytes) -> tuple[StreamReader, int]:
    reader = StreamReader()
    return reader, sum(reader.feed(piece) for piece in pieces)


def test_events_with_a_choice_are_counted_and_usage_is_the_engines() -> None:
    reader, count = read(WHOLE)
    assert count == len(TOKENS)
    assert (reader.input_tokens, reader.output_tokens) == (7, 5)
    assert reader.is_done
    assert reader.is_kept_alive
    assert reader.problem is None


@given(st.lists(st.integers(min_value=0, max_value=len(WHOLE)), max_size=30))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(WHOLE)]
    pieces = [WHOLE[a:b] for a, b in pairwise(places)]
    reader, count = read(*pieces)
    assert (count, reader.output_tokens, reader.is_done) == (len(TOKENS), 5, True)


def test_each_event_is_seen_when_it_is_whole_and_not_before() -> None:
    reader = StreamReader()
    reader.feed(_HEAD)
    whole = chunk(TOKENS[0])
    # The blank line ends an event: the chunk's own line end is not needed.
    assert reader.feed(whole[:-3]) == 0
    assert reader.feed(whole[-3:]) == 1


def test_refusal_is_read_in_its_own_words() -> None:
    body = b'{"error": {"message": "no such model", "code": 404}}'
    reader, count = read(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert (count, reader.is_done, reader.problem) == (0, True, "404: no such model")


def test_error_within_a_stream_is_a_problem() -> None:
    error = event(error={"message": "EngineCore died", "code": 500})
    reader, _ = read(_HEAD + chunk(TOKENS[0]) + chunk(error) + b"0\r\n\r\n")
    assert reader.problem == "EngineCore died"


def test_stream_that_ends_early_is_a_problem() -> None:
    reader, _ = read(WHOLE[:-10])
    reader.end()
    assert reader.problem == "the connection ended before the answer did"


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH\r\n\r\n", _HEAD + b"zz\r\n", _HEAD + chunk(b"data: {\n\n")]
)
def test_what_is_not_http_or_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(data)
