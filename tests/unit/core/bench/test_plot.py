"""Charts as they stand in a terminal."""

from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.bench.plot import column_chart


def test_chart_by_hand() -> None:
    assert column_chart([10.0, 20.0, 40.0], 60, draws_blocks=True) == [
        "40.0 ┤      ██",
        "     ┤      ██",
        "     ┤   ██ ██",
        "   0 ┤██ ██ ██",
    ]


def test_ascii_chart_is_ascii() -> None:
    rows = column_chart([1.0, 2.0, 3.0], 60, draws_blocks=False)
    assert all(row.isascii() for row in rows)
    assert rows[-1] == "  0 ||| || ||"


def test_the_latest_are_kept_where_not_all_have_room() -> None:
    rows = column_chart([9.0] * 100 + [1.0] * 10, 17, draws_blocks=True)
    assert "█" * 4 not in rows[0]
    assert len(rows[-1]) <= 17


def test_no_values_no_chart() -> None:
    assert column_chart([], 80, draws_blocks=True) == []


@given(
    values=st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=300),
    width=st.integers(min_value=40, max_value=200),
    blocks=st.booleans(),
)
def test_no_row_is_wider_than_asked(values: list[float], width: int, *, blocks: bool) -> None:
    rows = column_chart(values, width, draws_blocks=blocks)
    assert len(rows) == 4
    assert all(len(row) <= width for row in rows)
