"""Memory pressure as the kernel writes it, on files laid out as its own."""

from pathlib import Path

import pytest

from cahoots_vllm.core.standby import MemoryFacts
from cahoots_vllm.host.memory_pressure import private_bytes, read_memory

# As Linux 6.1 writes them.
_MEMINFO = "MemTotal:       24576 kB\nMemFree:  100 kB\nMemAvailable:   10240 kB\n"
_PSI = "some avg10={} avg60=0.00 avg300=0.00 total=12\nfull avg10=99.00 avg60=0.00 total=0\n"
_ROLLUP = """\
55d0c0a00000-7ffd3b5f1000 ---p 00000000 00:00 0                          [rollup]
Rss:              626000 kB
Pss:              300000 kB
Shared_Clean:     100000 kB
Private_Clean:      4000 kB
Private_Dirty:    450000 kB
Private_Hugetlb:       0 kB
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "pressure").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(_MEMINFO)
    return tmp_path / "proc"


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def test_kernel_that_says_nothing_of_pressure(proc: Path) -> None:
    assert read_memory(None, proc) == MemoryFacts(24576 * 1024, 10240 * 1024)


def test_greater_pressure_counts(proc: Path, cgroup: Path) -> None:
    (proc / "pressure" / "memory").write_text(_PSI.format("1.50"))
    assert read_memory(None, proc).pressure == 1.5
    (cgroup / "memory.pressure").write_text(_PSI.format("12.25"))
    assert read_memory(cgroup, proc).pressure == 12.25
    (cgroup / "memory.pressure").write_text("")
    assert read_memory(cgroup, proc).pressure == 1.5


def test_lower_limit_counts(proc: Path, cgroup: Path) -> None:
    (cgroup / "memory.high").write_text("max\n")
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("1000\n")
    facts = read_memory(cgroup, proc)
    assert (facts.limit, facts.used) == (None, 1000)
    (cgroup / "memory.max").write_text("9000\n")
    (cgroup / "memory.high").write_text("8000\n")
    assert read_memory(cgroup, proc).limit == 8000


def test_private_memory_is_what_its_end_would_give_back(proc: Path) -> None:
    (proc / "17").mkdir()
    (proc / "17" / "smaps_rollup").write_text(_ROLLUP)
    assert private_bytes(17, proc) == 454_000 * 1024
    assert private_bytes(18, proc) is None


def test_this_host_can_be_read() -> None:
    facts = read_memory(None)
    assert 0 < facts.available <= facts.total
