"""Clients that are slow, broken or hostile: bounded, and everyone else is served."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from .harness import Daemon, chat_body, exchange, wait_for

_CHUNK = b"x" * 65536
_100_MB = 100 * 1000 * 1000
# What a body may cost that is a hundred times as large: what is on its way through.
_ROOM_KIB = 40 * 1024
_CHAT = "/v1/chat/completions"


def resident_kib(daemon: Daemon) -> int:
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=10)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", "")).encode()


def send(daemon: Daemon, request: bytes) -> bytes:
    """Send raw bytes, and read until the daemon ends the connection or has nothing to say."""
    with connect(daemon) as connection:
        connection.settimeout(1)
        connection.sendall(request)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    got = b""
    with suppress(ConnectionError, TimeoutError):
        while part := connection.recv(65536):
            got += part
    return got


def parts_of_100_mb() -> Iterator[bytes]:
    yield b'{"model": "org/a", "prompt": "'
    for _ in range(_100_MB // len(_CHUNK)):
        yield _CHUNK
    yield b'"}'


def test_body_of_100_mb_passes_through_and_is_not_kept(serving: Daemon) -> None:
    before = resident_kib(serving)
    connection = serving.gateway()
    most = 0

    def watched() -> Iterator[bytes]:
        nonlocal most
        for number, part in enumerate(parts_of_100_mb()):
            most = max(most, resident_kib(serving)) if number % 100 == 0 else most
            yield part

    connection.request("POST", "/tokenize", watched(), encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["count"]) == (200, 1)
    print(f"\n    100 MB: {before} -> {most} KiB")  # noqa: T201 (a figure)
    assert most - before < _ROOM_KIB


def test_client_that_sends_a_byte_at_a_time_is_served_and_holds_up_nobody(serving: Daemon) -> None:
    body = chat_body("slow").encode()
    request = head(_CHAT, f"Content-Length: {len(body)}", "Connection: close")
    with connect(serving) as connection:
        for number, byte in enumerate(request + body):
            connection.sendall(bytes([byte]))
            time.sleep(0.005)
            if number % 50 == 0:
                assert serving.says("quick") == "fake: quick"
                # Until it is whole, the engine has nothing of it.
                assert serving.status()["requests"]["running"] == 0
        assert b"fake: slow" in read_all(connection)


def test_connections_that_never_ask_hold_up_nobody(serving: Daemon) -> None:
    with ExitStack() as stack:
        for number in range(300):
            connection = stack.enter_context(connect(serving))
            connection.sendall(b"POST /v1/chat/comp"[: number % 19])
        for _ in range(3):
            assert serving.says("through") == "fake: through"
    assert serving.says("after") == "fake: after"


def test_client_that_breaks_off_its_body_leaves_nothing(serving: Daemon) -> None:
    for _ in range(20):
        with connect(serving) as connection:
            connection.sendall(head(_CHAT, "Content-Length: 1000") + b"{")
    for _ in range(20):
        with connect(serving) as connection:
            connection.sendall(head("/tokenize", "Content-Length: 5000000") + _CHUNK)
    wait_for(lambda: serving.status()["requests"]["running"] == 0)
    assert serving.says("after") == "fake: after"


def test_client_that_does_not_read_stops_the_engine_not_the_daemon(serving: Daemon) -> None:
    """Backpressure: what nobody takes is not piled up."""
    before = resident_kib(serving)
    body = chat_body("x" * 1000, stream=True, max_tokens=300_000, ignore_eos=True).encode()
    with connect(serving) as connection:
        connection.sendall(head(_CHAT, f"Content-Length: {len(body)}") + body)
        assert b"data: " in connection.recv(1000) + connection.recv(1000)
        time.sleep(2)
        assert serving.says("meanwhile") == "fake: meanwhile"
        assert serving.status()["requests"]["running"] >= 1
        assert resident_kib(serving) - before < _ROOM_KIB
    wait_for(lambda: serving.status()["requests"]["running"] == 0, what="the engine has stopped")


@pytest.mark.parametrize(
    "broken",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /v1/models HTTP/9.9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHo st: b\r\n\r\n",
        head("/v1/models", "X: " + "y" * 70_000, method="GET"),
        head("/v1/models", *(f"X-{n}: {'y' * 1000}" for n in range(2000)), method="GET"),
        head(_CHAT, "Content-Length: -1"),
        head(_CHAT, "Content-Length: 1", "Content-Length: 2") + b"ab",
        head(_CHAT, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head(_CHAT, "Transfer-Encoding: chunked") + b"zz\r\nabc\r\n0\r\n\r\n",
        head(_CHAT, "Transfer-Encoding: chunked") + b"3\r\nabcdef\r\n0\r\n\r\n",
        head(_CHAT, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    ],
)  # fmt: skip
def test_broken_request_is_refused_and_goes_nowhere(serving: Daemon, broken: bytes) -> None:
    answer = send(serving, broken)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:200]
    assert serving.says("after") == "fake: after"


def test_header_of_60_kib_passes(serving: Daemon) -> None:
    answer = send(
        serving, head("/v1/models", "X: " + "y" * 60_000, "Connection: close", method="GET")
    )
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400")), answer[:200]


def test_pipelined_requests_are_answered_in_order(serving: Daemon) -> None:
    bodies = [chat_body(f"number {n}").encode() for n in range(5)]
    path = "/v1/chat/completions"
    answer = send(
        serving, b"".join(head(path, f"Content-Length: {len(body)}") + body for body in bodies)
    )
    places = [answer.find(f"fake: number {n}".encode()) for n in range(5)]
    assert -1 not in places
    assert places == sorted(places)


def test_second_request_hidden_in_the_first_ones_body_goes_nowhere(serving: Daemon) -> None:
    hidden = b"GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n"
    closing = "Connection: close"
    send(
        serving,
        head("/v1/models", f"Content-Length: {len(hidden)}", closing, method="GET") + hidden,
    )
    send(serving, head("/v1/models", "Transfer-Encoding:\tchunked", closing, method="GET") + hidden)
    texts = [line["text"] for line in serving.log_entries(200)]
    assert not [text for text in texts if "/sleep" in text and "INFO:     " in text]


@pytest.mark.parametrize(
    "path", ["/sleep", "//sleep", "/v1/../sleep", "/v1/%2e%2e/sleep", "/%73leep", "/v1/..%2fsleep"]
)
def test_developer_routes_are_out_of_reach(serving: Daemon, path: str) -> None:
    answer = exchange(serving.gateway(), "POST", path, "{}")
    assert answer.status == 404
    assert "not served" in answer.json()["error"]["message"]
    texts = [line["text"] for line in serving.log_entries(200)]
    assert not [text for text in texts if "sleep" in text and "INFO:     " in text]
