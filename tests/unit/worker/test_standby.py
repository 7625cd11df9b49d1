"""A standby's own end: what it says, and that it hangs; its program is a small script."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cahoots_vllm.host.children import Children, Command
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.worker import standby as module
from cahoots_vllm.worker import standby_source
from cahoots_vllm.worker.standby import Standby, StandbyError
from cahoots_vllm.worker.standby_source import start_standby

TOKEN = "hf_" + "s" * 30


@pytest.fixture(autouse=True)
def _no_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write nothing in /proc: it counts as blocking."""
    monkeypatch.setattr(standby_source, "prefer", lambda _: None)


def standby(directory: Path, program: str, on_news: Callable[[], None] = lambda: None) -> Standby:
    python = directory / "python"
    python.write_text(f"#!{sys.executable}\n{program}\n")
    python.chmod(0o755)
    store = FdStore({}, lambda _message, _descriptors: None)
    context: Any = SimpleNamespace(
        children=Children(), cgroup_parent=None, standby_mark="a#", store=store
    )
    argv, env = [str(directory / "vllm"), "serve", "m"], {"HF_TOKEN": TOKEN}
    return start_standby(context, 1, argv, env, directory / "learned", on_news=on_news)


async def become(one: Standby) -> str:
    with pytest.raises(StandbyError) as caught:
        await asyncio.wait_for(one.become(Command(["x"], {})), 30)
    await one._child.exit_status  # noqa: SLF001 (nothing of it outlives the test)
    return str(caught.value)


async def test_no_secret_is_in_what_an_import_says(tmp_path: Path) -> None:
    program = """
import json, os, socket
message = {"state": "refused", "why": "no header: Bearer " + os.environ["HF_TOKEN"]}
socket.socket(fileno=0).sendall(json.dumps(message).encode() + b"\\n")
"""
    assert await become(standby(tmp_path, program)) == "refused: no header: Bearer ***"


async def test_no_half_of_a_secret_is_left_where_it_is_cut(tmp_path: Path) -> None:
    program = """
import json, os, socket
message = {"state": "refused", "why": "x" * 475 + os.environ["HF_TOKEN"] + "y" * 475}
socket.socket(fileno=0).sendall(json.dumps(message).encode() + b"\\n")
"""
    said = await become(standby(tmp_path, program))
    assert said == f"refused: {'x' * 475}***{'y' * 13}"


async def test_one_that_never_gets_warm_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WARM_WITHIN_S", 0.01)
    one = standby(tmp_path, "import signal; signal.pause()")
    assert await become(one) == "did not get warm in time"
    assert one.problem == "did not get warm in time"


async def test_end_of_one_is_news_once(tmp_path: Path) -> None:
    news = asyncio.Queue[None]()
    one = standby(tmp_path, "", lambda: news.put_nowait(None))
    async with asyncio.timeout(10):
        await news.get()
        await one._child.exit_status  # noqa: SLF001 (its second way to say so)
        await asyncio.sleep(0)
    assert one.problem == "ended"
    assert news.empty()


async def test_end_of_one_that_was_let_go_of_is_no_news(tmp_path: Path) -> None:
    news = asyncio.Queue[None]()
    one = standby(tmp_path, "import signal; signal.pause()", lambda: news.put_nowait(None))
    await asyncio.wait_for(one.end(), 10)
    await asyncio.sleep(0)
    assert one.problem == "ended"
    assert news.empty()
