"""Names in /dev/shm: those of a process are found, and taken away once it is gone."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

from cahoots_vllm.host.shared_memory import mapped, unlink

# As a vLLM worker dies: by SIGKILL, and its resource tracker with it.
_SCRIPT = """
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
resource_tracker.register = lambda *_: None
memory = SharedMemory(create=True, size=4096)
print("/dev/shm/" + memory._name.lstrip("/"), flush=True)
input()
"""


def test_what_a_killed_process_has_left_is_found_before_and_taken_away_after() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert mapped([process.pid]) == {name}
    process.kill()
    process.communicate()
    assert Path(name).exists()
    unlink({name})
    assert not Path(name).exists()
    unlink({name})
    assert mapped([process.pid]) == set()


def test_semaphore_is_found_by_the_process_that_made_it() -> None:
    lock = multiprocessing.get_context("spawn").Lock()
    own: str = lock._semlock.name  # type: ignore[attr-defined]  # noqa: SLF001 (nothing else says it)
    name = f"/dev/shm/sem.{own.lstrip('/')}"  # noqa: S108 (as above)
    assert name in mapped([os.getpid()])
    assert Path(name).exists()


def test_names_that_are_gone_already_are_none(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "psm_a").touch()
    (tmp_path / "other").touch()
    rows = (
        f"7f00-7f01 rw-s 00000000 00:19 {(tmp_path / 'psm_a').stat().st_ino}    /dev/shm/psm_a\n"
        "7f02-7f03 rw-s 00000000 00:19 2    /dev/shm/psm_b (deleted)\n"
        f"7f04-7f05 rw-s 00000000 00:19 {(tmp_path / 'other').stat().st_ino}    /dev/shm/other\n"
        "7f06-7f07 r-xp 00000000 fd:00 3    /usr/lib/libc.so.6\n"
    )
    (tmp_path / "7" / "maps").write_text(rows)
    assert mapped([7, 8], tmp_path, tmp_path) == {str(tmp_path / "psm_a")}
    assert mapped([7], tmp_path, tmp_path / "gone") == set()
