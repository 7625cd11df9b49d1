"""cgroups: taken only where systemd delegated one; then one write ends a whole tree."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.host import cgroup
from cahoots_vllm.host.cgroup import WorkerCgroup, find_delegated
from cahoots_vllm.host.children import Children, Command


def own_directory() -> Path | None:
    """Return our cgroup in the v2 tree, if there is one we may write to."""
    mount = next((m for m in cgroup._MOUNTS if (m / "cgroup.controllers").exists()), None)  # noqa: SLF001
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines()
                if line.startswith("0::")), None)  # fmt: skip
    if mount is None or own is None:
        return None
    directory = mount / own.lstrip("/")
    return directory if os.access(directory, os.W_OK) else None


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A directory below our own cgroup, marked as systemd marks a delegated one."""
    own = own_directory()
    if own is None:
        pytest.skip("no cgroup v2 directory that may be written to")
    directory = own / f"cahoots-test-{os.getpid()}"
    try:
        directory.mkdir()
        os.setxattr(directory, "user.delegate", b"1")
    except OSError as error:
        if directory.exists():
            directory.rmdir()
        pytest.skip(f"cgroup v2 cannot be used: {error.strerror}")
    yield directory
    for child in directory.glob("*/"):
        child.rmdir()
    directory.rmdir()


def test_cgroup_that_was_not_delegated_is_not_taken() -> None:
    assert find_delegated() is None


async def test_whole_tree_is_in_the_cgroup_and_ended_by_one_write(delegated: Path) -> None:
    group = WorkerCgroup.of(delegated, 7)
    group.make()
    group.make()  # a left-over one is taken
    assert (group.is_populated, group.pids()) == (False, [])
    script = "setsid sleep 60 & sleep 60"
    env = {"PATH": "/usr/bin:/bin"}
    child = Children().start(Command(["/bin/sh", "-c", script], env, cgroup=group.path))
    end = time.monotonic() + 5
    while len(group.pids()) < 3 and time.monotonic() < end:
        time.sleep(0.01)  # noqa: ASYNC251 (nothing else runs)
    assert child.pid in group.pids()
    assert group.is_populated
    group.remove()  # busy: left alone
    group.kill()
    assert await child.exit_status == -signal.SIGKILL
    while group.pids() and time.monotonic() < end:
        time.sleep(0.01)  # noqa: ASYNC251 (as above)
    group.remove()
    assert not group.path.exists()
    group.remove()


def test_delegated_cgroup_is_found_by_a_process_in_it(delegated: Path) -> None:
    code = "from cahoots_vllm.host.cgroup import find_delegated; print(find_delegated())"
    enter = f'echo 0 > {delegated}/cgroup.procs && exec "$0" -c "{code}"'
    result = subprocess.run(
        ["/bin/sh", "-c", enter, sys.executable], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(cgroup.__file__).parents[2])},
    )  # fmt: skip
    assert result.stdout.strip() == str(delegated), result.stderr


def test_cgroup_that_is_gone_holds_nobody(tmp_path: Path) -> None:
    group = WorkerCgroup(tmp_path / "gone")
    assert (group.is_populated, group.pids()) == (False, [])
