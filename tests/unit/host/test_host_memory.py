"""Host memory: KiB become bytes, kernel threads and what just ended are no holders."""

import os
from pathlib import Path

import pytest

from cahoots_vllm.host.host_memory import (
    HostMemory,
    ResidentProcess,
    largest_processes,
    read_host_memory,
)

_PAGE = os.sysconf("SC_PAGE_SIZE")


def process(proc: Path, pid: int, statm: str | None) -> None:
    (proc / str(pid)).mkdir()
    if statm is not None:
        (proc / str(pid) / "statm").write_text(statm)


def test_memory_is_read_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal:       1000 kB\nMemFree:  7 kB\nMemAvailable:    250 kB\nHugePages_Total:   0\n"
    )
    assert read_host_memory(tmp_path) == HostMemory(1000 * 1024, 250 * 1024)


def test_memory_of_this_host_is_plausible() -> None:
    memory = read_host_memory()
    assert 0 < memory.available_bytes < memory.total_bytes
    assert memory.total_bytes > 64 * 1024 * 1024


def test_missing_proc_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_host_memory(tmp_path)


def test_largest_come_first_and_kernel_threads_not_at_all(tmp_path: Path) -> None:
    process(tmp_path, 2, "0 0 0 0 0 0 0\n")
    process(tmp_path, 10, "900 5 1 1 0 1 0\n")
    process(tmp_path, 11, "100 70 1 1 0 1 0\n")
    process(tmp_path, 12, "100 6 1 1 0 1 0\n")
    process(tmp_path, 13, None)  # it ended while we looked
    (tmp_path / "sys").mkdir()
    largest = ResidentProcess(11, 70 * _PAGE)
    assert largest_processes(2, tmp_path) == (largest, ResidentProcess(12, 6 * _PAGE))
    assert [p.pid for p in largest_processes(9, tmp_path)] == [11, 12, 10]


def test_own_process_is_among_them() -> None:
    own = {p.pid: p.resident_bytes for p in largest_processes(10**6)}[os.getpid()]
    assert own > 4 * 1024 * 1024
