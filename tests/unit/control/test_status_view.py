"""The status snapshot, made of what the lifecycle knows."""

from dataclasses import replace
from datetime import UTC, datetime

from cahoots_vllm.control.status import (
    BesideStatus,
    DaemonStatus,
    RequestStatus,
    StandbyStatus,
    Status,
)
from cahoots_vllm.control.status_view import Facts, Wall, build_status
from cahoots_vllm.core.events import Checked, Drained, Gone, Lost, Ready, Restart, Want
from cahoots_vllm.core.phases import StartProgress
from cahoots_vllm.core.settings import EngineInfo, Settings
from unit.core.environment import FATAL, MENDABLE, A, B, Environment, fitted
from unit.core.test_overlap import beside

SETTINGS = Settings(
    provider="local",
    configured_model="org/b",
    engine=EngineInfo("/engine", "0.32.0"),
    cache_dir="/cache",
    env_file="/.env",
)
FACTS = Facts(
    pid=77,
    progress=None,
    requests=RequestStatus(0, 0, 0),
    gpus=(),
    loaded_at="",
    config_error=None,
    endpoints=(),
    warnings=(),
    daemon=DaemonStatus(1, "", "0.1.0", "cgroup"),
    standby=StandbyStatus("off"),
)
A_READY = (Want(A), Checked(A, fitted(A)), Ready(1))
B_NEXT = (*A_READY, Want(B), Checked(B, fitted(B)))


def status_of(world: Environment, facts: Facts = FACTS) -> Status:
    wall = Wall(datetime(2026, 1, 1, tzinfo=UTC), world.now)
    return build_status(SETTINGS, world.state, facts, wall)


def models(status: Status) -> tuple[str | None, str | None]:
    return status.worker.model if status.worker is not None else None, status.model.goal


def test_worker_has_its_own_model_while_another_is_wanted() -> None:
    world = Environment().play(B_NEXT)
    assert (status_of(world).state, models(status_of(world))) == ("draining", ("org/a", "org/b"))
    world = world.settle_until_spawned(B)
    assert models(status_of(world)) == ("org/b", "org/b")
    world.send(Lost(2, FATAL))
    assert (status_of(world).state, models(status_of(world))) == ("stopping", ("org/b", "org/a"))
    world = world.settle_until_spawned(A)
    assert (status_of(world).state, models(status_of(world))) == ("starting", ("org/a", "org/a"))
    assert status_of(world).model.configured == "org/b"


def test_second_worker_of_an_overlap_is_there_until_it_is_gone() -> None:
    world = beside().play(B_NEXT)
    world.now += 3.0
    progress = StartProgress("loading weights", fraction=0.5)
    shown = status_of(world, replace(FACTS, beside_pid=78, beside_progress=progress))
    assert (shown.state, models(shown)) == ("ready", ("org/a", "org/b"))
    assert shown.beside == BesideStatus(
        "org/b", 2, 78, "starting", "loading weights", 0.5, "2025-12-31T23:59:57+00:00"
    )
    world.send(Ready(2))
    shown = status_of(world, replace(FACTS, beside_pid=77, beside_progress=progress))
    assert (shown.state, models(shown)) == ("ready", ("org/b", "org/b"))
    assert shown.beside is not None
    assert (shown.beside.model, shown.beside.phase) == ("org/a", "draining")
    assert (shown.beside.sub_phase, shown.beside.progress) == (None, None)
    world.play((Drained(1), Gone(1)))
    assert status_of(world).beside is None


def is_over(world: Environment) -> bool:
    failure = status_of(world).last_failure
    assert failure is not None
    return failure.is_over


def test_failure_of_a_newcomer_is_over_once_it_serves_or_is_given_up() -> None:
    world = beside().play((*B_NEXT, Lost(2, MENDABLE)))
    assert (status_of(world).state, is_over(world)) == ("ready", False)
    world.send(Gone(2))
    assert (world.starting, is_over(world)) == (3, False)
    served, given_up = replace(world), replace(world)
    served.send(Ready(3))
    assert is_over(served)
    given_up.send(Lost(3, MENDABLE))
    assert is_over(given_up)


def test_failure_of_a_restart_beside_the_worker_is_not_over_because_that_serves() -> None:
    world = beside().play((*A_READY, Restart(), Checked(A, fitted(A))))
    world.now += 1.0
    world.send(Lost(2, MENDABLE))
    assert (status_of(world).state, is_over(world)) == ("ready", False)
    world.play((Gone(2), Ready(3)))
    assert is_over(world)


def test_crash_is_over_once_the_model_is_served_again_and_stays_so_during_a_swap() -> None:
    world = Environment().play((*A_READY, Lost(1, MENDABLE)))
    assert not is_over(world)
    world = world.settle()
    assert (status_of(world).state, is_over(world)) == ("ready", True)
    world.send(Want(B))
    assert (status_of(world).state, is_over(world)) == ("ready", True)
