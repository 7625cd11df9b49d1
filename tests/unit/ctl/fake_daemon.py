"""A control API of canned answers on a Unix socket."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

Answer = bytes | Callable[[BufferedIOBase], None]

STATUS: dict[str, Any] = {
    "state": "ready",
    "provider": "local",
    "model": {"configured": "org/A", "serving": "org/A", "override": None, "profile": None},
    "worker": {
        "generation": 3,
        "pid": 4242,
        "phase": "ready",
        "sub_phase": None,
        "progress": None,
        "since": "2025-10-01T00:13:05Z",
        "restarts": 1,
        "gpu_memory_utilization": 0.85,
        "max_model_len": 32768,
        "engine_version": "0.33.0",
    },
    "endpoint": ["http://localhost:8001/v1"],
    "requests": {"running": 2, "waiting": 0, "held": 0},
    "last_failure": None,
    "wanted": None,
    "retry_at": None,
    "config": {"env_file": "/etc/cahoots-vllm/.env", "loaded_at": "...", "error": None},
    "gpus": [],
    "warnings": [],
    "standby": {
        "state": "warm",
        "why": None,
        "pid": 4711,
        "private_memory": 461373440,
        "forks": True,
        "why_not_fork": None,
    },
    "engine": {"path": "/opt/cahoots-vllm/engine", "version": "0.33.0", "cpu": False},
    "version": "0.1.0",
}

OPERATION: dict[str, Any] = {
    "id": "7",
    "kind": "swap-model",
    "params": {"model": "org/B"},
    "state": "running",
    "started_at": "2025-10-01T00:00:00Z",
    "ended_at": None,
    "by": {"uid": 0, "pid": 1},
    "progress": {
        "phase": "starting",
        "sub_phase": "loading weights",
        "fraction": 0.5,
        "text": "starting org/B: loading weights 50 %",
    },
    "result": None,
    "problem": None,
}

LOOKED: list[dict[str, str]] = [
    {
        "name": "memory",
        "level": "ok",
        "sentence": "19.3 GiB weights + 8.0 GiB KV for 32,768 tokens + 1.0 GiB overhead"
        " of 28.8 GiB: fits; 47,000 tokens at most",
        "remedy": "",
    },
    {
        "name": "quantization",
        "level": "warn",
        "sentence": "the weights are odd",
        "remedy": "take others",
    },
]

DONE = OPERATION | {
    "state": "done",
    "ended_at": "2025-10-01T00:00:31Z",
    "result": {"model": "org/B", "endpoint": "http://localhost:8001/v1"},
}

FAILED = OPERATION | {
    "state": "failed",
    "ended_at": "2025-10-01T00:00:12Z",
    "problem": {
        "type": "urn:cahoots-vllm:problem:model-unusable",
        "title": "model unusable",
        "status": 422,
        "detail": "cannot serve org/B: no such repository",
        "cause": "repo_not_found",
        "evidence": "RepositoryNotFoundError: 404 Client Error",
        "remedy": "check the name",
    },
}

ABORTED = OPERATION | {"state": "aborted", "ended_at": "2025-10-01T00:00:05Z"}


def answer(document: object, *, status: int = 200, kind: str = "application/json") -> bytes:
    """Return a response with a Content-Length."""
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def problem(kind: str, status: int, **fields: str) -> bytes:
    """Return a refusal."""
    document = {"type": f"urn:cahoots-vllm:problem:{kind}", "title": kind, "status": status}
    return answer(document | fields, status=status, kind="application/problem+json")


def chunked(*chunks: bytes, kind: str = "application/x-ndjson", ends: bool = True) -> bytes:
    """Return a chunked response; without its end when the daemon dies midway."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + body + (b"0\r\n\r\n" if ends else b"")


class FakeDaemon:
    """Answers each route from its list; the last answer of a list is repeated."""

    def __init__(self, path: str) -> None:
        """Know no route yet."""
        self.path = path
        self.requests: list[tuple[str, bytes]] = []
        self.heads: list[str] = []
        self._answers: dict[str, list[Answer]] = {}

    def on(self, route: str, *answers: Answer) -> None:
        """Set the answers of a route such as `GET /v1/status`."""
        self._answers[route] = list(answers)

    def serve(self, reader: BufferedIOBase, writer: BufferedIOBase) -> None:
        """Answer one request."""
        head = b"".join(iter(reader.readline, b"\r\n")).decode()
        route = head.partition(" HTTP/")[0]
        length = next(
            (int(line[15:]) for line in head.lower().splitlines() if "content-length" in line), 0
        )
        self.heads.append(head)
        self.requests.append((route, reader.read(length)))
        answers = self._answers.get(route, [problem("not-found", 404, detail=f"no {route}")])
        now = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(now, bytes):
            writer.write(now)
        else:
            now(writer)


@contextmanager
def running(path: Path) -> Iterator[FakeDaemon]:
    """Run a fake daemon in threads of this process."""
    daemon = FakeDaemon(str(path))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                daemon.serve(self.rfile, self.wfile)
            except OSError:
                return  # the client hung up, as some tests want

    with socketserver.ThreadingUnixStreamServer(daemon.path, Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield daemon
        server.shutdown()
        thread.join()
