"""A standby is found again if it is surely the same process, and ended if nobody can talk to it."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cahoots_vllm.host.children import Children, Command
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.worker import standby
from cahoots_vllm.worker import standby_source as module
from cahoots_vllm.worker.standby import Standby, StandbyError, Warmth
from cahoots_vllm.worker.standby_source import (
    StandbyMark,
    find_standby,
    mark_standby,
    start_standby,
)

_PROGRAM = """
import json, os, signal, socket
daemon = socket.socket(fileno=0)
signal.signal(signal.SIGUSR1, lambda *_: daemon.shutdown(socket.SHUT_RDWR) or signal.pause())
daemon.sendall(b'{"state": "warm", "version": "1"}\\n')
daemon.recv(1)
"""


class Host:
    """Starts standbys as one daemon, and finds them as the next."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[str] = []
        self.pids: list[int] = []
        python = directory / "python"
        python.write_text(f"#!{sys.executable}\n{_PROGRAM}\n")
        python.chmod(0o755)

    def context(self, environ: dict[str, str], mark: str = "/run/x#standby") -> Any:  # noqa: ANN401 (a stand-in)
        store = FdStore(environ, lambda message, _: self.told.append(message.splitlines()[0]))
        return SimpleNamespace(
            children=Children(), cgroup_parent=None, standby_mark=mark, store=store
        )

    async def leave(self) -> tuple[StandbyMark, dict[str, str]]:
        """Start one and let it wait; return its mark and what the next daemon inherits."""
        context, warm = self.context({}), asyncio.Event()
        argv = [str(self.directory / "vllm"), "serve", "m"]
        one = start_standby(context, 1, argv, {}, self.directory / "learned", on_news=warm.set)
        await asyncio.wait_for(warm.wait(), 10)
        mark, environ = mark_standby(1, one, "print"), dict[str, str]()
        assert mark is not None
        self.pids.append(mark.pid)
        assert mark.warmth == Warmth("1", None)
        one.leave()
        context.store.carry(environ)
        return mark, environ


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(module, "prefer", lambda _: None)  # writing there counts as blocking
    one = Host(tmp_path)
    yield one
    for pid in one.pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def ended(mark: StandbyMark) -> None:
    async with asyncio.timeout(10):
        await Children().adopt(mark.pid, mark.started).exit_status


async def test_standby_left_warm_is_warm_and_heard(host: Host) -> None:
    mark, environ = await host.leave()
    one = find_standby(host.context(environ), mark, lambda: None)
    assert one is not None
    assert (one.pid, one.warmth, one.problem) == (mark.pid, mark.warmth, None)
    one.discard()
    await ended(mark)
    assert host.told == ["FDSTORE=1", "FDSTORE=1", "FDSTOREREMOVE=1"]


async def test_standby_left_warm_has_all_the_time_there_is(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, environ = await host.leave()
    monkeypatch.setattr(standby, "_WARM_WITHIN_S", 0.0)
    one = find_standby(host.context(environ), mark, lambda: None)
    await asyncio.sleep(0.01)
    assert one is not None
    assert one.problem is None
    one.discard()
    await ended(mark)


async def test_standby_whose_socket_nobody_kept_is_ended(host: Host) -> None:
    mark, _ = await host.leave()
    assert find_standby(host.context({}), mark, lambda: None) is None
    await ended(mark)


async def test_standby_that_has_closed_its_end_is_ended(host: Host) -> None:
    mark, environ = await host.leave()
    os.kill(mark.pid, signal.SIGUSR1)
    inherited = int(environ["CAHOOTS_VLLM_FDS"].partition("=")[2])
    assert select.select([inherited], [], [], 10)[0]
    assert find_standby(host.context(environ), mark, lambda: None) is None
    await ended(mark)
    assert host.told[-1] == "FDSTOREREMOVE=1"


@pytest.mark.parametrize(
    ("changes", "own_mark"),
    [({"started": 1}, "/run/x#standby"), ({}, "/run/other#standby"), ({}, "/run/x#1")],
    ids=["another process", "another daemon's", "a worker by now"],
)
async def test_what_is_not_surely_the_standby_is_neither_taken_nor_ended(
    host: Host, changes: dict[str, Any], own_mark: str
) -> None:
    mark, environ = await host.leave()
    context = host.context(environ, own_mark)
    assert find_standby(context, replace(mark, **changes), lambda: None) is None
    child = Children().adopt(mark.pid, mark.started)
    assert child.is_running
    context.store.close_rest()  # nobody can tell it anything from now on: it ends by itself
    await asyncio.wait_for(child.exit_status, 10)


async def test_standby_that_is_found_becomes_no_worker_once_it_has_ended(host: Host) -> None:
    mark, environ = await host.leave()
    one = find_standby(host.context(environ), mark, lambda: None)
    assert isinstance(one, Standby)
    os.kill(mark.pid, signal.SIGKILL)
    with pytest.raises(StandbyError):  # "ended", or the pipe is broken
        async with asyncio.timeout(10):
            await one.become(Command(["x"], {}))


async def test_no_mark_is_made_of_what_is_gone(host: Host) -> None:
    gone: Any = SimpleNamespace(pid=2**22, warmth=None)
    assert mark_standby(1, gone, "print") is None
    assert host.told == []
