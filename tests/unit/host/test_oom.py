"""The kernel's kill counters: only growth counts, only in the worker's own cgroup, gone is none."""

import os
import shutil
from pathlib import Path

import pytest

from cahoots_vllm.host.oom import OomCounters, OomGrowth, expose, prefer, prefer_no_more

_NOTHING = OomGrowth(in_cgroup=False, on_host=False)
_EVENTS = "low 0\nhigh 0\nmax 9\noom {}\noom_kill {}\noom_group_kill 0\n"


class Host:
    """A /proc and a /sys/fs/cgroup of files, with the process 7."""

    def __init__(self, root: Path, cgroup: str) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write(self.proc / "7" / "cgroup", cgroup)
        self.vmstat(0)

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def vmstat(self, kills: int) -> None:
        self.write(self.proc / "vmstat", f"nr_free_pages 5\noom_kill {kills}\noom_killer 9\n")

    def events(self, directory: str, kills: int) -> None:
        self.write(self.cgroups / directory / "memory.events", _EVENTS.format(kills + 5, kills))

    def control(self, directory: str, kills: int) -> None:
        text = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
        self.write(self.cgroups / "memory" / directory / "memory.oom_control", text)

    def watch(self) -> OomCounters:
        return OomCounters(7, proc=self.proc, cgroups=self.cgroups)


@pytest.mark.parametrize("mount", ["", "unified/"])
def test_v2_cgroup_is_watched_on_either_mount(tmp_path: Path, mount: str) -> None:
    host = Host(tmp_path, "0::/system.slice/x.service/worker-1\n")
    directory = f"{mount}system.slice/x.service/worker-1"
    host.events(directory, 3)
    host.events(f"{mount}system.slice/x.service", 3)
    watch = host.watch()
    assert watch.grown() == _NOTHING
    host.events(f"{mount}system.slice/x.service", 4)  # another worker's
    assert watch.grown() == _NOTHING
    host.events(directory, 4)
    assert watch.grown() == OomGrowth(in_cgroup=True, on_host=False)


def test_parent_counts_where_the_workers_cgroup_has_no_memory_controller(tmp_path: Path) -> None:
    host = Host(tmp_path, "0::/system.slice/x.service/worker-1\n")
    (host.cgroups / "system.slice/x.service/worker-1").mkdir(parents=True)
    host.events("system.slice/x.service", 0)
    watch = host.watch()
    host.events("system.slice/x.service", 1)
    assert watch.grown().in_cgroup


def test_strangers_further_up_do_not_count(tmp_path: Path) -> None:
    host = Host(tmp_path, "0::/user.slice/a/b\n")
    host.events("user.slice", 0)
    watch = host.watch()
    host.events("user.slice", 1)
    assert watch.grown() == _NOTHING


def test_v1_cgroup_is_watched_itself_only(tmp_path: Path) -> None:
    host = Host(tmp_path, "9:cpu,cpuacct:/a\n5:hugetlb,memory:/a/b:c\n1:name=systemd:/a\n0::/\n")
    host.control("a", 0)
    host.control("a/b:c", 2)
    watch = host.watch()
    host.control("a", 1)
    assert watch.grown() == _NOTHING
    host.control("a/b:c", 3)
    assert watch.grown().in_cgroup


def test_kill_elsewhere_on_the_host_is_told_apart(tmp_path: Path) -> None:
    host = Host(tmp_path, "0::/a\n")
    host.events("a", 0)
    watch = host.watch()
    host.vmstat(1)
    assert watch.grown() == OomGrowth(in_cgroup=False, on_host=True)


def test_what_is_gone_tells_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, "0::/a\n")
    host.events("a", 2)
    watch = host.watch()
    shutil.rmtree(host.proc / "7")  # the process; the counters are read by path
    host.events("a", 3)
    assert watch.grown().in_cgroup
    host.events("a", 1)  # removed and made again under the same name
    assert watch.grown() == _NOTHING
    shutil.rmtree(host.cgroups)
    (host.proc / "vmstat").unlink()
    assert watch.grown() == _NOTHING


def test_counter_that_comes_later_is_no_growth(tmp_path: Path) -> None:
    host = Host(tmp_path, "5:memory:/a\n")
    watch = host.watch()
    host.control("a", 4)
    assert watch.grown() == _NOTHING


def test_process_that_never_was_leaves_the_host(tmp_path: Path) -> None:
    host = Host(tmp_path, "0::/\n")
    watch = OomCounters(8, proc=host.proc, cgroups=host.cgroups)
    host.vmstat(2)
    assert watch.grown() == OomGrowth(in_cgroup=False, on_host=True)


def test_real_counters_are_read() -> None:
    assert OomCounters(os.getpid()).grown().in_cgroup is False


@pytest.mark.parametrize(("before", "after"), [("-250", "0"), ("0", "0"), ("300", "300")])
def test_process_is_no_better_protected_than_others(
    tmp_path: Path, before: str, after: str
) -> None:
    (tmp_path / "7").mkdir()
    file = tmp_path / "7" / "oom_score_adj"
    file.write_text(f"{before}\n")
    expose(7, tmp_path)
    assert file.read_text().strip() == after
    expose(8, tmp_path)


def test_who_is_preferred_is_taken_first_and_can_be_spared_again(tmp_path: Path) -> None:
    for name, value in (("7", "-250"), ("self", "-250")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "oom_score_adj").write_text(value)
    prefer(7, tmp_path)
    assert (tmp_path / "7" / "oom_score_adj").read_text() == "1000"
    prefer_no_more(7, tmp_path)
    assert (tmp_path / "7" / "oom_score_adj").read_text() == "-250"
    prefer(8, tmp_path)  # gone already
    prefer_no_more(8, tmp_path)
