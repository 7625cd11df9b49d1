"""/proc as read: odd names, descendants across sessions, and signals to the right process only."""

import os
import signal
import subprocess
import time
from dataclasses import replace

from cahoots_vllm.host import process_tree
from cahoots_vllm.host.process_tree import ProcessInfo, descendants


def row(pid: int, parent: int) -> ProcessInfo:
    return ProcessInfo(pid, parent, session=pid, started=1, is_zombie=False)


def test_descendants_are_found_at_any_depth_and_in_any_session() -> None:
    rows = {r.pid: r for r in (row(1, 0), row(2, 1), row(3, 2), row(4, 3), row(5, 1))}
    assert descendants([2], rows) == {2, 3, 4}
    assert descendants([1], rows) == {1, 2, 3, 4, 5}
    assert descendants([9], rows) == set()


def test_loop_in_the_rows_ends() -> None:
    """Rows are not read at one moment: a pid given again can close a circle."""
    rows = {r.pid: r for r in (row(2, 3), row(3, 2))}
    assert descendants([2], rows) == {2, 3}


def test_name_with_spaces_and_parentheses_is_read() -> None:
    script = "import setproctitle, time; setproctitle.setthreadtitle('a) R (b'); print(flush=True); time.sleep(60)"  # noqa: E501
    import sys  # noqa: PLC0415

    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = process_tree.read_process(process.pid)
        process.kill()
    assert found is not None
    assert (found.parent, found.is_zombie) == (os.getpid(), False)


def test_process_that_is_gone_has_no_row_and_no_title() -> None:
    assert process_tree.read_process(2**22) is None
    assert process_tree.title(2**22) == ""


def test_worker_is_found_without_other_peoples_children() -> None:
    with (
        subprocess.Popen(["/bin/sh", "-c", "setsid sleep 60 & wait"]) as worker,
        subprocess.Popen(["/bin/sleep", "60"]) as foreign,
    ):
        end = time.monotonic() + 5
        found: list[ProcessInfo] = []
        while time.monotonic() < end and len(found) < 2:
            found = process_tree.worker_processes(worker.pid, frozenset({foreign.pid}))
        process_tree.kill(found, signal.SIGKILL)
        assert foreign.poll() is None
        foreign.kill()
    assert worker.pid in {p.pid for p in found}
    assert foreign.pid not in {p.pid for p in found}


def test_pid_given_again_gets_no_signal() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        seen = process_tree.read_process(process.pid)
        assert seen is not None
        process_tree.kill([replace(seen, started=seen.started - 1)], signal.SIGKILL)
        time.sleep(0.05)
        assert process.poll() is None
        process_tree.kill([seen], signal.SIGKILL)
        assert process.wait(5) == -signal.SIGKILL
