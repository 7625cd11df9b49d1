"""Requests of Ollama's clients as the engine gets them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.ollama.request import Asked, Route, Served, needs_length, read_request

from .test_options import JSON

USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}}
MEMBERS = (
    "model", "messages", "prompt", "input", "stream", "raw", "format", "options", "tools",
    "think", "images", "system", "template", "suffix", "context", "keep_alive", "logprobs",
    "top_logprobs", "truncate",
)  # fmt: skip


def asked(route: Route, **members: object) -> Asked:
    return read_request(route, {"model": "m:latest"} | members, Served("m", None))


def sent(route: Route, **members: object) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(asked(route, **members).body)
    return body


def test_chat_streams_by_default_and_asks_for_the_usage() -> None:
    found = asked(Route.CHAT, messages=[USER])
    assert (found.target, found.model, found.is_stream) == (
        "/v1/chat/completions", "m:latest", True,
    )  # fmt: skip
    assert json.loads(found.body) == {
        "model": "m",
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_chat_that_is_no_stream_has_no_stream_options() -> None:
    """The engine refuses them (check in vllm's ChatCompletionRequest)."""
    found = asked(Route.CHAT, messages=[USER], stream=False)
    assert not found.is_stream
    assert json.loads(found.body) == {"model": "m", "messages": [USER]}


def test_options_go_beside_the_messages() -> None:
    body = sent(Route.CHAT, messages=[USER], options={"num_predict": 5, "num_ctx": 9})
    assert body["max_tokens"] == 5
    assert "num_ctx" not in body
    assert "options" not in body


def test_tools_are_passed_on_and_an_empty_list_is_not() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
    assert sent(Route.CHAT, messages=[USER], tools=[tool])["tools"] == [tool]
    assert "tools" not in sent(Route.CHAT, messages=[USER], tools=[])


def test_formats() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "format", "schema": SCHEMA}}
    for route, words in ((Route.CHAT, {"messages": [USER]}), (Route.GENERATE, {"prompt": "x"})):
        assert sent(route, **words, format="json")["response_format"] == {"type": "json_object"}
        assert sent(route, **words, format=SCHEMA)["response_format"] == wanted
        assert "response_format" not in sent(route, **words, format="")


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (None, {}),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}),
        (True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (
            "high",
            {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": True}},
        ),
    ],
)
def test_thinking(think: object, expected: dict[str, object]) -> None:
    for route, words in ((Route.CHAT, {"messages": [USER]}), (Route.GENERATE, {"prompt": "x"})):
        plain = sent(route, **words)
        assert sent(route, **words, think=think) == plain | expected


def test_generate_is_a_chat_with_the_system_prompt_first() -> None:
    found = asked(Route.GENERATE, prompt="Why?", system="Be short.", stream=False, images=["/9j/"])
    assert found.target == "/v1/chat/completions"
    system, user = json.loads(found.body)["messages"]
    assert system == {"role": "system", "content": "Be short."}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]


def test_raw_generate_is_a_completion_as_long_as_the_context() -> None:
    """Without a limit the engine ends it after 16 tokens, null included: seen of vLLM 0.32."""
    members: dict[str, object] = {"model": "m", "prompt": "[INST] x", "raw": True, "stream": False}
    assert needs_length(Route.GENERATE, members)
    found = read_request(Route.GENERATE, members, Served("m", 2048))
    assert found.target == "/v1/completions"
    assert json.loads(found.body) == {"model": "m", "prompt": "[INST] x", "max_tokens": 2048}
    options = {"options": {"num_predict": 3}}
    limited = read_request(Route.GENERATE, members | options, Served("m", 2048))
    assert json.loads(limited.body)["max_tokens"] == 3


def test_limit_above_the_context_is_the_context() -> None:
    """The engine refuses a higher one: renderers/params.py of vLLM 0.32."""
    members: dict[str, object] = {"messages": [USER], "options": {"num_predict": 99}}
    found = read_request(Route.CHAT, members, Served("m", 50))
    assert json.loads(found.body)["max_tokens"] == 50
    assert not needs_length(Route.CHAT, members)


