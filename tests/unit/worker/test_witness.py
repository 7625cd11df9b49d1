"""The witness: what concerned others, or is long over, is not taken for the end's cause."""

import os
from pathlib import Path

import pytest

from cahoots_vllm.core.evidence import HostEvidence
from cahoots_vllm.host import oom
from cahoots_vllm.host.kernel_log import KernelLog
from cahoots_vllm.worker import witness
from cahoots_vllm.worker.witness import Witness


class Host:
    """A kernel log and the counts of /proc/vmstat, as files."""

    def __init__(self, directory: Path) -> None:
        self.messages: list[str] = []
        self.vmstat = directory / "vmstat"
        self.count(0)

    def count(self, kills: int) -> None:
        self.vmstat.write_text(f"pgfault 9\noom_kill {kills}\n")


class Log(KernelLog):
    """Hands out the host's messages once."""

    def __init__(self, host: Host, *, is_readable: bool = True) -> None:
        self._host = host
        self._is_readable = is_readable

    @property
    def is_readable(self) -> bool:
        return self._is_readable

    def take(self) -> tuple[str, ...]:
        taken = tuple(self._host.messages)
        self._host.messages.clear()
        return taken


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(
        witness, "OomCounters", lambda pid: oom.OomCounters(pid, proc=tmp_path, cgroups=tmp_path)
    )
    monkeypatch.setattr(witness, "has_initial_pids", lambda: True)
    return Host(tmp_path)


def heard(host: Host, *looks: int, at_last: int) -> HostEvidence:
    """Let the worker be looked at with these counts of kills, and end with the last one."""
    here = Witness(os.getpid(), Log(host, is_readable=False))
    for kills in looks:
        host.count(kills)
        here.forget_older()
    host.count(at_last)
    return here.testify()


def test_kill_on_the_host_just_now_is_told(host: Host) -> None:
    assert "vmstat" in str(heard(host, 0, 0, at_last=1).oom_kill)


def test_kill_that_a_look_was_too_quick_for_is_told_still(host: Host) -> None:
    assert heard(host, 0, 1, at_last=1).oom_kill is not None


def test_kill_that_the_worker_has_outlived_concerned_others(host: Host) -> None:
    evidence = heard(host, 1, 1, at_last=1)
    assert evidence.oom_kill is None
    assert evidence.has_kernels_word


def test_host_that_shows_nothing_has_not_given_its_word(host: Host) -> None:
    host.vmstat.unlink()
    here = Witness(os.getpid(), Log(host, is_readable=False))
    assert not here.testify().has_kernels_word


def test_gpu_error_of_another_process_is_not_ours(host: Host) -> None:
    here = Witness(os.getpid(), Log(host))
    host.messages.append("NVRM: Xid (PCI:0000:01:00): 31, pid=1, name=python, MMU Fault")
    assert here.testify().xid is None
    host.messages.append(f"NVRM: Xid (PCI:0000:01:00): 31, pid={os.getpid()}, name=python")
    assert here.testify().xid is not None
    host.messages.append("NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', GPU has fallen off")
    assert here.testify().xid is not None
