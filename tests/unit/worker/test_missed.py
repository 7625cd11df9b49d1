"""What /proc does not tell ends nothing too early: it is no snapshot, and a look at it can hang."""

import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from cahoots_vllm.host import process_tree, shared_memory
from cahoots_vllm.host.children import Children, Command
from cahoots_vllm.host.process_tree import ProcessInfo, read_process
from cahoots_vllm.worker import tree
from cahoots_vllm.worker.leftovers import end_leftovers, mark_worker
from cahoots_vllm.worker.reap import end_tree
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


async def test_worker_that_leaves_no_thread_to_be_had_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    children = Children()
    child = children.start(Command(["/bin/sleep", "60"], {}))
    monkeypatch.setattr(threading.Thread, "start", refuse)
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
