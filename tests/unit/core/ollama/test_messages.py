"""Messages: images, thoughts, tool calls and the answers to them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.ollama.answer import Answer
from cahoots_vllm.core.ollama.messages import to_openai
from cahoots_vllm.core.ollama.request import Asked, Route
from cahoots_vllm.core.ollama.times import Times

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
ARGUMENTS = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())
)


def tool_call(name: str, **more: object) -> dict[str, object]:
    return {"function": {"name": name, "arguments": {"x": 1}}} | more


def tool_answer(**more: object) -> dict[str, object]:
    return {"role": "tool", "content": "done"} | more


def asks(*calls: dict[str, object]) -> dict[str, object]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def answered(messages: list[dict[str, object]]) -> list[object]:
    return [m["tool_call_id"] for m in to_openai(messages) if m["role"] == "tool"]


def test_plain_messages_stay_as_they_are() -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi ä"}]
    assert to_openai(messages) == messages


@pytest.mark.parametrize(
    ("image", "url"),
    [
        (PNG, f"data:image/png;base64,{PNG}"),
        ("/9j/4AAQ", "data:image/jpeg;base64,/9j/4AAQ"),
        ("UklGRiQA", "data:image/webp;base64,UklGRiQA"),
        ("R0lGODlh", "data:image/gif;base64,R0lGODlh"),
        ("????", "data:image/jpeg;base64,????"),
        ("data:image/bmp;base64,Qk0=", "data:image/bmp;base64,Qk0="),
    ],
)
def test_image_becomes_a_data_url_before_the_text(image: str, url: str) -> None:
    (message,) = to_openai([{"role": "user", "content": "What is it?", "images": [image]}])
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is it?"},
    ]


def test_image_without_words_has_no_empty_text_beside_it() -> None:
    (message,) = to_openai([{"role": "user", "content": "", "images": [PNG]}])
    assert isinstance(message["content"], list)
    assert [part["type"] for part in message["content"]] == ["image_url"]


def test_thoughts_of_earlier_answers_are_passed_on() -> None:
    (message,) = to_openai([{"role": "assistant", "content": "4", "thinking": "2 and 2"}])
    assert message == {"role": "assistant", "content": "4", "reasoning": "2 and 2"}


def test_tool_call_gets_an_id_and_its_arguments_become_text() -> None:
    message, reply = to_openai([asks(tool_call("add")), tool_answer(tool_name="add")])
    assert message["tool_calls"] == [
        {
            "id": "call_0",
            "type": "function",
            "function": {"name": "add", "arguments": '{"x": 1}'},
        }
    ]
    assert reply == {"role": "tool", "content": "done", "tool_call_id": "call_0", "name": "add"}


def test_answers_find_their_calls_by_name_in_whatever_order() -> None:
    calls = asks(tool_call("add"), tool_call("sub"), tool_call("add"))
    answers = [tool_answer(tool_name=name) for name in ("sub", "add", "add")]
    assert answered([calls, *answers]) == ["call_1", "call_0", "call_2"]


def test_answers_without_a_name_follow_the_order_of_the_calls() -> None:
    assert answered([asks(tool_call("a"), tool_call("b")), tool_answer(), tool_answer()]) == [
        "call_0", "call_1",
    ]  # fmt: skip


def test_clients_own_ids_are_kept() -> None:
    calls = asks(tool_call("a", id="x1"), tool_call("a", id="x2"))
    answers = [tool_answer(tool_call_id="x2"), tool_answer(tool_call_id="x1", name="a")]
    assert answered([calls, *answers]) == ["x2", "x1"]


def test_answer_to_no_call_has_an_id_all_the_same() -> None:
    assert answered([tool_answer(tool_name="a"), tool_answer(tool_call_id="x9")]) == [
        "call_0", "x9",
    ]  # fmt: skip


def test_arguments_that_are_text_already_stay_so() -> None:
    call: dict[str, object] = {"function": {"name": "add", "arguments": '{"y": 2}'}}
    (message,) = to_openai([asks(call)])
    assert isinstance(message["tool_calls"], list)
    assert message["tool_calls"][0]["function"]["arguments"] == '{"y": 2}'


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"content": "x"}, "must have a role"),
        ({"role": "user", "content": 5}, "content must be a string"),
        ({"role": "user", "content": "x", "images": "abc"}, "images must be an array"),
        ({"role": "user", "content": "x", "images": [1]}, "images must be an array of strings"),
        (asks({"function": {}}), "must name its function"),
        ({"role": "assistant", "tool_calls": [1]}, "tool_calls must be an array of objects"),
    ],
)
def test_garbled_message_is_refused(message: dict[str, object], why: str) -> None:
    with pytest.raises(CahootsError, match=why):
        to_openai([message])


@given(st.text(min_size=1), ARGUMENTS, st.text())
def test_tool_call_comes_back_as_it_was_sent(name: str, arguments: object, content: str) -> None:
    """What the engine is sent as a call of its own, given back as its answer, is the client's."""
    sent = {"role": "assistant", "content": content, "tool_calls": [
        {"id": "call_a", "function": {"name": name, "arguments": arguments}},
    ]}  # fmt: skip
    (message,) = json.loads(json.dumps(to_openai([sent])))
    answer = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    line = Answer(Asked(Route.CHAT, "m", is_stream=False)).whole(answer, Times(0, 0, None, 1))
    assert line["message"] == {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"id": "call_a", "function": {"index": 0, "name": name, "arguments": arguments}}
        ],
    }
