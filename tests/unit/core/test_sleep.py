"""Who may sleep in place of its end, what it must have given back, and who ends for the budget."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.backoff import DEFAULT_LIMITS
from cahoots_vllm.core.events import Checked, Drain, Drained, Ready, Restart, Stop, Unload, Want
from cahoots_vllm.core.launch import DEV_MODE, SLEEP_OPTION, LaunchSpec, can_sleep
from cahoots_vllm.core.sleep import Held, budget_bytes, count_to_end, why_still_held
from cahoots_vllm.core.wire import SwapStrategy

from .environment import Environment, fitted

PLAIN = LaunchSpec(model="org/plain", source="org/plain", engine="/engine")
A, B = (
    replace(
        LaunchSpec(model=name, source=name, engine="/engine"),
        options=((SLEEP_OPTION, True),),
        env=((DEV_MODE, "1"),),
    )
    for name in ("org/a", "org/b")
)
ALL = 24 * GIB


def serving(goal: LaunchSpec = A, strategy: SwapStrategy = SwapStrategy.SLEEP) -> Environment:
    """Return a world where this goal is served, and swaps are done so."""
    world = Environment(limits=replace(DEFAULT_LIMITS, swap=strategy))
    return world.play((Want(goal), Checked(goal, fitted(goal)), Ready(1)))


def swapped(world: Environment, strategy: SwapStrategy | None = None) -> tuple[object, ...]:
    """Return what follows once the old worker is drained for B."""
    world.play((Want(B, strategy), Checked(B, fitted(B))))
    return world.send(Drained(1))


def test_worker_that_another_takes_the_place_of_may_sleep() -> None:
    world = serving()
    world.send(Want(B))
    assert world.send(Checked(B, fitted(B))) == (Drain(1),)
    assert world.send(Drained(1)) == (Stop(1, at_once=False, sleeps_for=A),)


@pytest.mark.parametrize(
    ("goal", "of_settings", "asked", "expected"),
    [
        (A, SwapStrategy.SLEEP, None, A),
        (A, SwapStrategy.SEQUENTIAL, SwapStrategy.SLEEP, A),
        (A, SwapStrategy.SLEEP, SwapStrategy.SEQUENTIAL, None),
        (A, SwapStrategy.SEQUENTIAL, None, None),
        (PLAIN, SwapStrategy.SLEEP, None, None),
    ],
)
def test_it_sleeps_where_the_strategy_and_its_launch_allow_it(
    goal: LaunchSpec,
    of_settings: SwapStrategy,
    asked: SwapStrategy | None,
    expected: LaunchSpec | None,
) -> None:
    effects = swapped(serving(goal, of_settings), asked)
    assert effects == (Stop(1, at_once=False, sleeps_for=expected),)


@pytest.mark.parametrize(
    "events",
    [
        (Want(None),),
        (Restart(), Checked(A, fitted(A))),
        (Restart(), Want(B), Checked(B, fitted(B))),
        (Unload(9),),
    ],
)
def test_it_ends_where_nobody_will_want_it_back(events: tuple[object, ...]) -> None:
    world = serving()
    world.play(events)  # type: ignore[arg-type] # each is an event
    assert Stop(1, at_once=False) in world.send(Drained(1))


def test_both_the_option_and_the_routes_are_needed() -> None:
    assert can_sleep(A)
    assert not can_sleep(PLAIN)
    assert not can_sleep(replace(A, env=()))
    assert not can_sleep(A.with_option(SLEEP_OPTION, value=False))


def held(*gib: float) -> tuple[Held, ...]:
    return tuple(Held(index, ALL, round(size * GIB)) for index, size in enumerate(gib))


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        (held(21.0), held(0.6), None),
        (held(21.0), held(2.3), None),
        (held(21.0), held(2.5), "still holds 2.5 GiB, more than 2.4 GiB"),
        (held(21.0), held(21.0), "it held 21.0 GiB of GPU 0"),
        # Less than a tenth of the GPU, and nothing of it was given back.
        (held(1.0), held(1.0), "more than 512 MiB"),
        (held(1.0), held(0.4), None),
        (held(10.0, 10.0), held(0.5, 10.0), "of GPU 1"),
        (held(0.0, 10.0), held(0.0, 0.5), None),
        (held(0.0), held(0.0), "shows no memory"),
        ((), (), "shows no memory"),
        (held(10.0), (), "does not answer"),
    ],
)
def test_what_stays_on_a_gpu_is_little(
    before: tuple[Held, ...], after: tuple[Held, ...], part: str | None
) -> None:
    why = why_still_held(before, after)
    assert (why is None) == (part is None), why
    assert part is None or part in (why or "")


def test_budget_is_what_is_set_or_half_of_what_would_be_available_without_sleepers() -> None:
    assert budget_bytes(7, 100, [50]) == 7
    assert budget_bytes(0, 100, []) == 0
    assert budget_bytes(None, 100, []) == 50
    assert budget_bytes(None, 60, [20, 20]) == 50


@pytest.mark.parametrize(
    ("need", "sizes", "budget", "expected"),
    [
        (10, [], 10, 0),
        (11, [], 10, None),
        (5, [5], 10, 0),
        (6, [5], 10, 1),
        (4, [5, 3, 2], 10, 1),
        (9, [5, 3, 2], 10, 3),
        (0, [5, 6], 10, 1),
    ],
)
def test_those_of_longest_ago_end_first_and_no_more_than_must(
    need: int, sizes: list[int], budget: int, expected: int | None
) -> None:
    assert count_to_end(need, sizes, budget) == expected


@given(st.integers(0, 50), st.lists(st.integers(0, 50)), st.integers(0, 100))
def test_what_is_left_fits_and_one_more_would_not(need: int, sizes: list[int], budget: int) -> None:
    count = count_to_end(need, sizes, budget)
    if count is None:
        assert need > budget
        return
    assert need + sum(sizes[count:]) <= budget
    assert count == 0 or need + sum(sizes[count - 1 :]) > budget
