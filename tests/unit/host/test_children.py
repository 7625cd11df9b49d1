"""Children: own session, exit status by pidfd, orphans reaped and nobody else's status stolen."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.children import Children, Command, become_subreaper, own_children

_ENV = {"PATH": "/usr/bin:/bin"}


def sh(script: str) -> Command:
    return Command(["/bin/sh", "-c", script], _ENV)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", -signal.SIGTERM)]
)
async def test_exit_status_is_popens(script: str, status: int) -> None:
    child = Children().start(sh(script))
    assert await child.exit_status == status
    assert not child.is_running
    child.send_signal(signal.SIGKILL)  # nothing happens


async def test_child_leads_a_session_and_has_no_input(tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = Children().start(sh(f"ps -o sid= -p $$ >{out}; readlink /proc/$$/fd/0 >>{out}"))
    assert await child.exit_status == 0
    sid, stdin = out.read_text().split()
    assert (int(sid), stdin) == (child.pid, "/dev/null")


async def test_program_that_cannot_run_is_an_unusable_engine(tmp_path: Path) -> None:
    script = tmp_path / "vllm"
    script.write_text("#!/no/such/interpreter\n")
    for mode, why in ((0o644, "Permission denied"), (0o755, "No such file")):
        script.chmod(mode)
        with pytest.raises(CahootsError, match=why) as raised:
            Children().start(Command([str(script)], _ENV))
        assert raised.value.kind is Kind.ENGINE_UNUSABLE


async def test_orphan_is_reaped_and_a_child_of_ours_is_not() -> None:
    become_subreaper()
    children = Children()
    parent = children.start(sh("sleep 0.2 & exit 7"))
    assert await parent.exit_status == 7
    ours = children.start(sh("exit 5"))
    ours_gone = asyncio.ensure_future(ours.exit_status)
    # The loop must not see its end yet: a zombie, with its status still there.
    os.waitid(os.P_PID, ours.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
    children.reap_orphans()
    assert await ours_gone == 5
    async with asyncio.timeout(5):
        while own_children():
            children.reap_orphans()
            await asyncio.sleep(0.02)


async def test_others_are_told_apart() -> None:
    children = Children()
    one, two = children.start(sh("sleep 9")), children.start(sh("sleep 9"))
    assert children.others_than(one.pid) == {two.pid}
    for child in (one, two):
        child.send_signal(signal.SIGKILL)
        assert await child.exit_status == -signal.SIGKILL
    await asyncio.sleep(0)
    assert children.others_than(0) == frozenset()


async def test_descriptors_are_not_inherited(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    out = tmp_path / "out"
    code = f"import os; open({str(out)!r}, 'w').write(' '.join(os.listdir('/proc/self/fd')))"
    child = Children().start(Command([sys.executable, "-I", "-S", "-c", code], _ENV))
    assert await child.exit_status == 0
    found = {int(word) for word in out.read_text().split()}
    assert not found & {read_end, write_end}
    os.close(read_end)
    os.close(write_end)
