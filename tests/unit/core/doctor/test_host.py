"""Hub, clock, endpoint, service, memory, settings: what is found, and what is not."""

from dataclasses import replace

import pytest

from cahoots_vllm.core.amounts import GIB, MIB
from cahoots_vllm.core.doctor.endpoint import (
    Bridge,
    DockerFacts,
    PortHolder,
    judge_docker,
    judge_port,
)
from cahoots_vllm.core.doctor.engine import EngineFacts, judge_engine
from cahoots_vllm.core.doctor.expectations import expectation_of
from cahoots_vllm.core.doctor.hub import (
    HubFacts,
    Reach,
    RepoFacts,
    judge_clock,
    judge_hub,
    judge_repo,
    judge_token,
)
from cahoots_vllm.core.doctor.memory import (
    DiskFacts,
    RamFacts,
    ShmFacts,
    judge_disks,
    judge_ram,
    judge_shm,
    judge_swap,
)
from cahoots_vllm.core.doctor.service import (
    Leftover,
    LimitFacts,
    UnitFacts,
    judge_cgroup,
    judge_leftovers,
    judge_limits,
    judge_unit,
    judge_unreachable,
)
from cahoots_vllm.core.level import Level

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL
GUIDE = expectation_of("Qwen/Qwen3-32B-AWQ")
REACHED = HubFacts("https://hub", Reach.ANSWERED, status=200, has_token=True, user="ann")
UNIT = UnitFacts("u.service", False, "loaded", "active", "running", "success", 0, "enabled")  # noqa: FBT003 (is_user)
DISK = DiskFacts("the cache", "/c", 1, 200 * GIB, 400 * GIB, 10**6)
LISTENER = PortHolder("127.0.0.1:8000", "bob", 7, "python -m vllm")


def test_unreached_hub_matters_where_the_model_is_not_on_disk() -> None:
    away = HubFacts("https://hub", Reach.NO_ROUTE)
    assert judge_hub(away, is_needed=True)[0].level is FAIL
    assert judge_hub(away, is_needed=False)[0].level is OK
    # Somebody set a proxy, and it does not work: worth a word all the same.
    proxied = replace(away, reach=Reach.REFUSED, proxy="http://p:1")
    assert judge_hub(proxied, is_needed=False)[0].level is WARN


@pytest.mark.parametrize("reach", [r for r in Reach if r is not Reach.ANSWERED])
def test_each_way_not_to_reach_the_hub_has_a_remedy(reach: Reach) -> None:
    [finding] = judge_hub(HubFacts("https://hub", reach, "why"), is_needed=True)
    assert "(why)" in finding.sentence
    assert finding.remedy


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (REACHED, OK),
        (replace(REACHED, status=401), FAIL),
        (replace(REACHED, status=403), WARN),
        (replace(REACHED, status=429), OK),
        (replace(REACHED, has_token=False, status=401), OK),
        (replace(REACHED, reach=Reach.DNS, status=None), OK),
    ],
)
def test_token(facts: HubFacts, level: Level) -> None:
    assert judge_token(facts)[0].level is level


def test_gated_model_needs_a_token() -> None:
    gated = RepoFacts("org/m", 200, is_gated=True)
    assert judge_repo(gated, has_token=False)[0].level is FAIL
    assert judge_repo(gated, has_token=True)[0].level is OK
    assert judge_repo(replace(gated, status=403), has_token=True)[0].level is FAIL
    assert judge_repo(RepoFacts("org/m"), has_token=True) == ()


@pytest.mark.parametrize(
    ("skew", "level", "text"),
    [
        (None, OK, "NTP keeps it"),
        (-3.0, OK, "within 3 s"),
        (-7200.0, WARN, "2 h ahead"),
        (600.0, WARN, "10 min behind"),
        (5 * 86400.0, FAIL, "5 days behind"),
    ],
)
def test_clock(skew: float | None, level: Level, text: str) -> None:
    [finding] = judge_clock(skew, is_synchronised=True)
    assert finding.level is level
    assert text in finding.sentence


def test_port_of_a_bare_vllm() -> None:
    [finding] = judge_port(8000, (LISTENER,), frozenset({1}), is_running=True)
    assert finding.level is FAIL
    assert "(pid 7, user bob) on 127.0.0.1:8000; it is also what a bare" in finding.sentence
    [fine] = judge_port(8000, (LISTENER,), frozenset({7}), is_running=True)
    assert fine.level is OK
    ours = replace(LISTENER, pid=1, address="[::1]:8000")
    [shared] = judge_port(8000, (LISTENER, ours), frozenset({1}), is_running=True)
    assert shared.level is OK
    assert "also python -m vllm (pid 7" in shared.sentence
    assert judge_port(8000, (), frozenset({7}), is_running=True)[0].level is FAIL
    assert judge_port(8000, (), frozenset(), is_running=False)[0].level is OK
    hidden = replace(LISTENER, pid=None, command="")
    [finding] = judge_port(8001, (hidden,), frozenset({7}), is_running=True)
    assert "a process (user bob) on" in finding.sentence


