"""Long commands of a setup: whose they are, and that they end with it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from setup.pip import User, run

_SETUP = Path(__file__).resolve().parents[3] / "packaging"
_NOBODY = 65534


def test_command_ends_with_a_setup_that_is_killed(tmp_path: Path) -> None:
    script = "from setup.pip import run; import pathlib, sys; run(sys.argv[2:], pathlib.Path('/'))"
    note = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 60"
    with subprocess.Popen(
        [sys.executable, "-c", script, "-", "sh", "-c", note],
        env={**os.environ, "PYTHONPATH": str(_SETUP)},
        stdout=subprocess.DEVNULL,
    ) as setup:
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        setup.kill()
    pid = int((tmp_path / "pid").read_text())
    while "sleep" in command_of(pid):
        time.sleep(0.01)


def command_of(pid: int) -> str:
    """Return a process's command line, "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_command_of_another_user_has_none_of_roots_rights_and_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    script = "id -u; id -g; id -G; pwd; echo $HOME; echo -$TMPDIR-"
    code, output = run(["sh", "-c", script], Path("/"), "", User(_NOBODY, _NOBODY, Path("/h")))
    number = str(_NOBODY)
    assert (code, output.split()) == (0, [number, number, number, "/", "/h", "--"])
