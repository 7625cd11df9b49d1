from dataclasses import replace

import pytest

from cahoots_vllm.core.diagnosis.causes import Figures, Trait
from cahoots_vllm.core.memory import (
    Attempt,
    GiveUp,
    MemoryLimits,
    Next,
    Room,
    Same,
    Sizes,
    known_to_fail,
)
from unit.core.memory.cases import (
    ANN,
    NOTHING_KNOWN,
    answer,
    asking,
    following,
    gpu,
    room,
    sizes_after,
)


def shares(*tried: Sizes) -> list[int]:
    return [sizes.share for sizes in tried]


# Too much: less.


@pytest.mark.parametrize("trait", [Trait.AFTER_KV, Trait.SERVING])
def test_after_the_kv_cache_the_share_goes_down_by_steps(trait: Trait) -> None:
    assert shares(*sizes_after(asking(), *[trait] * 3)) == [850, 800, 750]


def test_a_step_is_told_with_its_cause_and_its_numbers() -> None:
    found = answer(asking(), Trait.AFTER_KV, now=5.0)
    assert isinstance(found, Next)
    assert (found.step.at, found.step.cause) == (5.0, "gpu_oom_startup_alloc")
    assert found.step.reason == "says after_kv"
    assert [str(c) for c in found.step.changes] == ["gpu-memory-utilization from 0.9 to 0.85"]


def test_an_odd_share_steps_to_whole_hundredths() -> None:
    assert shares(*sizes_after(asking(999), Trait.AFTER_KV, Trait.AFTER_KV)) == [940, 890]


def test_the_configured_step_is_taken() -> None:
    found = answer(asking(), Trait.AFTER_KV, limits=MemoryLimits(step=20))
    assert following(found).current.share == 880


def test_at_the_floor_sequences_and_then_the_batch_give_way() -> None:
    tried = sizes_after(asking(540), *[Trait.AFTER_KV] * 7)
    assert tried == [
        Sizes(500, 32768),
        Sizes(500, 32768, None, 128),
        Sizes(500, 32768, None, 64),
        Sizes(500, 32768, None, 32),
        Sizes(500, 32768, None, 16),
        Sizes(500, 32768, 2048, 16),
        Sizes(500, 32768, 1024, 16),
    ]


def test_who_asks_for_less_than_the_floor_means_it() -> None:
    tried = sizes_after(asking(333), Trait.AFTER_KV)
    assert tried == [Sizes(333, 32768, None, 128)]


def test_the_bracket_closes_between_too_little_and_too_much() -> None:
    memory = following(answer(asking(), Trait.AFTER_KV))
    memory = following(answer(memory, Trait.KV_NONE))
    assert memory.current.share == 870
    memory = following(answer(memory, Trait.AFTER_KV))
    assert memory.current.share == 860
    memory = following(answer(memory, Trait.AFTER_KV))
    assert memory.current == Sizes(860, 32768, None, 128)  # nothing is left between 0.85 and 0.86


def test_when_no_share_serves_the_context_it_gives_way() -> None:
    memory = following(answer(asking(), Trait.AFTER_KV))
    short = Figures(needed_gib=8.0, available_gib=2.5, max_model_len=32768)
    memory = following(
        answer(memory, Trait.KV_TOO_SMALL, said=replace(short, estimated_len=20_010))
    )
    assert memory.current == Sizes(850, 20_000)


def test_after_a_closed_bracket_the_estimate_at_the_lower_share_is_taken() -> None:
    lows = (Attempt(Sizes(850, 32768), took_too_much=False, at=0.0, fits_len=20_010),)
    memory = replace(asking(860), asked=Sizes(900, 32768), failed=lows)
    assert following(answer(memory, Trait.AFTER_KV)).current == Sizes(850, 20_000)


def test_an_estimate_below_the_shortest_context_is_not_taken() -> None:
    lows = (Attempt(Sizes(850, 32768), took_too_much=False, at=0.0, fits_len=8000),)
    memory = replace(asking(860), asked=Sizes(900, 32768), failed=lows)
    assert following(answer(memory, Trait.AFTER_KV)).current == Sizes(860, 32768, None, 128)


def test_the_sampler_wants_fewer_sequences_then_a_lower_share() -> None:
    tried = sizes_after(asking(max_num_seqs=64), *[Trait.SAMPLER] * 3)
    assert tried[:2] == [Sizes(900, 32768, None, 32), Sizes(900, 32768, None, 16)]
    assert tried[2] == Sizes(850, 32768, None, 16)


def test_profiling_wants_a_smaller_batch_then_a_lower_share() -> None:
    tried = sizes_after(asking(), *[Trait.PROFILING] * 5)
    assert tried == [
        Sizes(900, 32768, 2048, 128),
        Sizes(900, 32768, 1024, 64),
        Sizes(900, 32768, 512, 32),
        Sizes(900, 32768, 512, 16),
        Sizes(850, 32768, 512, 16),
    ]


def test_there_are_never_more_sequences_than_tokens_in_a_batch() -> None:
    small = asking(max_num_batched_tokens=64)
    assert sizes_after(small, Trait.SAMPLER) == [Sizes(900, 32768, 64, 64)]
    many = asking(max_num_batched_tokens=1024, max_num_seqs=4096)
    assert sizes_after(many, Trait.PROFILING) == [Sizes(900, 32768, 512, 512)]


def test_a_serving_failure_with_nothing_left_starts_again_all_the_same() -> None:
    small = asking(500, max_num_batched_tokens=512, max_num_seqs=16)
    found = answer(small, Trait.SERVING)
    assert isinstance(found, Same)
    assert known_to_fail(found.memory, small.asked)
    assert isinstance(answer(small, Trait.AFTER_KV), GiveUp)


