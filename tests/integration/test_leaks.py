"""Swaps and crashes leave nothing behind; tests/bench/leaks.py has many more of them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_vllm import standby as fake
from fake_vllm.script import Behaviour

from .harness import Daemon, wait_for
from .held import Held, delegated_cgroup, held
from .service_manager import ServiceManager
from .standby_status import wait_warm

# In turns, for five deaths in ten minutes are given up, unless a person did something meanwhile.
_KILLED = ("VLLM::EngineCore", "VLLM::Worker", "API server")
_WARM_UP, _ROUNDS = 3, 10
# The most that the daemon may grow; its ring of log lines is not full yet after the warm-up.
_GROWTH_MIB = 5.0


@pytest.fixture
def cgroup() -> Iterator[Path | None]:
    """Return the cgroup that the test's daemon is delegated, where one can be made."""
    with delegated_cgroup() as place:
        yield place


def held_cgroups(cgroup: Path | None) -> set[str]:
    if cgroup is None:
        pytest.skip("no cgroup can be made here")
    return {place.name for place in cgroup.glob("*/")}


def swap_and_crash(daemon: Daemon, number: int) -> None:
    """Change the worker twice, by standbys."""
    daemon.swap("org/b" if number % 2 == 0 else "org/a")
    wait_warm(daemon)
    generation = daemon.status()["worker"]["generation"]
    killed = _KILLED[number % len(_KILLED)]
    victim = daemon.main_pid() if killed == "API server" else daemon.pid_of(killed)
    os.kill(victim, signal.SIGKILL)
    daemon.wait_generation(generation + 1)
    wait_warm(daemon)


def settled(daemon: Daemon, cgroup: Path | None, before: Held) -> Held:
    """Return what it holds once that is no more than before, or what is left after a while."""
    assert daemon.process is not None
    pid, seen = daemon.process.pid, [before]

    def is_settled() -> bool:
        seen.append(held(pid, daemon.runtime, cgroup))
        return not seen[-1].beyond(before)

    try:
        wait_for(is_settled)
    except AssertionError:
        pytest.fail(f"left behind: {seen[-1].beyond(before)}")
    return seen[-1]


@pytest.mark.timeout(300)
def test_swaps_and_crashes_leave_nothing_behind(
    cgroup: Path | None, daemon: Daemon, manager: ServiceManager
) -> None:
    daemon.configure("on")
    daemon.play(Behaviour(shares_memory=True))
    daemon.start_ready()
    assert daemon.process is not None
    wait_warm(daemon)
    for number in range(_WARM_UP):
        swap_and_crash(daemon, number)
    before = held(daemon.process.pid, daemon.runtime, cgroup)
    stored = len(manager.names())
    for number in range(_WARM_UP, _WARM_UP + _ROUNDS):
        swap_and_crash(daemon, number)
    after = settled(daemon, cgroup, before)
    assert len(manager.names()) == stored, manager.names()
    resident, anonymous = after.grown_mib(before)
    print(f"\n    before: {before}\n    after: {after}")  # noqa: T201 (figures, not a log)
    assert resident < _GROWTH_MIB, f"RSS grew by {resident:.1f} MiB, anonymous {anonymous:.1f}"


def test_start_that_is_stopped_leaves_no_cgroup(cgroup: Path | None, daemon: Daemon) -> None:
    (daemon.engine / fake.FILE).write_text(fake.SILENT)
    daemon.configure("on")
    daemon.start_ready()
    wait_warm(daemon)
    assert held_cgroups(cgroup) == {"daemon", "standby-1", "worker-1"}
    daemon.api("POST", "/v1/restart", {})
    wait_for(lambda: "worker-2" in held_cgroups(cgroup) or None)
    daemon.end_operations()
    daemon.change("stop")
    wait_for(lambda: held_cgroups(cgroup) == {"daemon"} or None, what="no cgroup is left")


def test_standby_of_a_daemon_that_was_killed_leaves_no_cgroup(
    cgroup: Path | None, daemon: Daemon, manager: ServiceManager
) -> None:
    daemon.configure("on")
    daemon.start_ready()
    warm = wait_warm(daemon)
    for _ in range(2):
        daemon.change("restart")
        daemon.end_operations()
        warm = wait_warm(daemon, after=warm)
    assert held_cgroups(cgroup) == {"daemon", "standby-3", "worker-3"}
    daemon.kill()
    os.kill(warm, signal.SIGKILL)  # else the next daemon goes on with it
    daemon.start_ready()
    wait_warm(daemon, after=warm)
    assert manager.said("READY=1") == 2
    wait_for(lambda: held_cgroups(cgroup) == {"daemon", "standby-4", "worker-3"} or None)
    daemon.kill()
    daemon.start_ready()
    assert held_cgroups(cgroup) == {"daemon", "standby-4", "worker-3"}
