"""Requests that wait for a worker: a thousand of them, and what they cost."""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from fake_vllm.script import Behaviour

from .harness import Daemon, chat_body, wait_for

_MANY = 1000
_PATH = "/v1/chat/completions"
_RESIDENT_MAX_KIB = 150 * 1024
_100_MB = 100 * 1000 * 1000
_CHUNK = b"x" * 65536
# What a body may cost that is larger by far.
_ROOM_KIB = 20 * 1024
_HEAD = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def ask(port: int, number: int, writers: list[asyncio.StreamWriter]) -> tuple[int, bytes]:
    """Send one request, and read to the end of its connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writers.append(writer)
    body = chat_body(f"number {number}").encode()
    head = f"POST {_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        answer = await reader.read()
    finally:
        writer.close()
    return number, answer


async def held(daemon: Daemon, count: int) -> None:
    await asyncio.to_thread(daemon.wait_held, count)


async def test_thousand_held_requests(daemon: Daemon) -> None:
    """Bounded memory, answered in order, half of them hanging up, one too many refused."""
    daemon.play(Behaviour(), Behaviour(delays_s={"ready": 3600}))
    await asyncio.to_thread(daemon.start_ready)
    assert daemon.process is not None
    pid = daemon.process.pid
    before_kib, before_descriptors = resident_kib(pid), descriptors(pid)
    daemon.api("POST", "/v1/restart", {})
    await asyncio.to_thread(daemon.wait_started, 2)
    wait_for(lambda: daemon.phase() == "starting")
    writers: list[asyncio.StreamWriter] = []
    tasks = []
    for number in range(_MANY):
        tasks.append(asyncio.create_task(ask(daemon.port, number, writers)))
        if number % 50 == 49:  # in this order also where the daemon accepts
            await held(daemon, number + 1)
    at_most_kib = resident_kib(pid)
    # A figure, not a log.
    print(f"\n    1,000 held: {before_kib} -> {at_most_kib} KiB")  # noqa: T201
    assert at_most_kib < _RESIDENT_MAX_KIB
    _, refused = await ask(daemon.port, _MANY, [])
    assert refused.startswith(b"HTTP/1.1 503")
    assert b'"busy"' in refused
    assert b"Retry-After: " in refused
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks[::2], return_exceptions=True)
    await held(daemon, _MANY // 2)

    daemon.play(Behaviour())
    order: list[int] = []
    for task in tasks[1::2]:
        task.add_done_callback(lambda done: order.append(done.result()[0]))
    os.kill(daemon.main_pid(), signal.SIGKILL)  # the next start is one that becomes ready
    answers = await asyncio.gather(*tasks[1::2])
    assert all(answer.startswith(b"HTTP/1.1 200") for _, answer in answers)
    assert all(f"fake: number {number}".encode() in answer for number, answer in answers)
    displaced = max(abs(place - (number - 1) // 2) for place, number in enumerate(order))
    print(f"    out of its order by {displaced} places at most")  # noqa: T201 (a figure)
    # They are let go in their order, strictly; busy cores answer a little out of it.
    assert displaced < 64
    status = daemon.status()["requests"]
    assert (status["held"], status["running"]) == (0, 0)
    wait_for(lambda: descriptors(pid) <= before_descriptors + 5, what="no descriptor is left")


def test_body_of_100_mb_is_not_read_before_there_is_a_worker(daemon: Daemon) -> None:
    daemon.play(Behaviour(delays_s={"ready": 4}))
    daemon.start()
    assert daemon.process is not None
    before = resident_kib(daemon.process.pid)
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(f"{_HEAD}Content-Length: {_100_MB}\r\n\r\n".encode())
        connection.settimeout(0.5)
        sent = 0
        with suppress(TimeoutError):
            while sent < _100_MB:
                sent += connection.send(_CHUNK)
        assert sent < _100_MB // 10
        assert daemon.status()["requests"]["held"] == 1
        assert resident_kib(daemon.process.pid) - before < _ROOM_KIB
        connection.settimeout(15)
        while sent < _100_MB:
            sent += connection.send(_CHUNK[: _100_MB - sent])
        # It is no JSON: the engine was reached, and says so.
        assert connection.recv(100).startswith(b"HTTP/1.1 500")
