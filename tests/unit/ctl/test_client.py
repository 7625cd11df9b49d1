"""HTTP over the Unix socket, and finding that socket."""

import os
import time
from io import BufferedIOBase
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import SYSTEM_SOCKET
from cahoots_vllm.ctl.client import Client
from cahoots_vllm.ctl.problems import ProblemError

from .fake_daemon import FakeDaemon, answer, chunked, problem, running


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client([daemon.path], os.getuid())


def test_reads_an_answer_with_content_length(daemon: FakeDaemon, client: Client) -> None:
    daemon.on("GET /v1/status", answer({"state": "ready"}))
    assert client.call("GET", "/v1/status") == {"state": "ready"}
    assert "\nHost: localhost\r" in daemon.heads[0]


def test_sends_the_body_as_json(daemon: FakeDaemon, client: Client) -> None:
    daemon.on("POST /v1/swap-model", answer({}, status=202))
    client.call("POST", "/v1/swap-model", {"model": "org/Ü"})
    assert daemon.requests == [("POST /v1/swap-model", b'{"model": "org/\\u00dc"}')]
    assert "Content-Type: application/json" in daemon.heads[0]


def test_reads_a_chunked_answer(daemon: FakeDaemon, client: Client) -> None:
    daemon.on("GET /v1/status", chunked(b'{"sta', b'te": 1}'))
    assert client.call("GET", "/v1/status") == {"state": 1}


def test_reads_an_answer_that_ends_with_the_connection(daemon: FakeDaemon, client: Client) -> None:
    daemon.on("GET /v1/status", b'HTTP/1.1 200 OK\r\n\r\n{"state": 1}')
    assert client.call("GET", "/v1/status") == {"state": 1}


def test_an_empty_answer_is_an_empty_object(daemon: FakeDaemon, client: Client) -> None:
    daemon.on("DELETE /v1/operations/7", b"HTTP/1.1 202 A\r\nContent-Length: 0\r\n\r\n")
    assert client.call("DELETE", "/v1/operations/7") == {}


def test_streams_lines_across_chunks(daemon: FakeDaemon, client: Client) -> None:
    daemon.on("GET /v1/logs", chunked(b"on", b"e\r\ntwo\nth", b"ree"))
    assert list(client.stream("/v1/logs", silence_s=5)) == ["one", "two", "three"]


@pytest.mark.parametrize("sent", [chunked(b"one\n", ends=False), b"HTTP/1.1 200 OK\r\n\r\none\n"])
def test_a_line_is_there_before_the_stream_ends(
    daemon: FakeDaemon, client: Client, sent: bytes
) -> None:
    def talk(writer: BufferedIOBase) -> None:
        writer.write(sent)
        time.sleep(5)

    daemon.on("GET /v1/logs", talk)
    began = time.monotonic()
    stream = client.stream("/v1/logs", silence_s=4)
    assert next(iter(stream)) == "one"
    assert time.monotonic() - began < 3


def test_a_problem_is_raised_with_all_its_parts(daemon: FakeDaemon, client: Client) -> None:
    daemon.on("GET /v1/status", problem("model-unusable", 422, detail="cannot X", remedy="do Y"))
    with pytest.raises(ProblemError) as caught:
        client.call("GET", "/v1/status")
    error = caught.value
    assert (error.kind, error.message, error.remedy) == (Kind.MODEL_UNUSABLE, "cannot X", "do Y")
    assert error.problem["status"] == 422


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, Kind.NOT_PERMITTED), (404, Kind.NOT_FOUND), (418, Kind.INTERNAL)],
)
def test_a_refusal_that_is_no_problem_document_is_judged_by_status(
    daemon: FakeDaemon, client: Client, status: int, kind: Kind
) -> None:
    daemon.on("GET /v1/status", f"HTTP/1.1 {status} X\r\n\r\nsorry".encode())
    with pytest.raises(ProblemError) as caught:
        client.call("GET", "/v1/status")
    assert caught.value.kind is kind


def test_a_kind_of_a_newer_daemon_is_an_internal_one(daemon: FakeDaemon, client: Client) -> None:
    daemon.on("GET /v1/status", problem("novel", 500, detail="cannot X"))
    with pytest.raises(ProblemError, match="cannot X") as caught:
        client.call("GET", "/v1/status")
    assert caught.value.kind is Kind.INTERNAL


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "went away"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "went away"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "went away"),
        (chunked(b"{}", ends=False), "went away"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "cannot understand"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "not a JSON object"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{x", "cannot understand"),
    ],
)
def test_a_broken_answer_counts_as_unreachable(
    daemon: FakeDaemon, client: Client, raw: bytes, said: str
) -> None:
    daemon.on("GET /v1/status", raw)
    with pytest.raises(CahootsError, match=said) as caught:
        client.call("GET", "/v1/status")
    assert caught.value.kind is Kind.UNREACHABLE


def test_a_daemon_that_does_not_answer_counts_as_unreachable(
    daemon: FakeDaemon, client: Client
) -> None:
    daemon.on("GET /v1/status", lambda _writer: time.sleep(1))
    with pytest.raises(CahootsError, match="does not answer") as caught:
        client.call("GET", "/v1/status", timeout_s=0.1)
    assert caught.value.kind is Kind.UNREACHABLE


def test_goes_on_to_the_next_place(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.on("GET /v1/status", answer({"state": "ready"}))
    stale = tmp_path / "stale.sock"
    with running(stale):
        pass
    assert stale.is_socket()
    client = Client([str(tmp_path / "none" / "control.sock"), str(stale), daemon.path], os.getuid())
    assert client.call("GET", "/v1/status")["state"] == "ready"


def test_names_every_place_and_the_remedy_when_nobody_listens(tmp_path: Path) -> None:
    places = [str(tmp_path / "a.sock"), str(tmp_path / "b.sock")]
    with pytest.raises(CahootsError) as caught:
        Client(places, os.getuid()).call("GET", "/v1/status")
    assert caught.value.kind is Kind.UNREACHABLE
    assert all(place in caught.value.message for place in places)
    assert "systemctl start cahoots-vllm" in caught.value.remedy


def test_a_socket_in_a_directory_of_somebody_else_is_passed_over(daemon: FakeDaemon) -> None:
    uid = os.getuid() or 65534
    if os.getuid() == 0:
        os.chown(Path(daemon.path).parent, 65533, -1)
    else:
        uid += 1
    with pytest.raises(CahootsError, match="nothing listens"):
        Client([daemon.path, SYSTEM_SOCKET], uid).call("GET", "/v1/status")
    assert daemon.requests == []


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(CahootsError, match="too long") as caught:
        Client([str(tmp_path / ("x" * 120))], os.getuid()).call("GET", "/v1/status")
    assert caught.value.kind is Kind.UNREACHABLE
