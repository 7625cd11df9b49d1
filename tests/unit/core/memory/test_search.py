from dataclasses import replace

import pytest

from cahoots_vllm.core.diagnosis.causes import Figures, Trait
from cahoots_vllm.core.memory import (
    DEFAULT_MEMORY_LIMITS as LIMITS,
)
from cahoots_vllm.core.memory import (
    Attempt,
    Memory,
    MemoryLimits,
    Sizes,
    begin,
    forgiven,
    known_to_fail,
    worked,
)
from cahoots_vllm.core.memory.search import DAY_S, WEEK_S, failed
from unit.core.memory.cases import IDLE, OFF, answer, asking, following, room

TOO_MUCH = Attempt(Sizes(800, 8192, 2048, 64), took_too_much=True, at=0.0)
TOO_LITTLE = Attempt(Sizes(800, 8192, 2048, 64), took_too_much=False, at=0.0)


def knowing(*attempts: Attempt) -> Memory:
    return replace(asking(), failed=attempts)


def lowered(now: float = 0.0) -> Memory:
    """Return a search that serves at 0.85 since 0.90 took too much."""
    return worked(following(answer(asking(), Trait.AFTER_KV, now=now)))


@pytest.mark.parametrize(
    ("sizes", "fails"),
    [
        (Sizes(800, 8192, 2048, 64), True),
        (Sizes(810, 8192, 2048, 64), True),
        (Sizes(800, 4096, 2048, 64), True),  # the context does not matter: the share is taken whole
        (Sizes(800, 8192, None, None), True),  # the defaults are larger
        (Sizes(790, 8192, 2048, 64), False),
        (Sizes(800, 8192, 1024, 64), False),
        (Sizes(800, 8192, 2048, 32), False),
        (Sizes(800, 8192, 2048, 64, 1 << 30), False),  # bytes and shares say nothing on each other
    ],
)
def test_what_took_too_much_rules_out_at_least_as_much(sizes: Sizes, *, fails: bool) -> None:
    assert known_to_fail(knowing(TOO_MUCH), sizes) is fails


@pytest.mark.parametrize(
    ("sizes", "fails"),
    [
        (Sizes(800, 8192, 2048, 64), True),
        (Sizes(700, 9000, 4096, 64), True),
        (Sizes(700, None, None, None), True),
        (Sizes(810, 8192, 2048, 64), False),
        (Sizes(800, 8000, 2048, 64), False),
        (Sizes(800, 8192, 1024, 64), False),
    ],
)
def test_what_left_too_little_rules_out_at_most_as_much(sizes: Sizes, *, fails: bool) -> None:
    assert known_to_fail(knowing(TOO_LITTLE), sizes) is fails


def test_the_engines_estimate_rules_out_every_longer_context() -> None:
    memory = knowing(replace(TOO_LITTLE, fits_len=6000))
    assert known_to_fail(memory, Sizes(800, 6001, 2048, 64))
    assert not known_to_fail(memory, Sizes(800, 6000, 2048, 64))
    absurd = knowing(replace(TOO_LITTLE, fits_len=10**9))
    assert known_to_fail(absurd, Sizes(800, 8192, 2048, 64))


def test_an_unset_size_is_only_ruled_out_by_an_unset_one() -> None:
    memory = knowing(Attempt(Sizes(800), took_too_much=True, at=0.0))
    assert known_to_fail(memory, Sizes(800))
    assert not known_to_fail(memory, Sizes(800, max_num_seqs=4096))


def test_bytes_are_compared_with_bytes() -> None:
    memory = knowing(Attempt(Sizes(100, kv_bytes=2000), took_too_much=True, at=0.0))
    assert known_to_fail(memory, Sizes(50, kv_bytes=2000))
    assert not known_to_fail(memory, Sizes(900, kv_bytes=1999))


def test_a_failure_that_says_more_replaces_what_it_covers() -> None:
    older = replace(TOO_MUCH, sizes=Sizes(850, 8192, 2048, 64))
    assert failed(knowing(older, TOO_LITTLE), TOO_MUCH).failed == (TOO_LITTLE, TOO_MUCH)


def test_estimates_at_smaller_sizes_are_kept() -> None:
    older = Attempt(Sizes(700, 8192, 2048, 64), took_too_much=False, at=0.0, fits_len=5000)
    assert failed(knowing(older), TOO_LITTLE).failed == (older, TOO_LITTLE)


def test_the_same_failure_again_and_again_pushes_nothing_out() -> None:
    memory = knowing(TOO_LITTLE)
    for at in range(200):
        memory = failed(memory, replace(TOO_MUCH, at=float(at)))
    assert memory.failed == (TOO_LITTLE, replace(TOO_MUCH, at=199.0))


