"""Leftovers of an earlier daemon: the whole session ends, and nobody else."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cahoots_vllm.host import process_tree
from cahoots_vllm.host.process_tree import read_process
from cahoots_vllm.worker.leftovers import WorkerMark, end_leftovers, mark_worker

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
