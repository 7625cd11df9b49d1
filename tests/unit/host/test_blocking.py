"""Blocking calls: answers and errors come back, and one that hangs keeps nobody from ending."""

import subprocess
import sys
import threading
import time

import pytest

from cahoots_vllm.host.blocking import run_blocking

HANGS = """
import asyncio, contextlib, time
from cahoots_vllm.host.blocking import run_blocking

async def main():
    with contextlib.suppress(TimeoutError):
        await run_blocking(lambda: time.sleep(60), deadline_s=0.05)

asyncio.run(main())
print("ended")
"""


async def test_answer_comes_back() -> None:
    assert await run_blocking(lambda: 7, deadline_s=5) == 7


async def test_error_comes_back_as_it_was() -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        await run_blocking(fail, deadline_s=5)


async def test_deadline_is_kept() -> None:
    with pytest.raises(TimeoutError):
        await run_blocking(lambda: time.sleep(0.5), deadline_s=0.01)


async def test_host_without_a_thread_to_spare_gives_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(TimeoutError) as refused:
        await run_blocking(lambda: 7, deadline_s=5)
    assert refused.value.strerror == "no thread can be had just now"


def test_call_that_hangs_keeps_nobody_from_ending() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")
