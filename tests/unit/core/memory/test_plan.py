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
    Same,
    Sizes,
    Wait,
    forgiven,
    gate,
    known_to_fail,
    plan,
    worked,
)
from unit.core.memory.cases import (
    ANN,
    IDLE,
    NOTHING_KNOWN,
    OFF,
    answer,
    asking,
    following,
    room,
)
from unit.core.memory.engine import fails

NO_MEMORY = (Trait.NONE, Trait.SHARED_MEMORY, Trait.TRANSIENT, Trait.LIMIT, Trait.HOST_MEMORY)
ADAPTED = [t for t in Trait if t not in {*NO_MEMORY, Trait.PROFILE_DISTURBED, Trait.KV_OVERRIDE}]


@pytest.mark.parametrize("trait", NO_MEMORY)
def test_what_is_no_memory_failure_is_left_to_others(trait: Trait) -> None:
    assert plan(asking(), fails(trait), IDLE, LIMITS, 0.0) is None


def test_a_disturbed_profile_starts_again_unchanged() -> None:
    memory = asking()
    assert answer(memory, Trait.PROFILE_DISTURBED) == Same(memory)


def test_a_block_override_gives_up_and_names_it() -> None:
    found = answer(asking(), Trait.KV_OVERRIDE)
    assert isinstance(found, GiveUp)
    assert "num-gpu-blocks-override" in found.reason


@pytest.mark.parametrize("trait", ADAPTED)
def test_without_adaption_nothing_is_changed(trait: Trait) -> None:
    memory = asking()
    found = answer(memory, trait, limits=OFF)
    assert found.memory.current == memory.asked
    if trait in {Trait.SERVING, Trait.FREE_TOO_SMALL}:
        assert isinstance(found, Same)
    else:
        assert isinstance(found, GiveUp)
        assert "memory.adapt is off" in found.reason


def test_without_adaption_too_little_free_waits_for_its_holder() -> None:
    found = answer(asking(), Trait.FREE_TOO_SMALL, room(60.0, ANN), OFF)
    assert isinstance(found, Wait)
    assert found.shortage.holders == (ANN,)


# Loading: the share does not bound the weights.


def test_loading_is_tried_once_more_where_somebody_else_holds_memory() -> None:
    memory = following(answer(asking(), Trait.LOADING, room(95.0, ANN)))
    assert memory.current.share == 850
    found = answer(memory, Trait.LOADING, room(95.0, ANN))
    assert isinstance(found, GiveUp)
    assert found.reason.startswith("the weights do not fit beside what others hold")


def test_loading_alone_on_the_gpu_gives_up_at_once() -> None:
    found = answer(asking(), Trait.LOADING, IDLE)
    assert isinstance(found, GiveUp)
    assert found.reason.startswith("the weights do not fit, whatever the share")


def test_loading_is_tried_once_more_where_nothing_is_known() -> None:
    assert isinstance(answer(asking(), Trait.LOADING, NOTHING_KNOWN), Next)


def test_loading_at_the_floor_is_tried_once_more_unchanged() -> None:
    found = answer(asking(500), Trait.LOADING, room(55.0, ANN))
    assert isinstance(found, Same)
    assert isinstance(answer(found.memory, Trait.LOADING, room(55.0, ANN)), GiveUp)


def test_loading_says_nothing_about_the_share() -> None:
    memory = following(answer(asking(), Trait.LOADING, room(95.0, ANN)))
    memory = following(answer(memory, Trait.KV_NONE, IDLE, said=Figures(available_gib=-3.0)))
    assert memory.current.share == 890
    assert not known_to_fail(memory, Sizes(900, 32768))


# When nothing is left.


