"""The gateway beyond loopback and on a Unix socket: with keys, live, and over restarts."""

import http.client
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from cahoots_vllm.core.api_keys import digest_of

from .harness import Answer, Daemon, UnixConnection, chat_body, exchange, wait_for
from .service_manager import ServiceManager

KEY = "cv-" + "forTheFirstClient" * 2
OTHER = "cv-" + "forTheSecondOne" * 2
_ASKED = '"POST /v1/chat/completions HTTP'  # in the engine's own words
ALL = "0.0.0.0"  # noqa: S104 (only while the test runs, and with a key)


def configure(daemon: Daemon, **gateway: object) -> None:
    """Write the gateway's settings, and the tests' own."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in gateway.items()]
    text = "\n".join(("[gateway]", "drain_timeout_s = 5", *lines, "[worker]", "stop_grace_s = 1"))
    (daemon.config / "cahoots-vllm.toml").write_text(text + "\n")


def write_keys(daemon: Daemon, *lines: str) -> Path:
    file = daemon.config / "keys"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")
    return file


def chat(connection: http.client.HTTPConnection, text: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        return exchange(
            connection, "POST", "/v1/chat/completions", chat_body(text),
            {"Content-Type": "application/json", **named},
        )  # fmt: skip
    finally:
        connection.close()


def asked(daemon: Daemon) -> str:
    """Return all that the engine said it was asked."""
    return " ".join(str(entry["text"]) for entry in daemon.log_entries(1000))


def outer_address() -> str | None:
    """Return an address of this host that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


@pytest.fixture
def unix(daemon: Daemon) -> Path:
    """Let the daemon listen on a Unix socket as well."""
    path = daemon.runtime.parent / "shared" / "gateway.sock"
    path.parent.mkdir()
    configure(daemon, listen=["127.0.0.1", f"unix:{path}"])
    return path


def test_request_without_its_key_never_reaches_the_engine(daemon: Daemon) -> None:
    write_keys(daemon, "# one client", KEY)
    configure(daemon, listen=[ALL, "::1"], api_keys_file="keys")
    daemon.start_ready()
    before = asked(daemon).count(_ASKED)
    for headers in ({}, {"Authorization": f"Bearer {OTHER}"}, {"x_api_key": KEY[:-1]}):
        for host in ("127.0.0.1", "::1"):
            answer = chat(daemon.gateway(host), "unheard", **headers)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
            assert answer.json()["error"]["type"] == "authentication_error"
    answer = chat(daemon.gateway("::1"), "heard", Authorization=f"Bearer {KEY}")
    assert (answer.status, b"fake: heard" in answer.body) == (200, True)
    wait_for(lambda: asked(daemon).count(_ASKED) > before, what="it is told")
    assert asked(daemon).count(_ASKED) == before + 1
    assert daemon.get("/health").status == 200
    assert KEY not in daemon.log.read_text() + daemon.ctl("config", "show").stdout
    assert "gateway.api_keys_file" in daemon.ctl("config", "show").stdout


@pytest.mark.skipif(outer_address() is None, reason="this host has loopback addresses only")
def test_other_hosts_address_is_served_with_a_key(daemon: Daemon) -> None:
    address = outer_address()
    assert address is not None
    configure(daemon, listen=["127.0.0.1", address], api_keys=[f"sha256:{digest_of(KEY.encode())}"])
    daemon.start_ready()
    assert daemon.status()["endpoint"][1] == f"http://{address}:{daemon.port}/v1"
    assert chat(daemon.gateway(address), "x").status == 401
    assert chat(daemon.gateway(address), "x", Authorization=f"Bearer {KEY}").status == 200


def test_rotated_key_counts_at_once_and_no_connection_is_lost(daemon: Daemon) -> None:
    write_keys(daemon, KEY)
    configure(daemon, listen=[ALL], api_keys_file="keys")
    daemon.start_ready()
    connection = daemon.gateway()
    assert exchange(connection, "GET", "/v1/models", headers={"x-api-key": KEY}).status == 200
    write_keys(daemon, OTHER)

    def is_served(key: str) -> bool:
        headers = {"x-api-key": key}
        return exchange(connection, "GET", "/v1/models", headers=headers).status == 200

    wait_for(lambda: is_served(OTHER), what="the new key counts")
    assert not is_served(KEY)
    assert daemon.started() == 1
    daemon.config.joinpath("keys").chmod(0o644)
    refused = daemon.ctl("reload")
    assert "every user of this host may read them" in refused.stderr
    assert is_served(OTHER)