def test_nothing_known_begins_with_what_is_asked() -> None:
    assert begin(Sizes(900), None, LIMITS, 0.0) == Memory(Sizes(900), Sizes(900))


def test_other_sizes_asked_for_begin_anew_on_the_same_host() -> None:
    known = replace(lowered(), is_cpu=True, block=32)
    fresh = begin(Sizes(950), known, LIMITS, 0.0)
    assert fresh == Memory(Sizes(950), Sizes(950), is_cpu=True, block=32)


def test_what_worked_is_the_next_starts_first_try() -> None:
    again = begin(asking().asked, lowered(), LIMITS, 60.0)
    assert again.current.share == 850
    assert again.tries == 0


def test_a_new_search_has_all_its_tries() -> None:
    known = replace(lowered(), tries=9, loading_failures=2)
    again = begin(known.asked, known, LIMITS, 60.0)
    assert (again.tries, again.loading_failures) == (0, 0)


def test_climbs_one_step_after_a_quiet_day_and_not_before() -> None:
    known = replace(lowered(), current=Sizes(700, 32768))
    assert begin(known.asked, known, LIMITS, DAY_S - 1).current.share == 700
    climbed = begin(known.asked, known, LIMITS, DAY_S)
    assert climbed.current.share == 750
    assert climbed.steps[-1].cause == "climb"
    assert str(climbed.steps[-1].changes[0]) == "gpu-memory-utilization from 0.7 to 0.75"


def test_the_step_of_the_climb_is_the_configured_one() -> None:
    known = replace(lowered(), current=Sizes(700, 32768))
    assert begin(known.asked, known, MemoryLimits(step=20), DAY_S).current.share == 720


def test_one_step_a_day_however_many_restarts() -> None:
    known = replace(lowered(), current=Sizes(700, 32768))
    climbed = worked(begin(known.asked, known, LIMITS, DAY_S))
    assert begin(known.asked, climbed, LIMITS, DAY_S + 3600).current.share == 750
    assert begin(known.asked, climbed, LIMITS, 2 * DAY_S).current.share == 800


def test_does_not_climb_from_sizes_that_were_never_ready() -> None:
    known = replace(lowered(), current=Sizes(700, 32768), has_worked=False)
    assert begin(known.asked, known, LIMITS, DAY_S).current.share == 700


def test_a_failure_disturbs_the_quiet() -> None:
    known = replace(lowered(), current=Sizes(700, 32768))
    known = failed(known, replace(TOO_MUCH, at=DAY_S / 2))
    assert begin(known.asked, known, LIMITS, DAY_S).current.share == 700
    assert begin(known.asked, known, LIMITS, 1.5 * DAY_S).current.share == 750


def test_climbs_never_above_what_is_asked() -> None:
    known = replace(lowered(), current=Sizes(880, 32768), failed=())
    climbed = worked(begin(known.asked, known, LIMITS, DAY_S))
    assert climbed.current == known.asked
    assert begin(known.asked, climbed, LIMITS, 3 * DAY_S).current == known.asked


def test_climbs_down_to_what_is_asked_where_it_was_raised() -> None:
    known = replace(lowered(), current=Sizes(960, 32768), failed=())
    assert begin(known.asked, known, LIMITS, DAY_S).current.share == 910


def test_never_climbs_into_a_failure_of_the_last_week() -> None:
    known = lowered()
    assert begin(known.asked, known, LIMITS, WEEK_S - 1).current.share == 850
    assert begin(known.asked, known, LIMITS, WEEK_S).current.share == 900


def test_failures_are_forgotten_after_a_week() -> None:
    known = lowered()
    assert begin(known.asked, known, LIMITS, WEEK_S - 1).failed == known.failed
    assert begin(known.asked, known, LIMITS, WEEK_S).failed == ()


def test_the_other_sizes_climb_one_by_one_after_the_share() -> None:
    asked = Sizes(900, 32768, None, 100, 8 << 30)
    known = Memory(asked, Sizes(900, 8192, 1024, 32, 7 << 30), has_worked=True)
    wanted = [
        Sizes(900, 8192, 1024, 32, 8 << 30),
        Sizes(900, 8192, 2048, 32, 8 << 30),
        Sizes(900, 8192, None, 32, 8 << 30),
        Sizes(900, 8192, None, 64, 8 << 30),
        Sizes(900, 8192, None, 100, 8 << 30),
        Sizes(900, 32768, None, 100, 8 << 30),
        asked,
    ]
    for day, sizes in enumerate(wanted, 1):
        known = worked(begin(asked, known, LIMITS, day * DAY_S))
        assert known.current == sizes


