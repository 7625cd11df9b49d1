"""What /proc does not tell ends nothing too early: it is no snapshot, and a look at it can hang."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cahoots_vllm.host import process_tree, shared_memory
from cahoots_vllm.host.cgroup import WorkerCgroup
from cahoots_vllm.host.children import Children, Command
from cahoots_vllm.host.process_tree import ProcessInfo, read_process
from cahoots_vllm.worker import leftovers, reap, tree
from cahoots_vllm.worker.leftovers import end_all, end_leftovers, end_others, mark_worker
from cahoots_vllm.worker.reap import end_cgroup, end_tree
from cahoots_vllm.worker.running import clear_away
from cahoots_vllm.worker.tree import WorkerTree


@pytest.fixture
def miss(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what lets the look of that number see nobody, as if all had just been replaced."""

    def arrange(number: int) -> None:
        real, count = process_tree.read_all, iter(range(1, 1_000_000))

        def read_all() -> dict[int, ProcessInfo]:
            return {} if next(count) == number else real()

        monkeypatch.setattr(process_tree, "read_all", read_all)

    return arrange


@pytest.fixture
def session() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["/bin/sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


async def test_worker_that_was_missed_is_ended(miss: Callable[[int], None]) -> None:
    children = Children()
    child = children.start(Command(["/bin/sleep", "60"], {}))
    miss(2)  # the first one is for what it shares
    await WorkerTree(child.pid, children, None).kill(lambda _: None)
    assert await child.exit_status == -9


async def test_leftover_that_was_missed_is_ended(
    miss: Callable[[int], None], session: "subprocess.Popen[bytes]"
) -> None:
    mark = mark_worker(1, session.pid)
    assert mark is not None
    miss(1)
    assert await end_leftovers(mark) == 1


async def test_worker_that_lets_nobody_look_at_its_memory_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hung = threading.Event()
    monkeypatch.setattr(tree, "_LOOK_DEADLINE_S", 0.05)
    monkeypatch.setattr(shared_memory, "mapped", lambda _: hung.wait(20))
    children = Children()
    child = children.start(Command(["/bin/sleep", "60"], {}))
    await WorkerTree(child.pid, children, None).kill(lambda _: None)
    assert await child.exit_status == -9
    hung.set()


def no_thread(_: threading.Thread) -> None:
    message = "can't start new thread"
    raise RuntimeError(message)


async def test_worker_that_leaves_no_thread_to_be_had_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    children = Children()
    child = children.start(Command(["/bin/sleep", "60"], {}))
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    await WorkerTree(child.pid, children, None).kill(lambda _: None)
    assert await child.exit_status == -9


def test_tree_that_was_missed_is_ended(
    miss: Callable[[int], None], session: "subprocess.Popen[bytes]"
) -> None:
    row = read_process(session.pid)
    assert row is not None
    miss(1)
    end_tree(None, session.pid, row.started)
    assert session.wait(5) == -9


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Return a cgroup, in plain files, of a process that outlives every kill."""
    path = tmp_path / "worker-3"
    path.mkdir()
    (path / "cgroup.procs").write_text("4242\n")
    (path / "cgroup.events").write_text("populated 1\n")
    (path / "cgroup.kill").touch()
    return path


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Let each look at what processes share hang; return which of them was waited for."""
    hung = threading.Event()
    ends: list[bool] = []

    def hang(_: object) -> set[str]:
        ends.append(hung.wait(5))
        return set()

    monkeypatch.setattr(shared_memory, "mapped", hang)
    monkeypatch.setattr(shared_memory, "_LOOK_S", 0.05)
    monkeypatch.setattr(reap, "_DEADLINE_S", 0.05)
    yield ends
    hung.set()


def test_cgroup_is_ended_before_a_look_at_its_memory_comes_back(
    group: Path, waited: list[bool]
) -> None:
    assert not end_cgroup(group)
    assert ((group / "cgroup.kill").read_text(), waited) == ("1", [])


def test_tree_is_ended_before_a_look_at_its_memory_comes_back(
    session: "subprocess.Popen[bytes]", waited: list[bool]
) -> None:
    row = read_process(session.pid)
    assert row is not None
    end_tree(None, session.pid, row.started)
    assert (session.wait(5), waited) == (-9, [])


def test_cgroup_that_leaves_no_thread_to_be_had_is_ended(
    monkeypatch: pytest.MonkeyPatch, group: Path
) -> None:
    monkeypatch.setattr(reap, "_DEADLINE_S", 0.05)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert not end_cgroup(group)
    assert (group / "cgroup.kill").read_text() == "1"


async def start_anew(group: Path, said: Callable[[str], None]) -> None:
    await end_all(group.parent, group.parent, None, None, said)


async def go_on(group: Path, said: Callable[[str], None]) -> None:
    await end_others(group.parent, group.parent, 4, None, said)


async def stop_what_never_ran(group: Path, said: Callable[[str], None]) -> None:
    context: Any = SimpleNamespace(cgroup=lambda _: WorkerCgroup(group))
    await clear_away(context, 3, said)


ENDS = pytest.mark.parametrize("end", [start_anew, go_on, stop_what_never_ran])
End = Callable[[Path, Callable[[str], None]], Any]


@ENDS
async def test_who_cannot_be_ended_is_named_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, group: Path, end: End
) -> None:
    monkeypatch.setattr(reap, "_DEADLINE_S", 0.05)
    said: list[str] = []
    await end(group, said.append)
    assert said == ["has not ended yet: 4242"]


@ENDS
async def test_end_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, group: Path, end: End
) -> None:
    hung = threading.Event()
    monkeypatch.setattr(leftovers, "end_cgroup", lambda _: hung.wait(20))
    monkeypatch.setattr(leftovers, "_END_DEADLINE_S", 0.05)
    said: list[str] = []
    await end(group, said.append)
    assert said == ["has not ended yet: 4242"]
    assert (group / "cgroup.kill").read_text() == "1"
    hung.set()


@ENDS
async def test_who_leaves_no_thread_to_be_had_is_ended(
    monkeypatch: pytest.MonkeyPatch, group: Path, end: End
) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    await end(group, lambda _: None)
    assert (group / "cgroup.kill").read_text() == "1"
