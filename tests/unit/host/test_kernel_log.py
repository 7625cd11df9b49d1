"""The kernel's log: only what came since, records taken apart, kills and GPU errors found."""

import errno
import os
from pathlib import Path

import pytest

from cahoots_vllm.host.kernel_log import KernelLog, find_oom_kill, find_xid, has_initial_pids

_OOM = "Out of memory: Killed process 123 (VLLM::Worker) total-vm:99kB, anon-rss:88kB, UID:0"
_CGROUP_OOM = "Memory cgroup out of memory: Killed process 123 (VLLM::EngineCor) total-vm:9kB"
_LOST = "NVRM: Xid (PCI:0000:01:00): 79, pid=77, GPU has fallen off the bus."


class Records:
    """Plays a log device in os.read's place: each read gives one record or an error."""

    def __init__(self, *records: bytes | OSError) -> None:
        self.waiting = list(records)

    def read(self, _: int, size: int) -> bytes:
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "no more")
        record = self.waiting.pop(0)
        if isinstance(record, OSError):
            raise record
        assert size >= len(record)
        return record


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def log_of(monkeypatch: pytest.MonkeyPatch, path: Path, *records: bytes | OSError) -> KernelLog:
    path.write_bytes(b"")
    monkeypatch.setattr("cahoots_vllm.host.kernel_log.os.read", Records(*records).read)
    return KernelLog(path)


def test_records_become_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = log_of(
        monkeypatch, tmp_path / "kmsg",
        b"6,339,5140900,-;NET: Registered; family 10\n SUBSYSTEM=net\n DEVICE=n3\n",
        b"3,340,5690716,-,caller=T1;odd \\xff \xff bytes\n",
    )  # fmt: skip
    assert log.take() == ("NET: Registered; family 10", "odd \\xff \ufffd bytes")
    assert log.take() == ()
    log.close()


def test_overrun_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    overrun = BrokenPipeError(errno.EPIPE, "overwritten")
    log = log_of(monkeypatch, tmp_path / "kmsg", b"6,1,1,-;a\n", overrun, b"6,9,9,-;b\n")
    assert log.take() == ("a", "b")
    log.close()


def test_flood_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = log_of(monkeypatch, tmp_path / "kmsg", *[b"6,1,1,-;a\n"] * 2500)
    assert (len(log.take()), len(log.take()), len(log.take())) == (2000, 500, 0)
    log.close()


def test_what_was_there_before_is_not_told(tmp_path: Path) -> None:
    """A plain file shows the seek; its end reads as nothing, as /dev/null does."""
    path = tmp_path / "kmsg"
    path.write_text("6,1,1,-;old\n")
    log = KernelLog(path)
    assert log.take() == ()
    with path.open("a") as file:
        file.write("6,2,2,-;new\n")
    assert log.take() == ("new",)
    log.close()
    assert (log.is_readable, log.take()) == (False, ())
    log.close()


def test_log_that_cannot_be_read_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = open_files()
    logs = [KernelLog(tmp_path / "missing"), KernelLog(tmp_path / "fifo")]

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "dmesg_restrict")

    with monkeypatch.context() as patch:
        patch.setattr("cahoots_vllm.host.kernel_log.os.open", refuse)
        logs.append(KernelLog(tmp_path))
    assert [(log.is_readable, log.take()) for log in logs] == [(False, ())] * 3
    assert open_files() == before


def test_being_out_of_descriptors_is_no_unreadable_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr("cahoots_vllm.host.kernel_log.os.open", full)
    with pytest.raises(OSError, match="too many"):
        KernelLog(tmp_path)


@pytest.mark.skipif(not os.access("/dev/kmsg", os.W_OK), reason="/dev/kmsg is not for us")
def test_real_log_tells_what_was_said_since() -> None:
    log = KernelLog()
    if not log.is_readable:
        pytest.skip("/dev/kmsg cannot be read here")
    said = f"cahoots-vllm unit test {os.getpid()}"
    Path("/dev/kmsg").write_text(f"<7>{said}\n")
    assert said in log.take()
    assert said not in log.take()
    log.close()


def test_initial_pid_namespace_is_known_by_its_number(tmp_path: Path) -> None:
    own = Path("/proc/self/ns/pid").stat().st_ino
    assert has_initial_pids() is (own == 4026531836)  # lsns(8) shows the same
    assert not has_initial_pids(tmp_path)
    assert not has_initial_pids(tmp_path / "gone")


@pytest.mark.parametrize(
    "message",
    [
        _OOM,
        _CGROUP_OOM,
        "Killed process 123 (python3) total-vm:1kB",
        "Out of memory (oom_kill_allocating_task): Killed process 123 (a) total-vm:1kB",
    ],
)
def test_kill_of_one_of_ours_is_found(message: str) -> None:
    other = "Out of memory: Killed process 1234 (firefox) total-vm:1kB"
    assert find_oom_kill(["noise", other, message], {123, 5}) == message
    assert find_oom_kill(["noise", other, message], {12}) is None
    assert find_oom_kill([message], {1234567}) is None
    assert find_oom_kill([message], ()) is None


def test_talk_about_a_kill_is_none() -> None:
    said = ["oom_reaper: reaped process 123 (VLLM::Worker)", "foo: notKilled process 123 (x)"]
    assert find_oom_kill(said, {123}) is None


def test_first_gpu_error_is_found() -> None:
    later = "NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed"
    assert find_xid(["noise", _LOST, later]) == _LOST
    assert find_xid(["NVRM: Xid (0000:01:00): 31, Ch 00000008"]) is not None
    assert find_xid(["NVRM: loading", "noise"]) is None


def test_xid_of_a_killed_process_is_no_cause() -> None:
    killed = "NVRM: Xid (PCI:0000:65:00): 45, pid=12345, Ch 00000008, engmask 00000101"
    assert find_xid([killed]) is None
    assert find_xid([killed, _LOST]) == _LOST