def test_bytes_climb_by_the_step_they_came_down() -> None:
    asked = Sizes(900, 32768, kv_bytes=8 << 30)
    known = Memory(asked, replace(asked, kv_bytes=4 << 30), has_worked=True)
    assert begin(asked, known, LIMITS, DAY_S).current.kv_bytes == int((4 << 30) / 0.85)
    raised = Memory(asked, replace(asked, kv_bytes=9 << 30), has_worked=True)
    assert begin(asked, raised, LIMITS, DAY_S).current == asked


def test_the_climb_never_asks_for_more_sequences_than_tokens() -> None:
    asked = Sizes(900, 32768, 8192, 1024)
    known = Memory(asked, Sizes(900, 32768, 512, 400), has_worked=True)
    known = failed(known, Attempt(Sizes(900, 32768, 1024, 1), took_too_much=True, at=0.0))
    assert begin(asked, known, LIMITS, DAY_S).current == Sizes(900, 32768, 512, 512)


@pytest.mark.parametrize(
    ("current", "trait"),
    [
        (Sizes(850, 32768), Trait.AFTER_KV),
        (Sizes(900, 32768, 1024, 64), Trait.PROFILING),
        (Sizes(900, 32768, None, 64), Trait.SAMPLER),
    ],
)
def test_one_failure_takes_a_climb_back(current: Sizes, trait: Trait) -> None:
    known = Memory(Sizes(900, 32768), current, has_worked=True)
    climbed = begin(known.asked, known, LIMITS, DAY_S)
    assert climbed.current != current
    back = following(answer(climbed, trait, now=DAY_S)).current
    assert replace(back, max_num_seqs=None) == replace(current, max_num_seqs=None)


def test_a_climb_that_fails_goes_back_to_what_worked() -> None:
    known = replace(lowered(), current=Sizes(800, 32768), failed=())
    climbed = begin(known.asked, known, LIMITS, DAY_S)
    back = following(answer(climbed, Trait.AFTER_KV, now=DAY_S))
    assert (climbed.current.share, back.current.share) == (850, 800)
    assert begin(known.asked, worked(back), LIMITS, 3 * DAY_S).current.share == 800


def test_without_adaption_what_is_asked_starts_and_what_failed_is_remembered() -> None:
    known = lowered()
    plain = begin(known.asked, known, OFF, 60.0)
    assert plain.current == known.asked
    assert plain.failed == known.failed
    assert "memory.adapt is off" in plain.steps[-1].reason


@pytest.mark.parametrize("limits", [MemoryLimits(floor=870), MemoryLimits(min_context=20_000)])
def test_learned_sizes_beyond_new_limits_are_not_started(limits: MemoryLimits) -> None:
    known = replace(lowered(), current=Sizes(850, 16384))
    assert begin(known.asked, known, limits, 60.0).current == known.asked
    assert begin(known.asked, known, LIMITS, 60.0).current == known.current


def test_being_ready_for_long_ends_a_search() -> None:
    memory = following(answer(asking(), Trait.AFTER_KV, IDLE))
    assert (memory.tries, memory.has_worked) == (1, False)
    memory = worked(replace(memory, loading_failures=1))
    assert (memory.tries, memory.has_worked, memory.loading_failures) == (1, True, 1)
    memory = forgiven(memory)
    assert (memory.tries, memory.has_worked, memory.loading_failures) == (0, True, 0)


def test_steps_are_bounded() -> None:
    memory = asking()
    for hour in range(30):
        free = room(95.0 if hour % 2 else 80.0)
        memory = forgiven(worked(replace(memory, current=Sizes(900 - hour, 32768))))
        memory = following(
            answer(memory, Trait.FREE_TOO_SMALL, free, said=Figures(free_gib=75, total_gib=100))
        )
    assert len(memory.steps) == 20


def test_search_that_was_cut_short_does_not_begin_with_what_is_known_to_fail() -> None:
    asked, low = Sizes(900), Sizes(850)
    memory = Memory(asked, low, failed=(Attempt(low, took_too_much=False, at=0.0),), good=asked)
    assert begin(asked, memory, LIMITS, 1.0).current == asked


def test_damaged_beyond_help_stays_as_it_is() -> None:
    asked, low = Sizes(900), Sizes(850)
    attempts = (Attempt(asked, took_too_much=False, at=0.0),)
    memory = Memory(asked, low, failed=attempts)
    assert begin(asked, memory, LIMITS, 1.0).current == low
