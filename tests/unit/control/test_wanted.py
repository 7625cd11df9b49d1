"""Which model is wanted, over swaps by people, requests, edits of files and failures."""

from dataclasses import replace
from pathlib import Path

from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.control.wanted import Wanted
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.settings import (
    EngineInfo,
    GatewaySettings,
    OnDemand,
    Profile,
    Settings,
    make_launch_spec,
)
from cahoots_vllm.core.state import Failure, State

SETTINGS = Settings(
    provider="local",
    configured_model="org/a",
    engine=EngineInfo("/engine", "0.32.0"),
    cache_dir="/cache",
    env_file="/.env",
    gateway=GatewaySettings(on_demand=OnDemand.PROFILES),
    profiles=tuple(Profile(f"org/{name}", f"{name}.toml") for name in "bcd"),
)
DIAGNOSIS = Diagnosis(Cause.BAD_ARGUMENTS, "bad option", "correct it", is_retryable=False)


def wanted(tmp_path: Path, settings: Settings = SETTINGS) -> Wanted:
    return Wanted(settings, StateFile(tmp_path / "state.json"))


def fall_back(one: Wanted, refused: str, back: str) -> None:
    goals = {name: make_launch_spec(SETTINGS, name) for name in (refused, back)}
    failure = Failure(1.0, goals[refused], DIAGNOSIS, "went back")
    one.follow(State(goal=goals[refused]), State(goal=goals[back], rejected=failure))


def names(one: Wanted) -> tuple[str | None, str | None]:
    return one.settings.override, one.settings.demanded


def test_demand_is_wanted_and_written_nowhere(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    one.demand("org/b")
    assert one.goal.model == "org/b"
    assert names(one) == (None, "org/b")
    one.take(replace(one.settings))
    assert "org/b" not in (tmp_path / "state.json").read_text()


def test_demand_for_what_people_want_ends_the_demand(tmp_path: Path) -> None:
    one = wanted(tmp_path, replace(SETTINGS, override="org/c"))
    one.demand("org/b")
    one.demand("org/c")
    assert (names(one), one.goal.model) == (("org/c", None), "org/c")


def test_swap_by_a_person_ends_the_demand(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    one.demand("org/b")
    one.swap(one.swapped("org/c"))
    assert names(one) == ("org/c", None)
    one.demand("org/b")
    one.swap(one.swapped(None))
    assert names(one) == (None, None)


def test_unrelated_edit_keeps_the_demand_and_another_model_ends_it(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    one.demand("org/b")
    assert one.carried_over(replace(SETTINGS, url="http://localhost:1/v1")).demanded == "org/b"
    assert one.carried_over(replace(SETTINGS, configured_model="org/d")).demanded is None


def test_demand_ends_with_its_profile_or_when_it_is_turned_off(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    one.demand("org/b")
    assert one.carried_over(replace(SETTINGS, profiles=SETTINGS.profiles[1:])).demanded is None
    assert one.carried_over(replace(SETTINGS, gateway=GatewaySettings())).demanded is None


def test_demand_that_failed_leaves_what_was_wanted_before(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    one.demand("org/b")
    one.demand("org/c")
    fall_back(one, "org/c", "org/b")
    assert names(one) == (None, "org/b")


def test_override_outlives_a_failed_demand_for_it(tmp_path: Path) -> None:
    one = wanted(tmp_path, replace(SETTINGS, override="org/d"))
    one.demand("org/b")
    one.demand("org/d")
    fall_back(one, "org/d", "org/b")
    assert names(one) == ("org/d", "org/b")


def test_swap_that_failed_makes_no_override_of_what_requests_had_asked_for(
    tmp_path: Path,
) -> None:
    one = wanted(tmp_path)
    one.demand("org/b")
    one.swap(one.swapped("org/c"))
    fall_back(one, "org/c", "org/b")
    assert names(one) == (None, "org/b")


def test_failure_after_a_daemon_restart_ends_demand_and_override(tmp_path: Path) -> None:
    one = wanted(tmp_path, replace(SETTINGS, demanded="org/b"))
    fall_back(one, "org/b", "org/a")
    assert names(one) == (None, None)
    one = wanted(tmp_path, replace(SETTINGS, override="org/b"))
    fall_back(one, "org/b", "org/a")
    assert names(one) == (None, None)


def test_failure_of_the_configured_model_changes_no_wish(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    fall_back(one, "org/a", "org/b")
    assert (names(one), one.settings.wanted_model) == ((None, None), "org/a")


def test_next_daemon_goes_on_with_the_demand_unless_another_model_is_configured(
    tmp_path: Path,
) -> None:
    one = wanted(tmp_path)
    one.go_on("org/b", "org/a")
    assert one.settings.demanded == "org/b"
    for demanded, configured in (("org/b", "org/x"), ("org/x", "org/a"), (None, None)):
        one = wanted(tmp_path)
        one.go_on(demanded, configured)
        assert one.settings.demanded is None


def test_abort_goes_back_to_the_demand(tmp_path: Path) -> None:
    one = wanted(tmp_path)
    one.demand("org/b")
    one.swap(one.swapped("org/c"))
    one.restore(None, "org/b")
    assert names(one) == (None, "org/b")
