from bench.asker import Ask, Outage, find_outage

A, B = "a", "b"


def test_no_token_yet_is_no_outage_known() -> None:
    asks = [Ask(0.0, 0.5, A), Ask(1.0, 2.0, None)]
    assert find_outage(asks, since=0.6) is None


def test_outage_is_from_the_change_to_the_next_token() -> None:
    asks = [Ask(0.0, 0.5, A), Ask(1.1, 1.2, None), Ask(1.2, 1.3, None), Ask(1.3, 3.0, A)]
    assert find_outage(asks, since=1.0) == Outage(seconds=2.0, downtime_s=2.5, failed=2)


def test_failures_before_the_change_do_not_count() -> None:
    asks = [Ask(0.0, 0.1, None), Ask(0.1, 0.5, A), Ask(1.1, 2.0, A)]
    assert find_outage(asks, since=1.0) == Outage(seconds=1.0, downtime_s=1.5, failed=0)


def test_a_first_start_has_no_downtime() -> None:
    asks = [Ask(0.0, 0.1, None), Ask(0.1, 5.0, A)]
    assert find_outage(asks, since=0.0) == Outage(seconds=5.0, downtime_s=None, failed=1)


def test_a_swap_is_over_with_a_token_of_the_other_model() -> None:
    asks = [Ask(0.0, 0.5, A), Ask(1.1, 1.5, A), Ask(1.6, 4.0, B)]
    assert find_outage(asks, since=1.0, model=B) == Outage(seconds=3.0, downtime_s=2.5, failed=0)
