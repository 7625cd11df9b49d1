from dataclasses import replace

import pytest

from cahoots_vllm.core.diagnosis.causes import Figures, Trait
from cahoots_vllm.core.memory import (
    DEFAULT_MEMORY_LIMITS as LIMITS,
)
from cahoots_vllm.core.memory import (
    Attempt,
    GiveUp,
    Next,
    Room,
    Same,
    Sizes,
    Wait,
    gate,
)
from unit.core.memory.cases import (
    ANN,
    NOTHING_KNOWN,
    OFF,
    OURS,
    answer,
    asking,
    following,
    gpu,
    room,
)

# Not enough free at start.


def test_the_share_is_fitted_to_what_is_free() -> None:
    found = answer(asking(), Trait.FREE_TOO_SMALL, room(80.0, ANN))
    assert following(found).current == Sizes(790, 32768)


def test_the_engines_own_figures_count_where_they_say_less() -> None:
    found = answer(asking(), Trait.FREE_TOO_SMALL, said=Figures(free_gib=79.5, total_gib=100.0))
    assert following(found).current.share == 780
    unknown = answer(
        asking(), Trait.FREE_TOO_SMALL, NOTHING_KNOWN, said=Figures(free_gib=79.5, total_gib=100)
    )
    assert following(unknown).current.share == 780


@pytest.mark.parametrize(("free", "total"), [(-1, 100), (1e308, 1e-308), (5, 0), (200, 100)])
def test_absurd_figures_are_not_fitted_to(free: float, total: float) -> None:
    found = answer(
        asking(), Trait.FREE_TOO_SMALL, room(80.0), said=Figures(free_gib=free, total_gib=total)
    )
    assert following(found).current.share == 790


def test_below_the_floor_it_waits_for_the_holder() -> None:
    found = answer(asking(), Trait.FREE_TOO_SMALL, room(50.0, ANN))
    assert isinstance(found, Wait)
    assert found.shortage.holders == (ANN,)
    assert found.memory.current.share == 900


def test_what_an_earlier_worker_of_ours_holds_is_waited_for() -> None:
    assert isinstance(answer(asking(), Trait.FREE_TOO_SMALL, room(80.0, OURS)), Wait)
    assert isinstance(gate(asking(), room(80.0, ANN, OURS), LIMITS, 0.0), Wait)


def test_where_nobody_lacks_anything_it_starts_again_a_few_times() -> None:
    memory = asking()
    for _ in range(LIMITS.tries):
        found = answer(memory, Trait.FREE_TOO_SMALL)
        assert isinstance(found, Same)
        memory = found.memory
    assert isinstance(answer(memory, Trait.FREE_TOO_SMALL), GiveUp)


def test_out_of_tries_it_still_waits_for_who_holds_memory() -> None:
    memory = replace(asking(), tries=LIMITS.tries)
    assert isinstance(answer(memory, Trait.FREE_TOO_SMALL, room(80.0, ANN)), Wait)


# The gate before a start.


def test_the_gate_lets_go_what_fits() -> None:
    memory = asking()
    assert gate(memory, room(90.0), LIMITS, 0.0) == Same(memory)
    assert gate(memory, NOTHING_KNOWN, LIMITS, 0.0) == Same(memory)


def test_the_gate_fits_to_what_is_free_and_uses_up_no_try() -> None:
    found = gate(asking(999), room(98.0, ANN), LIMITS, 3.0)
    assert isinstance(found, Next)
    assert found.memory.current == Sizes(970, 32768)
    assert found.memory.tries == 0
    assert found.step.at == 3.0
    assert "held by train" in found.step.reason


def test_the_gate_waits_below_the_floor() -> None:
    found = gate(asking(), room(50.4, ANN), LIMITS, 0.0)
    assert isinstance(found, Wait)
    assert isinstance(gate(asking(), room(50.5, ANN), LIMITS, 0.0), Next)


def test_the_gate_waits_without_adaption() -> None:
    assert isinstance(gate(asking(), room(80.0, ANN), OFF, 0.0), Wait)


def test_the_gate_waits_rather_than_starts_what_is_known_to_fail() -> None:
    lows = (Attempt(Sizes(800, 32768), took_too_much=False, at=0.0),)
    assert isinstance(gate(replace(asking(), failed=lows), room(80.0, ANN), LIMITS, 0.0), Wait)


def test_the_gate_shortens_the_context_to_what_is_known_to_fit() -> None:
    lows = (Attempt(Sizes(780, 32768), took_too_much=False, at=0.0, fits_len=20_000),)
    memory = replace(asking(), failed=lows)
    tight = gate(memory, room(79.0, ANN), LIMITS, 0.0)
    assert following(tight).current == Sizes(780, 20_000)
    roomier = gate(memory, room(80.0, ANN), LIMITS, 0.0)
    assert following(roomier).current == Sizes(790, 32768)
    # What fitted in more is tried rather than nothing, but after what fitted in as little.
    tighter = gate(memory, room(70.0, ANN), LIMITS, 0.0)
    assert following(tighter).current == Sizes(690, 20_000)
    less = Attempt(Sizes(680, 32768), took_too_much=False, at=0.0, fits_len=15_008)
    known = gate(replace(memory, failed=(*lows, less)), room(70.0, ANN), LIMITS, 0.0)
    assert following(known).current == Sizes(690, 15_008)


def test_the_worst_of_several_gpus_is_fitted_to() -> None:
    two = Room((gpu(95.0), gpu(60.0, ANN, total_gib=80.0)))
    assert following(gate(asking(), two, LIMITS, 0.0)).current.share == 740
