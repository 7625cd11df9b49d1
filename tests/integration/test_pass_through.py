"""What clients see of the gateway while a worker is ready: the engine, byte for byte."""

import re
import socket

from .harness import Answer, Daemon, chat_body, exchange

_CHANGING = re.compile(rb'"id": ?"[^"]*"|"created": ?\d+')
_JSON = {"Content-Type": "application/json"}


def both_ways(
    serving: Daemon, method: str, path: str, body: str | None = None
) -> tuple[Answer, Answer]:
    """Ask the worker's own socket and the gateway the same; what changes by itself is blanked."""
    connections = (serving.worker(1), serving.gateway())
    answers = [exchange(connection, method, path, body, _JSON) for connection in connections]
    direct, passed = (Answer(a.status, a.headers, _CHANGING.sub(b"*", a.body)) for a in answers)
    return direct, passed


def test_chat_answers(serving: Daemon) -> None:
    answer = serving.chat("what is the capital of France?")
    assert answer.status == 200
    assert answer.json()["model"] == "org/a"
    content = answer.json()["choices"][0]["message"]["content"]
    assert content == "fake: what is the capital of France?"


def test_streamed_answer_is_the_engines_byte_for_byte(serving: Daemon) -> None:
    body = chat_body("one two three", stream=True, stream_options={"include_usage": True})
    direct, passed = both_ways(serving, "POST", "/v1/chat/completions", body)
    assert passed.body == direct.body
    assert passed.body.endswith(b"data: [DONE]\n\n")
    assert passed.headers["Content-Type"] == direct.headers["Content-Type"]


def test_engines_own_refusals_pass_through(serving: Daemon) -> None:
    for method, path, body in (
        ("GET", "/v1/no/such/route", None),
        ("POST", "/v1/chat/completions", chat_body("x", model="org/unknown")),
        ("DELETE", "/v1/models", None),
    ):
        direct, passed = both_ways(serving, method, path, body)
        assert (passed.status, passed.body) == (direct.status, direct.body)
        assert passed.status >= 400


def test_query_string_and_percent_encoded_path_arrive_as_sent(serving: Daemon) -> None:
    direct, passed = both_ways(serving, "GET", "/v1/models?a=%2F&b=c+d")
    assert (passed.status, passed.body) == (200, direct.body)
    both_ways(serving, "GET", "/v1/odd%2Fpath%20with?x=%C3%A4")
    lines = [line["text"] for line in serving.log_entries(20)]
    odd = [line for line in lines if "INFO:  " in line and "/v1/odd" in line]
    assert len(odd) == 2
    assert odd[0] == odd[1]


def test_body_of_5_mb_arrives_whole(serving: Daemon) -> None:
    words = 1_000_000
    answer = exchange(serving.gateway(), "POST", "/tokenize", chat_body("word " * words), _JSON)
    assert (answer.status, answer.json()["count"]) == (200, words)


def test_chunked_body_arrives_whole(serving: Daemon) -> None:
    connection = serving.gateway()
    body = chat_body("in parts").encode()
    connection.request(
        "POST", "/v1/chat/completions", iter([body[:10], body[10:]]), _JSON, encode_chunked=True
    )
    response = connection.getresponse()
    assert (response.status, b"fake: in parts" in response.read()) == (200, True)


def test_head_has_the_headers_and_no_body(serving: Daemon) -> None:
    connection = serving.gateway()
    answer = exchange(connection, "HEAD", "/version")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0
    assert exchange(connection, "GET", "/version").json()["version"].startswith("0.32")


def test_connection_is_kept_for_the_next_request(serving: Daemon) -> None:
    connection = serving.gateway()
    exchange(connection, "GET", "/v1/models")
    assert connection.sock is not None
    before = connection.sock.getsockname()
    for _ in range(3):
        assert exchange(connection, "GET", "/v1/models").status == 200
        assert connection.sock.getsockname() == before


def test_http_1_0_client_is_served(serving: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), timeout=5) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b"\r\n")[0].endswith(b"200 OK")
    assert b'"org/a"' in answer
    assert b"chunked" not in answer.lower()


def test_ipv6_loopback_is_served_too(serving: Daemon) -> None:
    connection = serving.gateway("::1")
    assert exchange(connection, "GET", "/v1/models").status == 200


def test_gateway_says_that_it_is_ready(serving: Daemon) -> None:
    assert serving.get("/ready").json() == {"ready": True}
    assert serving.get("/health").json() == {"status": "ok", "held": 0}
