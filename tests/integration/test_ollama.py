"""Ollama's own client against the gateway, below its root and below the path of LOCAL_LLM_URL."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import ollama
import pytest

from fake_vllm.engine_dir import WEIGHTS

from .harness import Daemon, exchange

MODEL = "org/a"
USER = {"role": "user", "content": "one two three"}


@pytest.fixture(scope="module")
def client(serving: Daemon) -> Iterator[ollama.Client]:
    """The client as Cahoots has it: below LOCAL_LLM_URL."""
    with ollama.Client(f"http://localhost:{serving.port}/v1") as one:
        yield one


def post(serving: Daemon, path: str, body: object) -> tuple[int, str, list[dict[str, Any]]]:
    """Send JSON with no client of Ollama's; return status, content type and the answer's lines."""
    text = body if isinstance(body, str) else json.dumps(body)
    answer = exchange(serving.gateway(), "POST", path, text)
    lines = [json.loads(line) for line in answer.body.splitlines()]
    return answer.status, answer.headers.get_content_type(), lines


def test_cahoots_own_request_is_answered(serving: Daemon) -> None:
    """What Cahoots posts to LOCAL_LLM_URL + /api/chat; bare vLLM says 404."""
    body = {"model": MODEL, "messages": [USER], "stream": False, "options": {"temperature": 0}}
    status, kind, (answer,) = post(serving, "/v1/api/chat", body)
    assert (status, kind) == (200, "application/json")
    assert answer["model"] == MODEL
    assert answer["message"] == {"role": "assistant", "content": "fake: one two three"}
    assert (answer["done"], answer["done_reason"]) == (True, "stop")


def test_chat(client: ollama.Client) -> None:
    before = datetime.now(UTC)
    answer = client.chat(MODEL, [USER])
    assert answer.message.content == "fake: one two three"
    assert (answer.model, answer.done, answer.done_reason) == (MODEL, True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (3, 4)
    assert answer.created_at is not None
    created = datetime.fromisoformat(answer.created_at)
    assert before <= created <= datetime.now(UTC)
    check_durations(answer)


def check_durations(answer: ollama.ChatResponse | ollama.GenerateResponse) -> None:
    assert answer.total_duration is not None
    assert answer.load_duration is not None
    assert answer.eval_duration is not None
    prompt_ns = answer.prompt_eval_duration or 0
    assert answer.eval_duration > 0
    parts = answer.load_duration + prompt_ns + answer.eval_duration
    assert abs(parts - answer.total_duration) <= 2  # nanoseconds of rounding


def test_streamed_chat(client: ollama.Client) -> None:
    parts = list(client.chat(MODEL, [USER], stream=True))
    assert [part.message.content for part in parts] == ["fake: ", "one ", "two ", "three", ""]
    assert [part.done for part in parts] == [False] * 4 + [True]
    last = parts[-1]
    assert (last.done_reason, last.prompt_eval_count, last.eval_count) == ("stop", 3, 4)
    assert last.prompt_eval_duration
    check_durations(last)


def test_generate_streamed_raw_and_with_a_system_prompt(client: ollama.Client) -> None:
    assert client.generate(MODEL, "a b", system="Be short.").response == "fake: a b"
    raw = client.generate(MODEL, "[INST] a", raw=True)
    assert raw.response == "fake: [INST] a"
    assert raw.eval_count == 3
    parts = list(client.generate(MODEL, "a b", stream=True))
    assert "".join(part.response or "" for part in parts) == "fake: a b"
    assert parts[-1].done_reason == "stop"
    assert "message" not in parts[-1]


def test_options_reach_the_engine_and_unknown_ones_are_ignored(client: ollama.Client) -> None:
    answer = client.chat(MODEL, [USER], options={"num_predict": 2, "num_ctx": 99, "mirostat": 1})
    assert answer.message.content == "fake: one "
    assert (answer.done_reason, answer.eval_count) == ("length", 2)
    endless = client.chat(MODEL, [USER], options={"num_predict": -1})
    assert endless.message.content == "fake: one two three"


def test_tools_that_the_model_does_not_take_are_refused(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support tools") as caught:
        client.chat(MODEL, [USER], tools=[{"type": "function", "function": {"name": "f"}}])
    assert caught.value.status_code == 400
    assert "tool-call-parser in its profile" in caught.value.error


async def test_async_client(serving: Daemon) -> None:
    async with ollama.AsyncClient(f"http://localhost:{serving.port}") as client:
        answer = await client.chat(MODEL, [USER])
        assert answer.message.content == "fake: one two three"
        parts = [part async for part in await client.chat(MODEL, [USER], stream=True)]
        assert "".join(part.message.content or "" for part in parts) == "fake: one two three"
        generated = [part async for part in await client.generate(MODEL, "a", stream=True)]
        assert "".join(part.response or "" for part in generated) == "fake: a"
        assert [model.model for model in (await client.list()).models] == [MODEL]


def test_default_tag_is_accepted_and_given_back(client: ollama.Client) -> None:
    answer = client.chat(f"{MODEL}:latest", [USER])
    assert answer.model == f"{MODEL}:latest"
    assert answer.message.content == "fake: one two three"


@pytest.mark.parametrize("stream", [False, True])
def test_model_that_nobody_serves_is_not_found(client: ollama.Client, *, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat("llama3", [USER], stream=stream))  # type: ignore[call-overload] # a bool
    assert (caught.value.status_code, caught.value.error) == (404, "model 'llama3' not found")
    with pytest.raises(ollama.ResponseError) as caught:
        client.show("llama3")
    assert caught.value.status_code == 404


def test_empty_requests_load_and_unload(client: ollama.Client) -> None:
    assert client.chat(MODEL).done_reason == "load"
    assert client.generate(MODEL).done_reason == "load"
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    unloaded = client.chat(MODEL, keep_alive=0)
    assert (unloaded.done_reason, unloaded.message.content) == ("unload", "")
    assert client.chat(MODEL, [USER]).message.content == "fake: one two three"


def test_listings(serving: Daemon, client: ollama.Client) -> None:
    (listed,) = client.list().models
    assert listed.model == MODEL
    assert listed.digest is not None
    assert len(listed.digest) == 64
    assert listed.size == len(WEIGHTS)
    (loaded,) = client.ps().models
    assert (loaded.model, loaded.digest) == (MODEL, listed.digest)
    assert loaded.context_length == 2048
    assert loaded.expires_at is not None
    assert loaded.expires_at > datetime.now(UTC) + timedelta(days=20 * 365)  # "Forever"
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo is not None
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] == 2048
    assert (shown.template, shown.parameters) == ("", "")
    version = serving.get("/v1/api/version").json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)


@pytest.mark.parametrize("path", ["/", "/v1/"])
def test_root_says_that_an_ollama_is_there(serving: Daemon, path: str) -> None:
    answer = serving.get(path)
    assert (answer.status, answer.body) == (200, b"Ollama is running")
    head = exchange(serving.gateway(), "HEAD", path)
    assert (head.status, head.body) == (200, b"")


def test_managing_models_is_refused_with_the_remedy(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="cahootsctl pull") as caught:
        client.pull("llama3")
    assert caught.value.status_code == 501
    with pytest.raises(ollama.ResponseError, match="cahootsctl"):
        client.delete(MODEL)
    with pytest.raises(ollama.ResponseError, match="cahootsctl"):
        client.copy(MODEL, "other")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("", 400, "missing request body"),
        ("{", 400, "no JSON"),
        ("[]", 400, "no JSON object"),
        ('{"model": "org/a", "options": {"top_p": NaN}}', 400, "no JSON"),
        ({"messages": [USER]}, 400, "model is required"),
        ({"model": MODEL, "messages": 5}, 400, "messages must be an array"),
        ({"model": MODEL, "messages": [USER], "options": {"seed": "x"}}, 400, "of type integer"),
    ],
)
def test_garbled_request_is_refused_in_ollamas_shape(
    serving: Daemon, body: object, status: int, error: str
) -> None:
    found, kind, (answer,) = post(serving, "/api/chat", body)
    assert (found, kind) == (status, "application/json")
    assert error in answer["error"]


def test_other_routes_and_methods_are_answered_in_ollamas_shape(serving: Daemon) -> None:
    answer = serving.get("/api/chat")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert "use POST" in answer.json()["error"]
    answer = serving.get("/v1/api/no-such")
    assert answer.status == 404
    assert "no such route" in answer.json()["error"]


def test_engines_refusal_keeps_its_status_and_reason(client: ollama.Client) -> None:
    """Embeddings of a model that has none; the engine does not even know the route."""
    with pytest.raises(ollama.ResponseError, match="does not support embeddings") as caught:
        client.embed(MODEL, "x")
    assert caught.value.status_code == 400