@pytest.mark.parametrize("trait", [Trait.KV_NONE, Trait.LOADING, Trait.PROFILING, Trait.AFTER_KV])
def test_squeezed_by_somebody_else_it_waits_for_what_was_asked(trait: Trait) -> None:
    busy = room(55.0, ANN)
    memory = following(gate(asking(), busy, LIMITS, 0.0))
    assert memory.current.share == 540
    found = answer(memory, trait, busy)
    while isinstance(found, Next):
        found = answer(found.memory, trait, busy)
    memory = found.memory
    assert isinstance(found, Wait)
    assert found.shortage.holders == (ANN,)
    assert memory.current == memory.asked
    assert memory.tries == 0
    # It really waits: not before more is free, and then it goes.
    assert isinstance(gate(memory, busy, LIMITS, 0.0), Wait)
    assert isinstance(gate(memory, room(70.0, ANN), LIMITS, 0.0), Next)
    assert gate(memory, IDLE, LIMITS, 0.0) == Same(memory)


def test_it_waits_for_a_share_that_is_not_known_to_fail() -> None:
    highs = (Attempt(Sizes(900, 32768), took_too_much=True, at=0.0),)
    memory = replace(asking(), current=Sizes(540, 32768, 512, 16), failed=highs)
    found = answer(memory, Trait.KV_NONE, room(55.0, ANN), said=Figures(available_gib=-30.0))
    assert isinstance(found, Wait)
    assert found.memory.current == Sizes(850, 32768)


def test_what_cannot_be_loaded_is_not_started_with_a_shorter_context_either() -> None:
    busy = room(55.0, ANN)
    lows = (Attempt(Sizes(780, 32768), took_too_much=False, at=0.0, fits_len=20_000),)
    memory = replace(asking(), current=Sizes(540, 32768), failed=lows, loading_failures=1)
    found = answer(memory, Trait.LOADING, busy)
    assert isinstance(found, Wait)
    assert isinstance(gate(found.memory, busy, LIMITS, 0.0), Wait)


def test_with_no_holder_to_wait_for_it_gives_up() -> None:
    memory = replace(asking(), current=Sizes(540, 32768, 512, 16))
    assert isinstance(
        answer(memory, Trait.KV_NONE, room(55.0), said=Figures(available_gib=-30.0)), GiveUp
    )


def test_it_gives_up_when_the_tries_are_used_up_and_says_what_to_do() -> None:
    memory = replace(asking(), tries=LIMITS.tries)
    found = answer(memory, Trait.AFTER_KV)
    assert isinstance(found, GiveUp)
    assert found.reason.startswith("10 sizes were tried: change what is asked for, or")
    assert "cahootsctl memory reset" in found.reason
    assert known_to_fail(found.memory, memory.asked)


def test_each_change_is_one_try_until_a_worker_was_ready_for_long() -> None:
    memory = following(answer(asking(), Trait.AFTER_KV))
    memory = following(answer(memory, Trait.AFTER_KV))
    assert memory.tries == 2
    assert following(answer(worked(memory), Trait.SERVING)).tries == 3
    assert following(answer(forgiven(worked(memory)), Trait.SERVING)).tries == 1


def test_a_share_of_0999_on_an_idle_gpu_comes_to_fit() -> None:
    memory = following(
        answer(asking(999), Trait.FREE_TOO_SMALL, said=Figures(free_gib=98.6, total_gib=100))
    )
    assert memory.current.share == 970


def test_what_worked_last_comes_before_anything_new() -> None:
    memory = worked(replace(asking(), current=Sizes(850, 32768, 2048, 64)))
    climbed = replace(memory, current=Sizes(850, 32768, None, 64))
    assert following(answer(climbed, Trait.KV_NONE, IDLE)).current == memory.current
    assert following(answer(climbed, Trait.AFTER_KV, IDLE)).current == memory.current


def test_what_worked_last_is_not_tried_where_the_failure_rules_it_out() -> None:
    memory = replace(worked(asking(900)), current=Sizes(800, 32768))
    assert following(answer(memory, Trait.AFTER_KV, IDLE)).current.share == 750
    assert following(answer(memory, Trait.KV_NONE, IDLE)).current.share == 900
    assert following(answer(memory, Trait.KV_NONE, room(85.0, ANN))).current.share == 840
