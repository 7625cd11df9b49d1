"""How the daemon ends: a replacement that comes to nothing, and a signal amid one."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.ending import Ending, Exit
from cahoots_vllm.host import systemd
from cahoots_vllm.host.children import Children, own_children

Interpreter = Callable[[str], None]


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interpreter:
    """Lets a line of shell stand for the interpreter that tries the files on disk."""

    def stand_in(line: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return stand_in


async def at_once(_drain_s: float) -> None:
    return


async def none_left() -> list[int]:
    return []


def made(
    leave: Callable[[float], Awaitable[None]] = at_once,
    shut_down: Callable[[], Awaitable[list[int]]] = none_left,
    cut_off: Callable[[], None] = lambda: None,
) -> Exit:
    gateway_settings = SimpleNamespace(hold_timeout_s=5.0, drain_timeout_s=5.0)
    supervisor: Any = SimpleNamespace(
        asks=SimpleNamespace(refuse_while_stopping=lambda: None),
        settings=SimpleNamespace(gateway=gateway_settings),
        operations=SimpleNamespace(running=None),
        leaves_worker=True,  # as under systemd
        shut_down=shut_down,
    )
    gateway: Any = SimpleNamespace(leave=leave)
    rotation: Any = SimpleNamespace(held=0, cut_off=cut_off)
    notifier: Any = SimpleNamespace(
        is_heard=True, extend_timeout=lambda _s: None, stopping=lambda: None
    )
    return Exit(supervisor, gateway, rotation, notifier, Children())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)


async def test_client_that_hangs_up_takes_its_trial_along(python: Interpreter) -> None:
    ending, before = made(), own_children()
    python("exec sleep 60")
    asked = asyncio.ensure_future(ending.replace())
    await until(lambda: own_children() > before)
    asked.cancel()
    await asyncio.wait({asked})
    await until(lambda: own_children() == before)
    python("exit 0")
    await ending.replace()  # not refused


async def test_trial_that_cannot_start_leaves_the_next_one_free(python: Interpreter) -> None:
    ending = made()
    python("exit 0")
    good, sys.executable = sys.executable, "/no/such/python"
    with pytest.raises(CahootsError, match="No such file"):
        await ending.replace()
    sys.executable = good
    await ending.replace()


async def test_second_replacement_is_refused_while_one_is_tried(python: Interpreter) -> None:
    ending, before = made(), own_children()
    python("exec sleep 60")
    asked = asyncio.ensure_future(ending.replace())
    await until(lambda: own_children() > before)
    with pytest.raises(CahootsError, match="already"):
        await ending.replace()
    asked.cancel()
    await until(lambda: own_children() == before)


async def test_files_that_are_mended_can_be_tried_again(python: Interpreter) -> None:
    ending = made()
    python("exit 1")
    with pytest.raises(CahootsError, match="would not start"):
        await ending.replace()
    python("exit 0")
    await ending.replace()


async def test_signal_that_comes_while_the_files_are_tried_goes_first(
    python: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replacement then would be taken for a second signal, which cuts requests off."""
    monkeypatch.setattr(systemd, "own_unit", lambda: None)
    before, is_over, cuts = own_children(), asyncio.Event(), list[str]()

    async def shut_down() -> list[int]:
        await is_over.wait()
        return []

    ending = made(shut_down=shut_down, cut_off=partial(cuts.append, "cut off"))
    waiting = asyncio.ensure_future(ending.wait())
    python("exec sleep 0.3")
    asked = asyncio.ensure_future(ending.replace())
    await until(lambda: own_children() > before)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(CahootsError, match="is ending"):
        await asked
    await asyncio.sleep(0.05)
    is_over.set()
    assert await waiting is Ending.STOPPED
    assert not cuts


async def test_signal_that_systemd_is_asked_about_is_not_lost(
    python: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, left, is_over = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def leave(_drain_s: float) -> None:
        await left.wait()

    def pending_job(_unit: systemd.Unit) -> str:
        loop.call_soon_threadsafe(left.set)  # leaving is done, and systemd has not answered
        is_over.wait(5)
        return "stop"

    monkeypatch.setattr(systemd, "own_unit", lambda: systemd.Unit("cahoots-vllm.service"))
    monkeypatch.setattr(systemd, "pending_job", pending_job)
    python("exit 0")
    ending = made(leave)
    await ending.replace()
    waiting = asyncio.ensure_future(ending.wait())
    await asyncio.sleep(0.05)
    signal.raise_signal(signal.SIGTERM)
    assert await waiting is Ending.REPLACED
    is_over.set()
    ending.hand_on_signals()
    assert os.environ.pop("CAHOOTS_VLLM_SIGNAL", None) == str(signal.SIGTERM.value)
