"""What is measured of an answer as it passes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.gateway.meter import Meter, find_usage
from cahoots_vllm.gateway.record import GAP_BOUNDS_S, Gaps, Record, Usage

_SAID = {"prompt_tokens": 7, "completion_tokens": 40, "total_tokens": 47}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (json.dumps({"usage": _SAID}), Usage(7, 40)),
        (json.dumps({"usage": _SAID}, separators=(",", ":")), Usage(7, 40)),
        (json.dumps({"usage": {"input_tokens": 3, "output_tokens": 4, "details": {"x": 1}}}),
         Usage(3, 4)),
        ('data: {"usage":null}\n\ndata: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
         Usage(1, 2)),
        ('{"usage":{"prompt_tokens":1,"completion_tokens":2}} {"usage":null}', Usage(1, 2)),
        (json.dumps({"content": 'say "usage": {"prompt_tokens": 9}'}), None),
        ('{"usage":{"prompt_tokens":"many"}}', None),
        ('{"usage":[1]}', None),
        ('{"usage":{"prompt_tok', None),
        ("", None),
    ],
)  # fmt: skip
def test_usage_is_the_engines_last_word(body: str, expected: Usage | None) -> None:
    assert find_usage(body.encode()) == expected


@given(st.binary(max_size=200))
def test_usage_of_anything_at_all(data: bytes) -> None:
    find_usage(b'"usage"' + data)


async def test_stream_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record("1", "POST", "/v1/x", begun_at=0.0)
    meter = Meter(record)
    times = iter([1.0, 1.02, 1.08, 1.08])
    monkeypatch.setattr(meter, "_time", lambda: next(times))
    meter.passed(b"data: a\n\n", is_stream=True)
    meter.passed(b"data: b\n\n", is_stream=True)
    meter.passed(b"data: c\n\ndata: d\n\n", is_stream=True)
    meter.passed(b'data: {"usage":{"prompt_tokens":1,"completion_tokens":3}}\n\n', is_stream=True)
    meter.close()
    assert (record.first_byte_at, record.last_byte_at, record.events) == (1.0, 1.08, 5)
    assert record.usage == Usage(1, 3)
    assert record.gaps is not None
    assert record.gaps.sum_s == pytest.approx(0.08)
    # 20 ms, twice 30 ms, and one that came at once.
    assert record.gaps.counts[:4] == [1, 1, 2, 0]
    assert sum(record.gaps.counts) == 4


async def test_answer_that_is_no_stream_has_no_gaps() -> None:
    record = Record("1", "POST", "/v1/x", begun_at=0.0)
    meter = Meter(record)
    meter.passed(b"{}\n\n")
    meter.passed(b"{}\n\n")
    meter.close()
    assert (record.bytes_out, record.events, record.gaps) == (8, 0, None)


def test_gaps_add_up() -> None:
    one, other = Gaps(), Gaps()
    one.count(0.02, 2)
    other.count(1000.0, 1)
    one.add(other)
    assert (one.counts[0], one.counts[len(GAP_BOUNDS_S)]) == (2, 1)
    assert one.sum_s == pytest.approx(1000.02)
