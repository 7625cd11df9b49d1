"""Ollama's own client on a real engine, as Cahoots has it: below LOCAL_LLM_URL."""

import json
from collections.abc import Iterator

import ollama
import pytest

from engine.harness import DEMO, READY_S, Daemon, wait_for

pytestmark = pytest.mark.timeout(600)
QUESTION = {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
EXACT = {"temperature": 0, "num_predict": 40}
AGE = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.fixture
def listening(daemon: Daemon) -> Daemon:
    """The daemon once it listens; the first test asks before the worker is ready, and is held."""
    assert wait_for(lambda: daemon.ctl("status").returncode != 4, 20)
    return daemon


@pytest.fixture
def client(listening: Daemon) -> Iterator[ollama.Client]:
    """The client as Cahoots has it."""
    with ollama.Client(f"http://localhost:{listening.port}/v1", timeout=READY_S) as one:
        yield one


def say(what: str, answer: ollama.ChatResponse | ollama.GenerateResponse) -> None:
    """Print figures, not a log."""
    names = ("total", "load", "prompt_eval", "eval")
    figures = [f"{name} {(answer.get(f'{name}_duration') or 0) / 1e9:.2f} s" for name in names]
    counts = f"{answer.prompt_eval_count} + {answer.eval_count} tokens"
    print(f"\n    {what}: {', '.join(figures)}; {counts}")  # noqa: T201


def test_chat(client: ollama.Client) -> None:
    answer = client.chat(DEMO, [QUESTION], options=EXACT)
    say("chat", answer)
    assert "Paris" in (answer.message.content or "")
    assert answer.done_reason == "stop"
    assert answer.prompt_eval_count
    assert answer.eval_count


def test_streamed_chat(client: ollama.Client) -> None:
    parts = list(client.chat(DEMO, [QUESTION], stream=True, options=EXACT))
    say("streamed chat", parts[-1])
    assert "Paris" in "".join(part.message.content or "" for part in parts)
    assert len(parts) > 4
    assert parts[-1].prompt_eval_duration
    assert parts[-1].eval_duration


async def test_async_client(listening: Daemon) -> None:
    async with ollama.AsyncClient(f"http://localhost:{listening.port}", timeout=READY_S) as client:
        stream = await client.chat(f"{DEMO}:latest", [QUESTION], stream=True, options=EXACT)
        assert "Paris" in "".join([part.message.content or "" async for part in stream])


def test_generate_and_raw_generate(client: ollama.Client) -> None:
    answer = client.generate(DEMO, QUESTION["content"], system="Be brief.", options=EXACT)
    say("generate", answer)
    assert "Paris" in (answer.response or "")
    raw = client.generate(DEMO, "The capital of France is", raw=True, options=EXACT)
    assert (raw.response or "").startswith(" Paris")
    # Without a limit a completion ends after 16 tokens, unless it is told the context's length.
    long = client.generate(
        DEMO, "1 2 3 4 5 6 7 8 9 10 11", raw=True, options={"temperature": 0, "stop": ["40"]}
    )
    say("raw generate", long)
    assert (long.eval_count or 0) > 16


def test_options_of_every_kind_are_taken(client: ollama.Client) -> None:
    """The engine refuses some values that Ollama takes."""
    options = {
        "num_predict": 20, "temperature": 0, "top_p": 0, "top_k": 0, "min_p": 2, "seed": -1,
        "repeat_penalty": 0, "presence_penalty": 9, "frequency_penalty": -9, "stop": ["", "."],
        "num_ctx": 64, "mirostat": 1,
    }  # fmt: skip
    answer = client.chat(DEMO, [QUESTION], options=options)
    assert answer.message.content
    endless = {"num_predict": 10**6, "temperature": 0}
    assert "Paris" in (client.chat(DEMO, [QUESTION], options=endless).message.content or "")
    short = client.chat(DEMO, [QUESTION], options={"num_predict": 3})
    assert (short.eval_count, short.done_reason) == (3, "length")


def test_format_is_kept_to(client: ollama.Client) -> None:
    ask = [{"role": "user", "content": "How old is the child? Answer in JSON."}]
    answer = client.chat(DEMO, ask, format=AGE, options=EXACT)
    assert 1 <= json.loads(answer.message.content or "")["age"] <= 9
    loose = client.generate(DEMO, "An empty JSON object:", format="json", options=EXACT)
    assert (loose.response or "").lstrip().startswith("{")


def test_thinking_and_log_probabilities_do_not_hurt(client: ollama.Client) -> None:
    answer = client.chat(
        DEMO, [QUESTION], think=False, logprobs=True, top_logprobs=2, options=EXACT
    )
    assert "Paris" in (answer.message.content or "")
    assert answer.logprobs
    assert len(answer.logprobs[0].top_logprobs or ()) == 2


def test_earlier_tool_calls_are_understood_and_new_ones_refused(client: ollama.Client) -> None:
    call = {"function": {"name": "capital", "arguments": {"country": "France"}}}
    messages: list[dict[str, object]] = [
        dict(QUESTION),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Paris", "tool_name": "capital"},
    ]
    assert client.chat(DEMO, messages, options=EXACT).message.content
    tool = {"type": "function", "function": {"name": "capital", "parameters": {"type": "object"}}}
    with pytest.raises(ollama.ResponseError, match="does not support tools") as caught:
        client.chat(DEMO, [QUESTION], tools=[tool])
    assert caught.value.status_code == 400


def test_refusals(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'llama3' not found"):
        client.chat("llama3", [QUESTION])
    with pytest.raises(ollama.ResponseError, match="does not support embeddings"):
        client.embed(DEMO, "x")
    with pytest.raises(ollama.ResponseError, match="not a multimodal model"):
        client.chat(DEMO, [QUESTION | {"images": ["iVBORw0KGgo="]}])
    with pytest.raises(ollama.ResponseError, match="maximum context length"):
        client.chat(DEMO, [{"role": "user", "content": "word " * 5000}])


def test_listings(client: ollama.Client) -> None:
    assert client.chat(DEMO).done_reason == "load"
    (listed,) = client.list().models
    (loaded,) = client.ps().models
    assert (listed.model, loaded.model) == (DEMO, DEMO)
    assert (listed.size or 0) > 200_000_000
    assert loaded.context_length == 2048
    shown = client.show(DEMO)
    assert shown.modelinfo == {
        "general.architecture": "llama",
        "general.basename": DEMO,
        "llama.context_length": 2048,
    }
    assert shown.details is not None
    assert (shown.details.family, shown.capabilities) == ("llama", ["completion"])
