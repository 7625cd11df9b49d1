"""A hub on loopback: the few routes that a download asks for, and the ways in which it fails."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

SHA = "0123456789abcdef0123456789abcdef01234567"
_HEADER = b'{"w":{"dtype":"U8","shape":[7000],"data_offsets":[0,7000]}}'
WEIGHTS = len(_HEADER).to_bytes(8, "little") + _HEADER + b"weights" * 1000
FILES = {
    "config.json": b'{"max_position_embeddings": 1024}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "README.md": b"not needed to serve",
}


class StubHub:
    """What it answers for a repo: its files, an HTTP status, or nothing until it is closed."""

    def __init__(self, port: int) -> None:
        """Every repo is there unless `refusals` or `silent` say otherwise."""
        self.endpoint = f"http://127.0.0.1:{port}"
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {}
        self.silent: set[str] = set()
        self.silent_files: set[str] = set()
        self.broken_files: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        # What every repo holds.
        self.files: dict[str, bytes] = dict(FILES)
        # Whose clock it goes by, in seconds beside this host's.
        self.clock_ahead_s = 0.0
        self.is_closing = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[StubHub]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 (as inherited)
        """Say nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        now = time.time() + self.hub.clock_ahead_s
        return super().date_time_string(now if timestamp is None else timestamp)

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.seen.append((self.command, path))
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repo = "/".join(parts[:2])
        if repo in self.hub.silent:
            self.hub.is_closing.wait(60)
            self.close_connection = True
        elif repo in self.hub.refusals:
            status, headers = self.hub.refusals[repo]
            self._send(status, b'{"error": "refused"}', headers)
        elif "/tree/" in path:
            self._send(200, json.dumps(_tree(self.hub.files)).encode(), {})
        elif path.startswith("/api/models"):
            info = _info(repo, self.hub.files)
            self._send(200, json.dumps(info).encode(), {"X-Repo-Commit": SHA})
        else:
            self._send_file(parts[-1])

    def _send_file(self, name: str) -> None:
        if name not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if name in self.hub.silent_files and self.command == "GET":
            self.hub.is_closing.wait(60)
            self.close_connection = True
            return
        if name in self.hub.broken_files:
            self._send(403, b"", {})  # not 5xx: the client would try again for long
            return
        body = self.hub.files[name]
        tag = hashlib.sha256(body).hexdigest()
        self._send(200, body, {"ETag": f'"{tag}"', "X-Repo-Commit": SHA})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _info(repo: str, files: dict[str, bytes]) -> dict[str, object]:
    siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
    return {"id": repo, "modelId": repo, "sha": SHA, "siblings": siblings, "tags": []}


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}  # noqa: S324 (git's own)
        for name, body in files.items()
    ]


@contextmanager
def running_hub() -> Iterator[StubHub]:
    """Serve on a free port of loopback until the end of the block."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub = Handler.hub = StubHub(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            hub.is_closing.set()
            server.shutdown()
            thread.join()
