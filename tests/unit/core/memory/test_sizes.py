import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.launch import LaunchSpec, Options, OptionValue, option_args
from cahoots_vllm.core.memory import Change, Sizes, apply_sizes, read_sizes
from cahoots_vllm.core.memory.sizes import read_integer


def spec(**options: OptionValue) -> LaunchSpec:
    named = tuple((name.replace("_", "-"), value) for name, value in options.items())
    return LaunchSpec("m", "m", "/e", options=named)


def test_all_five_sizes_are_read() -> None:
    options: Options = (
        ("gpu-memory-utilization", 0.85),
        ("max-model-len", "32K"),
        ("max-num-batched-tokens", "2k"),
        ("max-num-seqs", 64),
        ("kv-cache-memory-bytes", "512M"),
    )
    read = read_sizes(LaunchSpec("m", "m", "/e", options=options))
    assert read == Sizes(850, 32768, 2000, 64, 512 << 20)


def test_what_is_not_set_is_vllms_default() -> None:
    assert read_sizes(spec()) == Sizes(920)


@pytest.mark.parametrize(
    ("share", "thousandths"),
    [(0.999, 999), ("0.9", 900), (1, 1000), (0.0005, 0), ("9e-1", 900), (" .3 ", 300)],
)
def test_a_share_is_kept_in_thousandths(share: OptionValue, thousandths: int) -> None:
    assert read_sizes(spec(gpu_memory_utilization=share)).share == thousandths


@pytest.mark.parametrize(
    "share", [0, -0.5, 1.5, "inf", "nan", float("inf"), float("nan"), "much", True, ("0.9",)]
)
def test_a_share_that_vllm_refuses_counts_as_not_set(share: OptionValue) -> None:
    assert read_sizes(spec(gpu_memory_utilization=share)).share == 920


@pytest.mark.parametrize("length", ["auto", "-1", -1, "AUTO"])
def test_an_automatic_context_is_not_set_and_left_as_written(length: OptionValue) -> None:
    asked = spec(max_model_len=length)
    assert read_sizes(asked).max_model_len is None
    assert apply_sizes(asked, Sizes(850)).option("max-model-len") == length


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1k", 1000), ("1K", 1024), ("25.6k", 25600), ("2G", 2 << 30), ("2g", 2 * 10**9),
        (" 7 ", 7), (4096.0, 4096), ("1.2.3", None), (".", None), ("", None), ("512MiB", None),
        ("9" * 400 + "k", None), (float("inf"), None), (float("nan"), None), (False, None),
        (("1", "2"), None), (None, None), (10**400, 10**400),
    ],
)  # fmt: skip
def test_numbers_are_read_as_vllm_reads_them(text: OptionValue | None, number: int | None) -> None:
    assert read_integer(text) == number


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans()))
def test_no_option_value_is_too_odd_to_be_read(value: OptionValue) -> None:
    read = read_sizes(spec(gpu_memory_utilization=value, max_model_len=value, max_num_seqs=value))
    assert 0 <= read.share <= 1000


def test_only_what_changes_is_written() -> None:
    asked = spec(gpu_memory_utilization="0.90", max_model_len="32K", seed=1)
    applied = apply_sizes(asked, Sizes(850, 32768, max_num_seqs=128))
    assert option_args(applied.options) == [
        *("--gpu-memory-utilization", "0.85", "--max-model-len", "32K"),
        *("--seed", "1", "--max-num-seqs", "128"),
    ]


def test_sizes_left_to_vllm_are_taken_out() -> None:
    applied = apply_sizes(spec(max_num_seqs=64), Sizes(920))
    assert applied.option("max-num-seqs") is None


def test_the_asked_sizes_leave_the_spec_as_it_is() -> None:
    asked = spec(gpu_memory_utilization=0.8437, kv_cache_memory_bytes="512M")
    assert apply_sizes(asked, read_sizes(asked)) == asked


def test_a_change_says_itself() -> None:
    assert str(Change("max-model-len", None, 8192)) == "max-model-len from the default to 8192"
    assert str(Change("max-num-seqs", 64, None)) == "max-num-seqs from 64 to the default"
