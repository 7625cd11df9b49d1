"""Leftovers of an earlier daemon: the whole session ends, and nobody else."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.host import process_tree
from cahoots_vllm.host.process_tree import read_process
from cahoots_vllm.worker.leftovers import (
    WorkerMark,
    end_all,
    end_leftovers,
    end_others,
    mark_worker,
)

_TREE = "sleep 60 & sleep 60 & wait"


@pytest.fixture
def leader() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["/bin/sh", "-c", _TREE], start_new_session=True) as process:
        while len(_session(process.pid)) < 3:
            pass
        yield process
        for pid in _session(process.pid):
            os.kill(pid, 9)


def _session(sid: int) -> list[int]:
    rows = [read_process(int(name)) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    return [r.pid for r in rows if r is not None and r.session == sid and not r.is_zombie]


async def test_whole_session_is_ended(leader: "subprocess.Popen[bytes]") -> None:
    mark = mark_worker(1, leader.pid)
    assert mark is not None
    assert await end_leftovers(mark) == 3
    assert _session(leader.pid) == []


async def test_session_without_its_leader_is_ended_too(leader: "subprocess.Popen[bytes]") -> None:
    mark = mark_worker(1, leader.pid)
    assert mark is not None
    leader.kill()
    leader.wait()
    assert await end_leftovers(mark) == 2


async def test_pid_given_again_is_not_touched(leader: "subprocess.Popen[bytes]") -> None:
    mark = mark_worker(1, leader.pid)
    assert mark is not None
    older = replace(mark, started=mark.started - 1)
    other_boot = replace(mark, boot="11111111-1111-1111-1111-111111111111")
    assert await end_leftovers(older) == 0
    assert await end_leftovers(other_boot) == 0
    await asyncio.sleep(0)
    assert leader.poll() is None


async def test_nothing_left_is_fine() -> None:
    assert mark_worker(1, 2**22) is None
    assert await end_leftovers(WorkerMark(1, 2**22, 1, process_tree.boot_id())) == 0


# As a vLLM worker dies: by SIGKILL, and its resource tracker with it.
_SHARES = """
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
resource_tracker.register = lambda *_: None
made = [SharedMemory(create=True, size=4096), *(SharedMemory(name) for name in sys.argv[1:])]
print(made[0].name, flush=True)
input()
"""


@dataclass(frozen=True, slots=True)
class Sharer:
    """A process that shares memory by a name."""

    pid: int
    memory: Path


@contextmanager
def sharing(mark: str, *others: Sharer) -> Iterator[Sharer]:
    """Start one that has mapped what others share, too."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SHARES, *(other.memory.name for other in others)],
        env={WORKER_MARK: mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    memory = Path("/dev/shm", process.stdout.readline().strip())  # noqa: S108 (the kernel's place)
    try:
        yield Sharer(process.pid, memory)
    finally:
        process.kill()
        process.communicate()
        memory.unlink(missing_ok=True)


async def test_shared_memory_of_the_ended_is_taken_away_and_no_others(tmp_path: Path) -> None:
    with ExitStack() as stack:
        start = stack.enter_context
        stranger = start(sharing("/elsewhere#1"))
        kept = start(sharing(f"{tmp_path}#2"))
        ended = start(sharing(f"{tmp_path}#1", kept))
        assert await end_others(None, tmp_path, kept=2, spared=None, on_stuck=pytest.fail) == 1
        assert not ended.memory.exists()
        assert kept.memory.exists()
        assert stranger.memory.exists()
        assert await end_all(None, tmp_path, None, kept.pid, on_stuck=pytest.fail) == 0
        assert kept.memory.exists()
        assert await end_all(None, tmp_path, None, None, on_stuck=pytest.fail) == 1
        assert not kept.memory.exists()
        assert stranger.memory.exists()


async def test_shared_memory_of_the_noted_session_is_taken_away(tmp_path: Path) -> None:
    with sharing("/elsewhere#1") as worker:
        assert (
            await end_all(None, tmp_path, mark_worker(1, worker.pid), None, on_stuck=pytest.fail)
            == 1
        )
        assert not worker.memory.exists()


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_files_of_workers_that_are_gone_are_deleted(tmp_path: Path) -> None:
    gone = {"worker-1.sock", "worker-1.log", "worker-1.log.1", "worker-1.log.2"}
    kept = {"worker-12.sock", "worker-12.log", "worker-12.log.2"}
    others = {"handover.json", "control.sock", "worker-x.log", "my-worker-1.log", "worker-1.txt"}
    for name in gone | kept | others:
        (tmp_path / name).touch()
    (tmp_path / "worker-3.log").mkdir()
    await end_others(None, tmp_path, kept=12, spared=None, on_stuck=pytest.fail)
    assert _names(tmp_path) == kept | others | {"worker-3.log"}
    await end_all(None, tmp_path, None, None, on_stuck=pytest.fail)
    assert _names(tmp_path) == others | {"worker-3.log"}
