"""HTTP/1.1 over the daemon's Unix socket, one connection per request.

Own code since `http.client` loads `email` and `ssl`: as long as all of cahootsctl takes to start.
Understands what the daemon sends: Content-Length, chunked, and a body that ends with the
connection (RFC 9112 section 6).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from typing import NamedTuple

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.ctl.connect import connect
from cahoots_vllm.ctl.problems import ProblemError
from cahoots_vllm.ctl.text import Json

_TIMEOUT_S = 30.0  # a snapshot may wait for a slow GPU query
_LINE_MAX_BYTES = 65536
_FIRST_ERROR_STATUS = 400


class Response(NamedTuple):
    """A response whose body is still to be read."""

    status: int
    headers: dict[str, str]
    file: BufferedReader


class Client:
    """Sends requests to the daemon; every failure is a CahootsError."""

    def __init__(self, places: Sequence[str], uid: int) -> None:
        """Look for the daemon at these socket paths, the first that answers."""
        self._places = places
        self._uid = uid

    def call(
        self, method: str, path: str, body: Json | None = None, *, timeout_s: float = _TIMEOUT_S
    ) -> Json:
        """Return the JSON object answered. Raises ProblemError when the daemon refuses."""
        with self._exchange(method, path, body, timeout_s) as response:
            return _json_object(response)

    def stream(self, path: str, *, silence_s: float | None) -> Iterator[str]:
        """Yield the lines of an endless answer; so many seconds of silence mean a hung daemon."""
        with self._exchange("GET", path, None, silence_s) as response:
            yield from _lines(_blocks(response))

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: Json | None, timeout_s: float | None
    ) -> Iterator[Response]:
        with _translated(), connect(self._places, self._uid) as sock:
            sock.settimeout(timeout_s)
            sock.sendall(_request(method, path, body))
            with sock.makefile("rb") as file:
                response = _read_head(file)
                if response.status >= _FIRST_ERROR_STATUS:
                    raise ProblemError(response.status, _problem(response))
                yield response


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise _lost(reason="cannot talk to the daemon: it does not answer") from error
    except (OSError, EOFError) as error:
        raise _lost(reason="cannot go on: the daemon went away") from error
    except ValueError as error:
        raise _lost(reason=f"cannot understand the daemon's answer: {error}") from error


def _lost(*, reason: str) -> CahootsError:
    return CahootsError(
        Kind.UNREACHABLE,
        reason,
        "see `systemctl status cahoots-vllm` and `journalctl -u cahoots-vllm`",
    )


def _request(method: str, path: str, body: Json | None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"{head}\r\n".encode("ascii") + content


def _read_head(file: BufferedReader) -> Response:
    version, _, rest = _read_line(file).partition(" ")
    if not version.startswith("HTTP/1."):
        message = f"not HTTP but {version[:20]!r}"
        raise ValueError(message)
    headers = {}
    while line := _read_line(file):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Response(int(rest[:3]), headers, file)


def _read_line(file: BufferedReader) -> str:
    line = file.readline(_LINE_MAX_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError
    return line.decode("latin-1").rstrip("\r\n")


def _blocks(response: Response) -> Iterator[bytes]:
    """Yield the body as it comes. Raises EOFError when it ends too early."""
    file = response.file
    if response.headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int(_read_line(file).partition(";")[0], 16):
            yield _read_exactly(file, size)
            _read_line(file)
    elif (length := response.headers.get("content-length")) is not None:
        yield _read_exactly(file, int(length))
    else:
        while block := file.read1(_LINE_MAX_BYTES):
            yield block


def _read_exactly(file: BufferedReader, size: int) -> bytes:
    block = file.read(size)
    if len(block) < size:
        raise EOFError
    return block


def _lines(blocks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line.decode(errors="backslashreplace").removesuffix("\r")
    if rest:
        yield rest.decode(errors="backslashreplace")


def _json_object(response: Response) -> Json:
    body = b"".join(_blocks(response))
    document = json.loads(body) if body else {}
    if not isinstance(document, dict):
        message = "not a JSON object"
        raise ValueError(message)  # noqa: TRY004 (a malformed answer, not a caller's mistake)
    return document


def _problem(response: Response) -> Json:
    """Return the problem document of a refusal, empty when the body is none."""
    if "json" not in response.headers.get("content-type", ""):
        return {}
    return _json_object(response)
