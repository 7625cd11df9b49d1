"""The engine's answers as Ollama's clients get them."""

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.ollama.answer import Answer, Line, embedded, error_text, loaded, refusal
from cahoots_vllm.core.ollama.request import Asked, Route
from cahoots_vllm.core.ollama.sse import EventReader
from cahoots_vllm.core.ollama.times import Times

from .test_options import JSON

MEMBERS = (
    "choices", "usage", "error", "message", "delta", "content", "text", "reasoning", "tool_calls",
    "index", "function", "arguments", "finish_reason", "logprobs", "data", "embedding", "detail",
)  # fmt: skip
TIMES = Times(asked_at=100.0, loaded_s=2.0, first_at=102.5, ended_at=104.0)
UNSEEN = Times(asked_at=100.0, loaded_s=2.0, first_at=None, ended_at=104.0)
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
DONE = {
    "done": True, "done_reason": "stop", "total_duration": 4_000_000_000,
    "load_duration": 2_000_000_000, "prompt_eval_count": 7, "prompt_eval_duration": 500_000_000,
    "eval_count": 3, "eval_duration": 1_500_000_000,
}  # fmt: skip


def chat() -> Asked:
    return Asked(Route.CHAT, "m", is_stream=True)


def generate() -> Asked:
    return Asked(Route.GENERATE, "m", is_stream=True)


def event(delta: dict[str, object], finish_reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def call_delta(index: int, arguments: str, name: str | None = None) -> dict[str, object]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    head = {"id": f"call-{index}", "type": "function"} if name else {}
    return {"tool_calls": [{"index": index, "function": function, **head}]}


def streamed(asked: Asked, *events: dict[str, object]) -> list[Line]:
    answer = Answer(asked)
    lines = [line for event in events for line in answer.take(event)]
    return [*lines, answer.last(TIMES)]


def said(line: Line) -> dict[str, Any]:
    message = line["message"]
    assert isinstance(message, dict)
    return message


def test_streamed_chat_is_a_line_for_each_piece_and_one_with_the_counts() -> None:
    lines = streamed(
        chat(),
        event({"role": "assistant", "content": ""}),
        event({"content": "Par"}),
        event({"content": "is"}),
        event({"content": ""}, "stop"),
        {"choices": [], "usage": USAGE},
    )
    piece = {"role": "assistant", "content": "Par"}
    assert lines[0] == {"message": piece, "done": False}
    assert said(lines[1])["content"] == "is"
    assert lines[2] == {"message": {"role": "assistant", "content": ""}, **DONE}
    assert len(lines) == 3


def test_streamed_generate_has_its_own_shape() -> None:
    lines = streamed(
        generate(), event({"content": "Paris"}, "length"), {"choices": [], "usage": USAGE}
    )
    assert lines == [
        {"response": "Paris", "done": False},
        {"response": "", **DONE, "done_reason": "length"},
    ]


def test_completion_streams_its_text() -> None:
    events: list[dict[str, object]] = [
        {"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in ("a", "b")
    ]
    assert [line["response"] for line in streamed(generate(), *events)] == ["a", "b", ""]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_are_kept_apart(name: str) -> None:
    thought, answer, _ = streamed(chat(), event({name: "hm"}), event({"content": "4"}, "stop"))
    assert said(thought) == {"role": "assistant", "content": "", "thinking": "hm"}
    assert said(answer) == {"role": "assistant", "content": "4"}
    whole = Answer(generate()).whole(
        {"choices": [{"message": {"content": "4", name: "hm"}}], "usage": USAGE}, TIMES
    )
    assert (whole["response"], whole["thinking"]) == ("4", "hm")


def test_tool_calls_come_once_their_arguments_are_whole() -> None:
    lines = streamed(
        chat(),
        event(call_delta(0, "", "add")),
        event(call_delta(0, '{"a": 1')),
        event(call_delta(0, ', "b": [2]}')),
        event(call_delta(1, '{"c": 3}', "sub")),
        event({}, "tool_calls"),
    )
    first, second, last = lines
    assert said(first)["tool_calls"] == [
        {"id": "call-0", "function": {"index": 0, "name": "add", "arguments": {"a": 1, "b": [2]}}}
    ]
    assert said(second)["tool_calls"] == [
        {"id": "call-1", "function": {"index": 1, "name": "sub", "arguments": {"c": 3}}}
    ]
    assert last["done_reason"] == "stop"


def test_whole_chat() -> None:
    answer = {
        "choices": [
            {
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
    }
    line = Answer(chat()).whole(answer, UNSEEN)
    call = {"id": "c", "function": {"index": 0, "name": "f", "arguments": {}}}
    expected = DONE | {"eval_duration": 2_000_000_000}
    del expected["prompt_eval_duration"]
    assert line == {
        "message": {"role": "assistant", "content": "", "tool_calls": [call]}, **expected,
    }  # fmt: skip


@pytest.mark.parametrize("arguments", ["{not json", "[1]", "5"])
def test_arguments_that_are_no_object_are_shown_as_the_model_wrote_them(arguments: str) -> None:
    (line, _) = streamed(chat(), event(call_delta(0, arguments, "f"), "tool_calls"))
    assert said(line)["tool_calls"][0]["function"]["arguments"] == {"raw": arguments}


def test_log_probabilities_are_passed_on() -> None:
    row = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
    choice = {"delta": {"content": "a"}, "logprobs": {"content": [row]}, "finish_reason": None}
    lines = streamed(chat(), {"choices": [choice]})
    assert lines[0]["logprobs"] == [row]


def test_engines_error_event_is_an_error() -> None:
    with pytest.raises(CahootsError, match="EngineCore encountered an issue"):
        Answer(chat()).take({"error": {"message": "EngineCore encountered an issue", "code": 500}})


@pytest.mark.parametrize(
    "junk", [{}, {"choices": None}, {"choices": [1]}, {"choices": [{"delta": "x"}]}, {"usage": 5}]
)
def test_events_of_another_shape_bring_nothing(junk: dict[str, object]) -> None:
    (last,) = streamed(chat(), junk)
    assert "eval_count" not in last


@given(st.text(), st.lists(st.integers(0, 400), max_size=12))
def test_stream_says_the_same_however_it_is_cut(text: str, cuts: list[int]) -> None:
    pieces = [event({"content": char}) for char in text]
    events = [*pieces, event({}, "stop"), {"choices": [], "usage": USAGE}]
    wire = b": alive\n\n" + b"".join(
        b"data: " + json.dumps(one, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"
        for one in events
    )
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    reader, answer = EventReader(), Answer(chat())
    lines = [
        line
        for low, high in pairwise(edges)
        for data in reader.take(wire[low:high])
        for line in answer.take(json.loads(data))
    ]
    assert "".join(said(line)["content"] for line in lines) == text
    assert (answer.finish_reason, answer.usage) == ("stop", USAGE)


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON), st.sampled_from(Route))
def test_whatever_the_engine_sends_is_an_answer_or_its_error(
    event: dict[str, object], route: Route
) -> None:
    asked = Asked(route, "m", is_stream=True)
    with suppress(CahootsError):
        json.dumps(streamed(asked, event, {"choices": [event]}, {"choices": [{"delta": event}]}))
    json.dumps(Answer(asked).whole(event, TIMES))
    json.dumps(Answer(asked).whole({"choices": [{"message": event}]}, TIMES))
    json.dumps(embedded(asked, event, TIMES))
    status, text = refusal(asked, 400, event)
    assert (status, isinstance(text, str)) == (400, True)


def test_events_with_carriage_returns_and_several_data_lines() -> None:
    reader = EventReader()
    wire = b"event: x\r\ndata: 1\r\ndata:2\r\n\r\n:c\n\n\ndata: [DONE]\n\ndata: cut"
    assert list(reader.take(wire)) == [b"1\n2", b"[DONE]"]


def test_loading_and_unloading_are_answered_in_the_shape_of_the_route() -> None:
    message = {"role": "assistant", "content": ""}
    assert loaded(chat()) == {"message": message, "done": True, "done_reason": "load"}
    unload = Asked(Route.GENERATE, "m", is_stream=False, is_unload=True)
    assert loaded(unload) == {"response": "", "done": True, "done_reason": "unload"}
    assert loaded(Asked(Route.EMBED, "m", is_stream=False)) == {"embeddings": []}
    assert loaded(Asked(Route.EMBEDDINGS, "m", is_stream=False)) == {"embedding": []}


def test_embeddings_come_in_the_order_of_their_inputs() -> None:
    answer = {
        "data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}],
        "usage": {"prompt_tokens": 4},
    }
    line = embedded(Asked(Route.EMBED, "m", is_stream=False), answer, TIMES)
    assert (line["embeddings"], line["prompt_eval_count"]) == ([[1.0], [2.0]], 4)
    assert line["total_duration"] == 4_000_000_000
    one = embedded(Asked(Route.EMBEDDINGS, "m", is_stream=False), answer, TIMES)
    assert one == {"embedding": [1.0]}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"error": {"message": "too long", "code": 400}}, "too long"),
        ({"object": "error", "message": "too long"}, "too long"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": "too long"}, "too long"),
        ({"error": {}}, "the engine gave no reason"),
        ([], "the engine gave no reason"),
        (None, "the engine gave no reason"),
    ],
)
def test_engines_reason_is_found_in_each_of_its_shapes(answer: object, text: str) -> None:
    assert error_text(answer) == text