# Too little: more.


@pytest.mark.parametrize("trait", [Trait.KV_NONE, Trait.HELD_OUTSIDE])
def test_no_room_for_the_kv_cache_raises_the_share(trait: Trait) -> None:
    assert shares(*sizes_after(asking(800), trait, trait, trait, trait)) == [850, 900, 950, 980]


def test_what_the_message_says_is_missing_is_added() -> None:
    memory = following(answer(asking(600), Trait.KV_NONE, said=Figures(available_gib=-6.54)))
    assert memory.current.share == 680
    short = Figures(needed_gib=12.0, available_gib=3.5, max_model_len=32768)
    memory = following(answer(memory, Trait.KV_TOO_SMALL, said=replace(short, estimated_len=9000)))
    assert memory.current == Sizes(780, 32768)


def test_the_worst_gpu_says_how_much_share_is_missing() -> None:
    two = Room((gpu(99.0), gpu(39.0, total_gib=40.0)))
    assert following(
        answer(asking(600), Trait.KV_NONE, two, said=Figures(available_gib=-4.0))
    ).current.share == (710)


def test_the_total_in_the_message_comes_first() -> None:
    found = answer(asking(600), Trait.KV_NONE, said=Figures(available_gib=-4.0, total_gib=50.0))
    assert following(found).current.share == 690


def test_no_more_than_is_free_less_a_margin() -> None:
    tried = sizes_after(asking(800), Trait.KV_NONE, Trait.KV_NONE, where=room(90.0, ANN))
    assert shares(*tried) == [850, 890]


def test_no_more_than_is_asked_where_nothing_is_known() -> None:
    found = answer(asking(800), Trait.KV_NONE, NOTHING_KNOWN)
    assert following(found).current == Sizes(800, 32768, 2048, 128)
    below = replace(asking(800), asked=Sizes(830, 32768))
    assert following(answer(below, Trait.KV_NONE, NOTHING_KNOWN)).current.share == 830


def test_never_above_098_unless_asked() -> None:
    roomy = room(100.0)
    assert following(answer(asking(960), Trait.KV_NONE, roomy)).current.share == 980
    assert following(answer(asking(980), Trait.KV_NONE, roomy)).current.max_num_seqs == 128
    higher = replace(asking(985), asked=Sizes(999, 32768))
    assert following(answer(higher, Trait.KV_NONE, roomy)).current.share == 990


def test_where_more_cannot_be_had_the_batch_shrinks() -> None:
    found = answer(asking(980), Trait.KV_NONE, said=Figures(available_gib=-30.0))
    assert following(found).current == Sizes(980, 32768, 2048, 128)


def test_raising_stays_below_what_took_too_much() -> None:
    highs = (Attempt(Sizes(900, 32768), took_too_much=True, at=0.0),)
    memory = replace(asking(850), asked=Sizes(900, 32768), failed=highs)
    assert shares(*sizes_after(memory, Trait.KV_NONE, Trait.KV_NONE)) == [870, 880]


def test_the_context_is_shortened_to_the_estimate_in_whole_blocks() -> None:
    short = Figures(needed_gib=40.0, available_gib=20.0, max_model_len=32768)
    found = answer(asking(), Trait.KV_TOO_SMALL, said=replace(short, estimated_len=16_390))
    assert following(found).current == Sizes(900, 16_384)
    coarse = replace(asking(), block=1000)
    found = answer(coarse, Trait.KV_TOO_SMALL, said=replace(short, estimated_len=16_390))
    assert following(found).current == Sizes(900, 16_000)


def test_a_context_left_to_the_model_is_shortened_too() -> None:
    short = Figures(needed_gib=900.0, available_gib=20.0, max_model_len=131_072)
    found = answer(
        asking(900, None),
        Trait.KV_TOO_SMALL,
        said=replace(short, estimated_len=30_000),
    )
    assert following(found).current == Sizes(900, 30_000)


def test_without_an_estimate_the_context_is_halved() -> None:
    full = asking(980)
    assert following(answer(full, Trait.KV_TOO_SMALL)).current == Sizes(980, 16_384)
    half = following(answer(full, Trait.KV_TOO_SMALL))
    assert following(answer(half, Trait.KV_TOO_SMALL)).current == Sizes(980, 8192)


def test_an_absurd_estimate_never_lengthens() -> None:
    found = answer(asking(980), Trait.KV_TOO_SMALL, said=Figures(estimated_len=10**9))
    assert following(found).current == Sizes(980, 32_752)


def test_an_estimate_below_the_minimum_raises_to_the_ceiling_then_shrinks_the_batch() -> None:
    short = Figures(needed_gib=40.0, available_gib=5.0, max_model_len=32768)
    memory = following(
        answer(asking(), Trait.KV_TOO_SMALL, said=replace(short, estimated_len=4096))
    )
    assert memory.current == Sizes(980, 32768)
    memory = following(answer(memory, Trait.KV_TOO_SMALL, said=replace(short, estimated_len=8000)))
    assert memory.current == Sizes(980, 32768, 2048, 128)


def test_who_asks_for_a_short_context_may_get_one_as_short() -> None:
    short = asking(980, 4096)
    assert following(answer(short, Trait.KV_TOO_SMALL)).current == Sizes(980, 4096, 2048, 128)
    limits = MemoryLimits(min_context=2048)
    assert following(answer(short, Trait.KV_TOO_SMALL, limits=limits)).current.max_model_len == 2048