@pytest.mark.parametrize(
    ("route", "members", "is_unload"),
    [
        (Route.CHAT, {}, False),
        (Route.CHAT, {"messages": []}, False),
        (Route.CHAT, {"messages": [], "keep_alive": 0}, True),
        (Route.CHAT, {"messages": [], "keep_alive": "0s"}, True),
        (Route.CHAT, {"messages": [], "keep_alive": "10m"}, False),
        (Route.CHAT, {"messages": [], "keep_alive": -1}, False),
        (Route.GENERATE, {}, False),
        (Route.GENERATE, {"prompt": "", "raw": True}, False),
        (Route.GENERATE, {"keep_alive": 0.0}, True),
        (Route.EMBED, {"input": []}, False),
        (Route.EMBED, {"input": "", "keep_alive": 0}, False),
        (Route.EMBEDDINGS, {"prompt": ""}, False),
    ],
)
def test_nothing_to_say_only_loads_or_unloads(
    route: Route, members: dict[str, object], *, is_unload: bool
) -> None:
    found = asked(route, **members)
    assert (found.target, found.body, found.is_unload) == (None, b"", is_unload)


def test_keep_alive_of_a_request_for_text_is_ignored() -> None:
    found = asked(Route.CHAT, messages=[USER], keep_alive=0)
    assert not found.is_unload
    assert "keep_alive" not in json.loads(found.body)


def test_embeddings() -> None:
    body = sent(Route.EMBED, input=["a", "b"], dimensions=8)
    assert body == {
        "model": "m", "input": ["a", "b"], "dimensions": 8, "truncate_prompt_tokens": -1,
    }  # fmt: skip
    assert sent(Route.EMBED, input="a", truncate=False) == {"model": "m", "input": ["a"]}
    assert sent(Route.EMBEDDINGS, prompt="a") == {"model": "m", "input": ["a"]}


def test_log_probabilities() -> None:
    body = sent(Route.CHAT, messages=[USER], logprobs=True, top_logprobs=3)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
    assert "top_logprobs" not in sent(Route.CHAT, messages=[USER], top_logprobs=3)


@pytest.mark.parametrize(
    ("route", "members", "why"),
    [
        (Route.CHAT, {"messages": "hi"}, "messages must be an array"),
        (Route.CHAT, {"messages": [USER], "format": "xml"}, "format must be"),
        (Route.CHAT, {"messages": [USER], "think": "hard"}, "think must be"),
        (Route.CHAT, {"messages": [USER], "stream": 1}, "stream must be true or false"),
        (Route.CHAT, {"messages": [USER], "top_logprobs": 21}, "between 0 and 20"),
        (Route.GENERATE, {"prompt": 5}, "prompt must be a string"),
        (Route.GENERATE, {"prompt": "x", "suffix": "y"}, "does not support insert"),
        (Route.GENERATE, {"prompt": "x", "template": "{{ .Prompt }}"}, "no template"),
        (Route.GENERATE, {"prompt": "x", "raw": True, "system": "y"}, "raw mode does not support"),
        (Route.GENERATE, {"prompt": "x", "raw": True, "images": ["y"]}, "raw mode does not"),
        (Route.EMBED, {"input": [1]}, "array of strings"),
    ],
)
def test_what_cannot_be_done_is_refused(route: Route, members: dict[str, object], why: str) -> None:
    with pytest.raises(CahootsError, match=why):
        asked(route, **members)


@given(
    st.sampled_from(Route),
    st.dictionaries(st.sampled_from(MEMBERS), JSON),
    st.none() | st.integers(1, 9999),
)
def test_whatever_is_asked_is_refused_or_becomes_a_request(
    route: Route, body: dict[str, object], length: int | None
) -> None:
    found, kind = Asked(route, "m", is_stream=False), Kind.BAD_REQUEST
    try:
        found = read_request(route, body, Served("m", length))
    except CahootsError as error:
        kind = error.kind
    assert kind is Kind.BAD_REQUEST
    assert (found.target is None) == (not found.body)
    if found.body:
        assert json.loads(found.body)["model"] == "m"
