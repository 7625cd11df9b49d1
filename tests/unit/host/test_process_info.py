"""One process as shown to people: its owner, its command without secrets, its variables."""

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cahoots_vllm.host.process_info import environ_value, owner_name, shown_command

_NOBODY = 65534


def command(proc: Path, *words: str, comm: str = "comm") -> str:
    (proc / "7").mkdir(exist_ok=True)
    (proc / "7" / "cmdline").write_text("".join(f"{word}\0" for word in words))
    (proc / "7" / "comm").write_text(f"{comm}\n")
    return shown_command(7, proc)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/usr/bin/server", "--api-key", "secret"], "server"),
        (["/usr/bin/server --api-key=secret /a/b"], "server"),  # wrote its own title
        (["VLLM::EngineCore"], "VLLM::EngineCore"),
        (["nginx: master process /usr/sbin/nginx"], "nginx:"),
        (["/opt/v/bin/python3.12", "/opt/v/bin/vllm", "serve", "m", "--api-key=s"],
         "python3.12 vllm"),
        (["python", "-m", "vllm.entrypoints", "secret"], "python -m vllm.entrypoints"),
        (["python", "-um", "mod", "secret"], "python -m mod"),
        (["python3", "-mmod", "secret"], "python3 -m mod"),
        (["python3", "-c", "key = 'secret'"], "python3 -c"),
        (["python3", "-Ickey='secret'", "more"], "python3 -c"),
        (["python3", "-X", "dev=secret", "-Wsecret", "-u", "a/run.py", "secret"],
         "python3 run.py"),
        (["python3", "-", "secret"], "python3 -"),
        (["python3"], "python3"),
        (["python3", "", "-u"], "python3"),
        (["/x/pythonista", "secret"], "pythonista"),
        (["/x/evil\x1b[2J\nname"], "evil?[2J"),
        (["x" * 300], "x" * 200),
        ([""], "comm"),
        (["/"], "comm"),
    ],
)  # fmt: skip
def test_command_shows_the_program_and_nothing_secret(
    tmp_path: Path, words: list[str], shown: str
) -> None:
    assert command(tmp_path, *words) == shown


def test_command_of_a_kernel_thread_is_its_name(tmp_path: Path) -> None:
    assert command(tmp_path, comm="kworker/0:1") == "kworker/0:1"
    assert command(tmp_path, comm="kthreadd") == "kthreadd"


def test_process_is_shown_with_its_owner() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(["/bin/cat"], stdin=pipe, stdout=pipe, bufsize=0) as child:
        assert child.stdin
        assert child.stdout
        # The kernel lets the parent go on before the new program's command line is there.
        child.stdin.write(b"x")
        assert child.stdout.read(1) == b"x"
        shown = owner_name(child.pid), shown_command(child.pid)
        child.kill()
    assert shown == (pwd.getpwuid(os.geteuid()).pw_name, "cat")


def test_process_that_is_gone_is_nobodys() -> None:
    assert owner_name(2**22) == ""
    assert shown_command(2**22) == ""
    assert environ_value(2**22, "PATH") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_owner_without_a_name_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    os.chown(tmp_path / "7", 4123456789, 0)
    assert owner_name(7, tmp_path) == "4123456789"


def test_variable_is_found_by_its_whole_name(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "environ").write_bytes(b"XMARK=no\0MARK=a=b\0MARK2=no\0EMPTY=\0BAD=\xff\0")
    assert environ_value(7, "MARK", tmp_path) == "a=b"
    assert environ_value(7, "EMPTY", tmp_path) == ""
    assert environ_value(7, "BAD", tmp_path) == "\ufffd"
    assert environ_value(7, "ARK", tmp_path) is None
    (tmp_path / "7" / "environ").write_bytes(b"")  # a zombie's
    assert environ_value(7, "MARK", tmp_path) is None


@pytest.mark.parametrize(("spt_noenv", "found"), [("1", "mine"), ("", None)])
def test_variable_outlives_a_new_title_only_under_spt_noenv(
    spt_noenv: str, found: str | None
) -> None:
    """Why a worker is started with SPT_NOENV=1: setproctitle writes over the environment."""
    script = "import setproctitle as s, sys; s.setproctitle('VLLM::X'); print(); sys.stdin.read()"
    env = {"CAHOOTS_MARK": "mine"} | ({"SPT_NOENV": spt_noenv} if spt_noenv else {})
    with subprocess.Popen(
        [sys.executable, "-uc", script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert shown_command(process.pid) == "VLLM::X"
        assert environ_value(process.pid, "CAHOOTS_MARK") == found
        process.kill()


def test_variable_of_a_process_is_read() -> None:
    with subprocess.Popen(["/bin/sleep", "60"], env={"MARK": "x"}) as process:
        end = time.monotonic() + 5
        while environ_value(process.pid, "MARK") != "x" and time.monotonic() < end:
            time.sleep(0.01)
        assert environ_value(process.pid, "MARK") == "x"
        process.kill()


def test_process_of_somebody_else_tells_nothing() -> None:
    """Asked by a child without rights: root itself may read everybody's."""
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        is_hidden = environ_value(1, "PATH") is None and owner_name(1) == "root"
        os._exit(0 if is_hidden else 1)
    assert os.waitpid(child, 0)[1] == 0
