"""Ollama's own client while the worker comes, goes and dies, and with what profiles switch on."""

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import ollama
import pytest

from fake_vllm.script import Behaviour

from .harness import Daemon, exchange, wait_for
from .test_ollama import MODEL, USER, check_durations

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


@pytest.fixture
def calling(daemon: Daemon) -> Iterator[ollama.Client]:
    """The client of a model that may call tools."""
    profile = daemon.config / "models.d" / "org-a.toml"
    options = '[options]\nenable-auto-tool-choice = true\ntool-call-parser = "hermes"\n'
    profile.write_text(profile.read_text() + options)
    daemon.start_ready()
    with ollama.Client(f"http://localhost:{daemon.port}") as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_tool_call_goes_there_and_back(calling: ollama.Client, *, stream: bool) -> None:
    messages: list[ollama.Message] = [ollama.Message(role="user", content=f"two {CALL} {CALL}")]
    if stream:
        parts = list(calling.chat(MODEL, messages, tools=[add], stream=True))
        assert (parts[-1].done, parts[-1].done_reason) == (True, "stop")
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        content = "".join(part.message.content or "" for part in parts)
    else:
        answer = calling.chat(MODEL, messages, tools=[add])
        assert answer.done_reason == "stop"
        calls, content = list(answer.message.tool_calls or ()), answer.message.content or ""
    assert content.strip() == "fake: two"
    found = [(call.function.name, add(**call.function.arguments)) for call in calls]
    assert found == [("add", 3), ("add", 3)]
    messages.append(ollama.Message(role="assistant", content="", tool_calls=calls))
    messages += [ollama.Message(role="tool", content="3", tool_name="add") for _ in calls]
    assert calling.chat(MODEL, messages, tools=[add]).message.tool_calls


def test_capabilities_follow_the_profile(calling: ollama.Client) -> None:
    assert calling.show(MODEL).capabilities == ["completion", "tools"]


def test_profiles_are_listed_and_answer_on_demand(daemon: Daemon) -> None:
    daemon.configure(gateway={"on_demand": "profiles", "min_stay_s": 0})
    daemon.start_ready()
    with ollama.Client(f"http://localhost:{daemon.port}") as client:
        names = [model.model for model in client.list().models]
        assert names[0] == MODEL
        assert "org/b" in names
        assert [model.model for model in client.ps().models] == [MODEL]
        answer = client.chat("org/b:latest", [USER])
        assert (answer.model, answer.message.content) == ("org/b:latest", "fake: one two three")
        assert [model.model for model in client.ps().models] == ["org/b"]
        assert client.chat(MODEL).done_reason == "load"
        assert [model.model for model in client.ps().models] == [MODEL]


def test_idle_model_expires_and_is_not_listed_as_loaded(daemon: Daemon) -> None:
    daemon.configure(gateway={"idle_stop_s": 2})
    daemon.start_ready()
    with ollama.Client(f"http://localhost:{daemon.port}") as client:
        (loaded,) = client.ps().models
        assert loaded.expires_at is not None
        assert loaded.expires_at <= datetime.now(UTC) + timedelta(seconds=2)
        wait_for(lambda: not client.ps().models, what="it is unloaded")
        assert [model.model for model in client.list().models] == [MODEL]
        assert client.chat(MODEL, [USER]).message.content == "fake: one two three"


def test_load_waits_until_the_model_is_there(daemon: Daemon) -> None:
    daemon.play(Behaviour(delays_s={"load": 1}))
    daemon.start()
    with ollama.Client(f"http://localhost:{daemon.port}") as client:
        assert client.ps().models == []
        assert client.chat(MODEL).done_reason == "load"
        assert daemon.phase() == "ready"


def test_base_path_follows_the_settings(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.write_env(LOCAL_LLM_URL=f"http://localhost:{daemon.port}/llm")
    daemon.change("reload")
    body = {"model": MODEL, "messages": [USER], "stream": False}
    for path, expected in (("/llm/api/chat", 200), ("/api/chat", 200), ("/v1/api/chat", 404)):
        answer = exchange(daemon.gateway(), "POST", path, json.dumps(body))
        assert (path, answer.status) == (path, expected)


def test_stopped_model_is_refused_with_the_remedy(daemon: Daemon) -> None:
    daemon.start_ready()
    daemon.change("stop")
    for stream in (True, False):
        body = {"model": MODEL, "messages": [USER], "stream": stream}
        answer = exchange(daemon.gateway(), "POST", "/v1/api/chat", json.dumps(body))
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert "cahootsctl start" in answer.json()["error"]


def test_chat_before_the_worker_is_ready_is_held(daemon: Daemon) -> None:
    daemon.play(Behaviour(delays_s={"load": 1}))
    daemon.start()
    with ollama.Client(f"http://localhost:{daemon.port}") as client:
        last = list(client.chat(MODEL, [USER], stream=True))[-1]
    assert last.load_duration is not None
    assert last.load_duration > 500_000_000
    check_durations(last)


def test_chat_in_flight_at_a_death_is_asked_again(daemon: Daemon) -> None:
    """A request that is no stream, or a stream without a line yet."""
    daemon.play(Behaviour(exit0_after_requests=2), Behaviour())
    daemon.start_ready()  # the canary is the first request
    with ollama.Client(f"http://localhost:{daemon.port}") as client:
        for _ in range(3):
            assert client.chat(MODEL, [USER]).message.content == "fake: one two three"


def test_stream_that_was_cut_ends_with_an_error_line(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=5), Behaviour())
    daemon.start_ready()
    said = []
    with ollama.Client(f"http://localhost:{daemon.port}") as client:
        stream = client.chat(MODEL, [USER], stream=True)
        said.append(next(stream).message.content)
        threading.Thread(target=kill_engine, args=(daemon,)).start()
        with pytest.raises(ollama.ResponseError, match="lost in the middle of the answer"):
            said += [part.message.content for part in stream]
    assert said[0] == "fake: "
    assert "three" not in said


def test_client_that_hangs_up_stops_the_engine(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=5))
    daemon.start_ready()
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 500}]}
    connection.request("POST", "/api/chat", json.dumps(body))
    response = connection.getresponse()
    assert response.readline()
    wait_for(lambda: daemon.status()["requests"]["running"] == 1)
    response.close()
    connection.close()
    wait_for(lambda: daemon.status()["requests"]["running"] == 0, 5)


def kill_engine(daemon: Daemon) -> None:
    os.kill(daemon.pid_of("EngineCore"), signal.SIGKILL)