def test_refusals_in_ollamas_words() -> None:
    missing = {"error": {"message": "The model `m` does not exist.", "param": "model", "code": 404}}
    assert refusal(chat(), 404, missing) == (404, "model 'm' not found")
    tools = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    status, text = refusal(chat(), 400, {"error": {"message": tools}})
    assert status == 400
    assert text.startswith('"m" does not support tools; set enable-auto-tool-choice')
    embed = Asked(Route.EMBED, "m", is_stream=False)
    assert refusal(embed, 404, {"detail": "Not Found"}) == (
        400, '"m" does not support embeddings',
    )  # fmt: skip
    assert refusal(chat(), 400, {"error": {"message": "too long"}}) == (400, "too long")


@given(st.floats(0, 1e6), st.floats(0, 700), st.floats(0, 100), st.floats(0, 1000))
def test_durations_are_whole_nanoseconds_and_add_up(
    asked_at: float, loaded_s: float, prompt_s: float, eval_s: float
) -> None:
    first_at = asked_at + loaded_s + prompt_s
    view = Times(asked_at, loaded_s, first_at, first_at + eval_s).view()
    values = {name: value for name, value in view.items() if isinstance(value, int)}
    assert len(values) == 4
    assert all(value >= 0 for value in values.values())
    parts = sum(values.values()) - values["total_duration"]
    assert abs(parts - values["total_duration"]) < 1000
