"""Another port or address: the gateway moves, the worker and what is under way do not notice."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fake_vllm.script import Behaviour

from .event_stream import event_stream
from .harness import Daemon, chat_body, free_port, wait_for


def url(port: int) -> str:
    return f"http://localhost:{port}/v1"


def move(daemon: Daemon, port: int) -> None:
    """Save another port and wait until clients are told so."""
    daemon.write_env(LOCAL_LLM_URL=url(port))
    wait_for(
        lambda: daemon.status()["endpoint"][0] == f"http://127.0.0.1:{port}/v1", what=f"port {port}"
    )


def refuses(port: int, host: str = "127.0.0.1") -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        return probe.connect_ex((host, port)) != 0


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


def test_new_port_is_listened_on_and_the_worker_stays(daemon: Daemon) -> None:
    daemon.start_ready()
    before, old = daemon.main_pid(), daemon.port
    daemon.port = free_port()
    move(daemon, daemon.port)
    assert daemon.says("on the new port") == "fake: on the new port"
    assert refuses(old)
    assert daemon.main_pid() == before
    assert daemon.started() == 1


def test_port_can_come_back(daemon: Daemon) -> None:
    daemon.start_ready()
    old, new = daemon.port, free_port()
    for port in (new, old, new):
        move(daemon, port)
        daemon.port = port
        assert daemon.says("here") == "fake: here"


def test_answer_that_is_under_way_is_finished_on_the_old_port(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=20))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("x " * 20, stream=True)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    first = response.readline()
    new = free_port()
    move(daemon, new)
    assert refuses(daemon.port)
    text = (first + response.read()).decode()
    assert text.rstrip().endswith("data: [DONE]"), text
    daemon.port = new


def test_request_that_waits_for_a_worker_is_answered_on_the_old_port(daemon: Daemon) -> None:
    daemon.play(Behaviour(delays_s={"load": 1.5}))
    daemon.start()
    connection = daemon.gateway()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", chat_body("held"), headers)
    daemon.wait_held(1)
    new = free_port()
    move(daemon, new)
    assert daemon.phase() != "ready"
    answer = connection.getresponse()
    assert (answer.status, b"fake: held" in answer.read()) == (200, True)
    daemon.port = new


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_taken_port_is_refused_with_a_remedy_and_the_old_one_kept(
    daemon: Daemon, host: str
) -> None:
    """One of the two addresses is enough: the other must not be left bound."""
    daemon.start_ready()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other:
        port = int(other.getsockname()[1])
        with event_stream(daemon.socket) as events:
            daemon.write_env(LOCAL_LLM_URL=url(port))
            said = str(events.next("reload")["error"])
        assert f"cannot listen on port {port}" in said
        assert f"ss -ltnp 'sport = :{port}'" in said
        assert daemon.status()["config"]["error"] == said
        assert "the last good settings stay" in daemon.ctl("status").stdout
        assert daemon.status()["endpoint"][0] == f"http://127.0.0.1:{daemon.port}/v1"
        assert daemon.says("still here") == "fake: still here"
        assert refuses(port, "127.0.0.1" if ":" in host else "::1")
    assert daemon.started() == 1


def test_port_that_gets_free_is_taken_by_asking_again(daemon: Daemon) -> None:
    daemon.start_ready()
    with taken_port() as port:
        daemon.write_env(LOCAL_LLM_URL=url(port))
        wait_for(lambda: daemon.status()["config"]["error"], what="it is refused")
        refused = daemon.ctl("reload")
        assert refused.returncode != 0
        assert "cannot listen" in refused.stderr
    assert daemon.ctl("reload").returncode == 0
    assert daemon.status()["config"]["error"] is None
    daemon.port = port
    assert daemon.says("at last") == "fake: at last"


def test_nothing_of_an_edit_is_applied_while_its_port_is_taken(daemon: Daemon) -> None:
    daemon.start_ready()
    with taken_port() as port:
        daemon.write_env(LOCAL_LLM_URL=url(port), LOCAL_LLM_MODEL="org/b")
        wait_for(lambda: daemon.status()["config"]["error"], what="it is refused")
        status = daemon.status()
        assert (status["model"]["configured"], status["model"]["serving"]) == ("org/a", "org/a")
        assert daemon.started() == 1
    daemon.write_env(LOCAL_LLM_URL=url(daemon.port), LOCAL_LLM_MODEL="org/a")
    wait_for(lambda: daemon.status()["config"]["error"] is None, what="the error is gone")
    assert daemon.started() == 1


def test_address_is_given_up_and_taken_again_on_the_same_port(daemon: Daemon) -> None:
    daemon.start_ready()
    config = daemon.config / "cahoots-vllm.toml"
    with_both = config.read_text()
    only_four = with_both.replace("[gateway]\n", '[gateway]\nlisten = ["127.0.0.1"]\n')
    config.write_text(only_four)
    wait_for(lambda: refuses(daemon.port, "::1"), what="[::1] is left")
    assert daemon.says("x") == "fake: x"
    config.write_text(with_both)
    wait_for(lambda: not refuses(daemon.port, "::1"), what="[::1] is back")
    connection = http.client.HTTPConnection("::1", daemon.port, timeout=5)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    assert daemon.started() == 1