def test_gateway_opens_and_closes_live_and_says_so(daemon: Daemon) -> None:
    daemon.write_env(LOCAL_LLM_URL=f"http://host.docker.internal:{daemon.port}/v1")
    daemon.start_ready()
    assert "gateway.listen" in daemon.status()["warnings"][0]
    configure(daemon, listen=["127.0.0.1", "::1", ALL])
    wait_for(lambda: daemon.status()["config"]["error"], what="it is refused without a key")
    error = daemon.status()["config"]["error"]
    assert f"line 3: gateway.listen: {ALL} is beyond loopback" in error
    assert "cahootsctl config key" in error
    assert daemon.says("still") == "fake: still"
    made = json.loads(daemon.ctl("--json", "config", "key").stdout)
    configure(daemon, listen=["127.0.0.1", "::1", ALL], api_keys=[made["hash"]])
    wait_for(lambda: daemon.status()["config"]["error"] is None, what="it is taken")
    wait_for(lambda: chat(daemon.gateway(), "x").status == 401, what="the key is asked for")
    assert daemon.status()["warnings"] == []
    assert daemon.status()["endpoint"][-1] == f"http://{ALL}:{daemon.port}/v1"
    assert chat(daemon.gateway(), "x", Authorization=f"Bearer {made['key']}").status == 200
    configure(daemon)
    wait_for(lambda: chat(daemon.gateway(), "x").status == 200, what="loopback without keys again")
    assert daemon.started() == 1


def test_key_in_the_url_is_enough_for_a_client_that_knows_nothing_else(daemon: Daemon) -> None:
    configure(daemon, listen=[ALL])
    daemon.write_env(LOCAL_LLM_URL=f"http://cahoots:{KEY}@host.docker.internal:{daemon.port}/v1")
    daemon.start_ready()
    assert chat(daemon.gateway(), "x").status == 401
    assert chat(daemon.gateway(), "x", x_api_key=KEY).status == 200
    told = daemon.log.read_text() + json.dumps(daemon.status()) + daemon.ctl("config").stdout
    assert KEY not in told + json.dumps(daemon.read_state())


def test_client_of_the_unix_socket_needs_no_key(daemon: Daemon, unix: Path) -> None:
    daemon.start_ready()
    assert stat.S_IMODE(unix.stat().st_mode) == 0o660
    assert daemon.status()["endpoint"][1] == f"unix:{unix}"
    answer = chat(UnixConnection(unix), "by file", Host="any.example", Origin="http://any.example")
    assert (answer.status, b"fake: by file" in answer.body) == (200, True)
    path = unix.parent / "other.sock"
    configure(daemon, listen=["127.0.0.1", str(path)])
    wait_for(path.exists, what="the other socket")
    wait_for(lambda: not unix.exists(), what="the first is gone")
    assert chat(UnixConnection(path), "moved").status == 200
    assert daemon.started() == 1
    daemon.stop()
    assert not path.exists()


def test_unix_socket_goes_on_listening_while_the_daemon_restarts(
    daemon: Daemon, manager: ServiceManager, unix: Path
) -> None:
    daemon.start_ready()
    inode = unix.stat().st_ino
    assert manager.names().count("gateway") == 2
    daemon.kill()
    waiting = UnixConnection(unix)
    waiting.request("GET", "/v1/models")  # accepted by the next one
    daemon.start()
    response = waiting.getresponse()
    assert response.status == 200
    response.read()
    waiting.close()
    assert unix.stat().st_ino == inode
    assert daemon.started() == 1


def test_socket_file_that_a_killed_daemon_left_is_replaced(daemon: Daemon, unix: Path) -> None:
    daemon.start_ready()
    daemon.kill()
    assert unix.exists()
    daemon.start_ready()
    assert chat(UnixConnection(unix), "again").status == 200


def test_web_page_is_refused_unless_it_is_allowed(daemon: Daemon) -> None:
    daemon.start_ready()
    page = "https://ai.example.org"
    assert chat(daemon.gateway(), "x", Origin=page).status == 403
    assert chat(daemon.gateway(), "x", Host="ai.example.org").status == 403
    assert chat(daemon.gateway(), "x", Origin="http://localhost:3000").status == 200
    configure(daemon, origins=[page])
    wait_for(lambda: chat(daemon.gateway(), "x", Origin=page).status == 200, what="it is allowed")
    assert chat(daemon.gateway(), "x", Host="ai.example.org").status == 200


def test_socket_of_another_daemon_is_left_alone(daemon: Daemon, unix: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(unix))
        other.listen()
        code, said = daemon.run_to_end()
        assert code == 1
        assert f"cannot listen on {unix}: another cahoots-vllmd answers there" in said
        assert os.path.lexists(unix)