@pytest.mark.parametrize(
    ("url", "listen", "facts", "level"),
    [
        ("localhost", ("127.0.0.1",), DockerFacts(), OK),
        ("localhost", ("127.0.0.1",), DockerFacts((Bridge("docker0", None, False),)), OK),  # noqa: FBT003 (is_up)
        ("localhost", ("127.0.0.1",), DockerFacts((Bridge("docker0", None, True),)), WARN),  # noqa: FBT003 (as above)
        ("host.docker.internal", ("::1",), DockerFacts((Bridge("docker0", None, False),)), WARN),  # noqa: FBT003 (as above)
        ("localhost", ("172.17.0.1",), DockerFacts((Bridge("docker0", None, True),)), OK),  # noqa: FBT003 (as above)
        ("localhost", ("unix:/s",), DockerFacts((Bridge("docker0", None, True),)), OK),  # noqa: FBT003 (as above)
        ("localhost", ("::1",), DockerFacts((Bridge("docker0", None, True),), is_desktop=True), OK),  # noqa: FBT003 (as above)
    ],
)
def test_docker(url: str, listen: tuple[str, ...], facts: DockerFacts, level: Level) -> None:
    assert judge_docker(f"http://{url}:8001/v1", listen, facts)[0].level is level


def test_unreachable_daemon_with_what_systemd_knows() -> None:
    given_up = replace(UNIT, active="failed", result="start-limit-hit")
    [finding] = judge_unreachable("cannot reach the daemon", given_up)
    assert "it died too often" in finding.sentence
    assert "reset-failed u.service && sudo systemctl start u.service" in finding.remedy
    [failed] = judge_unreachable("gone", replace(given_up, result="exit-code", is_user=True))
    assert "is failed (exit-code)" in failed.sentence
    assert "journalctl --user -u u.service -e, then: systemctl --user start" in failed.remedy
    assert "systemctl start cahoots-vllm" in judge_unreachable("gone", None)[0].remedy


def test_unit_of_a_running_daemon() -> None:
    assert judge_unit(None)[0].level is OK
    assert judge_unit(UNIT)[0].level is OK
    odd = replace(UNIT, restarts=9, enabled="disabled", lingers=False)
    assert [finding.level for finding in judge_unit(odd)] == [WARN] * 3


def test_limits() -> None:
    fine = LimitFacts(files=524288, locked_bytes=8 << 20, processes=None)
    assert judge_limits(fine, 1, is_cpu=False)[0].level is OK
    assert judge_limits(fine, 2, is_cpu=False)[0].level is WARN
    assert judge_limits(replace(fine, files=1024), 1, is_cpu=True)[0].level is WARN
    assert judge_limits(replace(fine, processes=100), 1, is_cpu=True)[0].level is WARN


def test_cgroup_and_leftovers() -> None:
    assert judge_cgroup(is_service=True, is_delegated=False)[0].level is WARN
    assert judge_cgroup(is_service=False, is_delegated=False)[0].level is OK
    left = (Leftover(4, "bob", "VLLM::EngineCore"), Leftover(5, "bob", "VLLM::Worker"))
    assert judge_leftovers(left)[0].remedy == "kill 4 5"
    assert judge_leftovers(())[0].level is OK


def test_ram_by_the_guides_table_and_by_what_is_left() -> None:
    ram = RamFacts(16 * GIB, 12 * GIB)
    assert judge_ram(ram, None)[0].level is OK
    assert "the guide wants 32 GB" in judge_ram(ram, GUIDE)[0].sentence
    limited = RamFacts(64 * GIB, 60 * GIB, limit=8 * GIB)
    assert "8.0 GiB of RAM (the limit of its cgroup)" in judge_ram(limited, GUIDE)[0].sentence
    assert judge_ram(replace(ram, available=500 * MIB), None)[0].level is WARN
    assert judge_ram(RamFacts(int(31.2 * GIB), 20 * GIB), GUIDE)[0].level is OK


def test_swap_that_is_used_while_memory_is_there_is_fine() -> None:
    ram = RamFacts(32 * GIB, 16 * GIB, swap_total=8 * GIB, swap_free=GIB, swappiness=60)
    assert judge_swap(ram)[0].level is OK
    [finding] = judge_swap(replace(ram, available=GIB))
    assert finding.level is WARN
    assert "vm.swappiness is 60" in finding.remedy


@pytest.mark.parametrize(
    ("total", "free", "processes", "level"),
    [
        (64 * MIB, 64 * MIB, 1, FAIL),
        (512 * MIB, 500 * MIB, 1, OK),
        (512 * MIB, 500 * MIB, 2, WARN),
        (16 * GIB, 10 * MIB, 1, FAIL),
    ],
)
def test_shared_memory(total: int, free: int, processes: int, level: Level) -> None:
    assert judge_shm(ShmFacts(total, free), processes)[0].level is level
    assert judge_shm(ShmFacts(0, 0, is_there=False), 1)[0].level is FAIL


@pytest.mark.parametrize(
    ("disk", "is_here", "level"),
    [
        (DISK, False, OK),
        (replace(DISK, free=50 * GIB), False, WARN),
        (replace(DISK, free=50 * GIB), True, OK),
        (replace(DISK, free=10 * GIB), False, FAIL),
        (replace(DISK, free=GIB), True, WARN),
        (replace(DISK, free=MIB), True, FAIL),
        (replace(DISK, free_inodes=3), True, FAIL),
        (replace(DISK, runs_programs=False), True, WARN),
    ],
)
def test_disk(disk: DiskFacts, is_here: bool, level: Level) -> None:  # noqa: FBT001 (parametrized)
    found = judge_disks((disk, replace(disk, what="the state")), GUIDE, is_model_here=is_here)
    assert [finding.level for finding in found] == [level]


def test_engine_that_lacks_something() -> None:
    whole = EngineFacts("/e", "0.32", torch="2.13", is_imported=True)
    assert judge_engine(whole)[0].level is OK
    assert judge_engine(replace(whole, missing=("numpy (not installed)",)))[0].level is WARN
    [finding] = judge_engine(replace(whole, lost_files=("a", "b", "c", "d", "e")))
    assert finding.level is FAIL
    assert "a, b, c and 2 more missing" in finding.sentence
