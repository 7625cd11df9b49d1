from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.backoff import DEFAULT_LIMITS, Limits, delay_s

JITTERS = st.floats(0.0, 1.0, exclude_max=True)


def test_waits_double_from_one_second_up_to_a_minute() -> None:
    assert [delay_s(n, 0.0) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_adds_at_most_a_tenth() -> None:
    assert delay_s(1, 0.5) == 1.05
    assert delay_s(50, 0.999_999) < 66.0


@given(st.integers(1, 10**9), JITTERS)
def test_every_wait_is_finite_and_within_bounds(failures: int, jitter: float) -> None:
    assert 1.0 <= delay_s(failures, jitter) <= 66.0


@given(st.integers(1, 100), JITTERS)
def test_another_failure_never_shortens_the_plain_wait(failures: int, jitter: float) -> None:
    assert delay_s(failures + 1, jitter) >= delay_s(failures, jitter)


def test_limits_are_the_ones_promised() -> None:
    assert DEFAULT_LIMITS.reset_after_ready_s == 300.0
    assert (DEFAULT_LIMITS.failures_in_window, DEFAULT_LIMITS.window_s) == (5, 600.0)


def test_limits_can_be_set() -> None:
    assert delay_s(3, 0.0, Limits(first_s=0.1, longest_s=0.3)) == 0.3
