"""What the gateway owes the real engine: nobody's answer is computed for nobody."""

import http.client
import socket
import time
from pathlib import Path

import pytest

from engine.harness import DEMO, Daemon, wait_for

pytestmark = pytest.mark.timeout(600)
_LONG = 1800


class _WorkerConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def running(daemon: Daemon) -> float:
    """Return how many requests the engine itself says it is working on."""
    generation = daemon.status()["worker"]["generation"]
    runtime = Path(daemon.env["XDG_RUNTIME_DIR"]) / "cahoots-vllm"
    connection = _WorkerConnection(runtime / f"worker-{generation}.sock")
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    (line,) = [x for x in page.splitlines() if x.startswith("vllm:num_requests_running{")]
    return float(line.split()[-1])


@pytest.mark.parametrize("is_stream", [True, False])
def test_client_that_hangs_up_stops_the_generation(daemon: Daemon, *, is_stream: bool) -> None:
    daemon.wait_ready()
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    body = (
        f'{{"model": "{DEMO}", "prompt": "Once upon a time", "max_tokens": {_LONG}, '
        f'"ignore_eos": true, "stream": {str(is_stream).lower()}}}'
    )
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    assert wait_for(lambda: running(daemon) == 1, 30)
    if is_stream:
        response = connection.getresponse()
        assert response.read(20).startswith(b"data: ")
        response.close()
    connection.close()
    left = time.monotonic()
    assert wait_for(lambda: running(daemon) == 0, 30), "it goes on for nobody"
    # A figure, not a log; one look takes about 0.2 s.
    print(f"\n    stopped {time.monotonic() - left:.2f} s after the client left")  # noqa: T201
