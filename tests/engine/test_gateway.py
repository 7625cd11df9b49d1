"""What the gateway owes the real engine: nobody's answer is computed for nobody."""

import http.client
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from prometheus_client.parser import text_string_to_metric_families

from engine.harness import DEMO, Daemon, wait_for

pytestmark = pytest.mark.timeout(600)
_LONG = 1800
_QUESTION: Any = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]


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


def test_anthropic_client_is_answered_streamed_and_not(daemon: Daemon) -> None:
    daemon.wait_ready()
    url = f"http://localhost:{daemon.port}"
    with Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        whole = client.messages.create(
            model=DEMO, max_tokens=40, messages=_QUESTION, extra_body={"temperature": 0}
        )
        assert "Paris" in getattr(whole.content[0], "text", "")
        assert whole.usage.output_tokens > 0
        with client.messages.stream(
            model=DEMO, max_tokens=40, messages=_QUESTION, extra_body={"temperature": 0}
        ) as stream:
            pieces = list(stream.text_stream)
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 3


def test_one_page_of_figures_is_valid_with_the_engines_own(daemon: Daemon) -> None:
    daemon.wait_ready()
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    names = [family.name for family in text_string_to_metric_families(page)]
    assert len(names) == len(set(names))
    assert {"vllm:num_requests_running", "cahoots_vllm_gateway_requests"} <= set(names)
    assert not [name for name in names if name.startswith(("process_", "python_"))]
