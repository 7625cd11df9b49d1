"""Why inference is slow: said when it is, and only then."""

import pytest

from cahoots_vllm.core.amounts import GIB, MIB
from cahoots_vllm.core.doctor.figures import (
    KvSample,
    keep_sample,
    kv_facts,
    load_seconds,
    read_sample,
)
from cahoots_vllm.core.doctor.service import LimitFacts, judge_cpu
from cahoots_vllm.core.doctor.speed import (
    ClockFacts,
    KvFacts,
    LoadFacts,
    ReadFacts,
    judge_clocks,
    judge_cpu_engine,
    judge_kv_cache,
    judge_load,
    judge_read,
    judge_worker_swap,
)
from cahoots_vllm.core.level import Level

PAGE = """# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
vllm:num_preemptions_total{engine="1",model_name="m"} 2.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.97
"""


def test_page_of_two_engines_is_summed() -> None:
    sample = read_sample(PAGE, 1, 10.0)
    assert sample is not None
    assert (sample.preemptions, sample.usage) == (5.0, 0.97)
    assert read_sample("vllm:num_requests_running{} 1", 1, 10.0) is None


def test_preemptions_count_within_the_window_and_one_generation() -> None:
    samples: tuple[KvSample, ...] = ()
    found = []
    for generation, at, count in ((1, 0, 50), (1, 200, 52), (1, 400, 52), (2, 410, 0), (2, 420, 1)):
        page = f'vllm:num_preemptions_total{{engine="0"}} {count}'
        sample = read_sample(page, generation, float(at))
        assert sample is not None
        samples = keep_sample(samples, sample)
        facts = kv_facts(samples)
        found.append(facts.preempted if facts is not None else None)
    # The two of the second look are over at the third; a new worker counts from its own zero.
    assert found == [None, 2, 0, None, 1]


def test_full_cache_is_told_with_what_helps() -> None:
    assert judge_kv_cache(KvFacts(0, 0.99, 60)) == ()
    [finding] = judge_kv_cache(KvFacts(12, 0.97, 120))
    assert finding.sentence == (
        "the KV cache is full (97% now): 12 requests were preempted within 2 min and computed again"
    )
    assert "max-model-len" in finding.remedy


@pytest.mark.parametrize(
    ("size", "seconds", "is_slow"),
    [(20 * GIB, 200.0, True), (20 * GIB, 60.0, False), (270 * MIB, 15.0, False)],
)
def test_weights_from_a_slow_disk(size: int, seconds: float, is_slow: bool) -> None:  # noqa: FBT001 (parametrized)
    found = judge_load(LoadFacts(size, seconds, "/models/m"))
    assert bool(found) is is_slow
    assert not is_slow or "102 MiB/s, from /models/m" in found[0].sentence


def test_load_beside_another_worker_says_nothing_of_the_disk() -> None:
    assert judge_load(LoadFacts(257 * MIB, 25.0, "/models/m"))
    assert judge_load(LoadFacts(257 * MIB, 25.0, "/models/m", was_beside=True)) == ()


def test_measured_read_warns_only_where_a_load_takes_long() -> None:
    [finding] = judge_read(ReadFacts(64 * MIB, 0.64, 20 * GIB, "/m"))
    assert finding.level is Level.WARN
    assert "reads 100 MiB/s, measured: 20.0 GiB take 205 s" in finding.sentence
    assert judge_read(ReadFacts(64 * MIB, 0.64, 300 * MIB, "/m"))[0].level is Level.OK
    assert judge_read(ReadFacts(64 * MIB, 0.064, 20 * GIB, "/m"))[0].level is Level.OK


def test_load_seconds_of_the_slowest_rank() -> None:
    lines = (
        "(Worker_TP0 pid=1) INFO [default_loader.py:501] Loading weights took 3.5 seconds",
        "(Worker_TP1 pid=2) INFO [default_loader.py:501] Loading weights took 41.25 seconds",
        "INFO Model loading took 17.9 GiB memory and 43 seconds",
    )
    assert load_seconds(lines) == 41.25
    assert load_seconds(lines[2:]) is None


@pytest.mark.parametrize(
    ("reasons", "limit", "texts"),
    [
        (0, 450.0, []),
        (0x1, 450.0, []),
        (0x4, 450.0, []),
        (0x4, 300.0, ["power limit of 300 W"]),
        (0x0, 300.0, []),
        (0x20, 450.0, ["slowed by heat at 88 °C"]),
        (0x48, 450.0, ["slowed by heat at 88 °C"]),
        (0x88, 450.0, ["braked by its power supply"]),
        (0x08, 450.0, ["its own protection"]),
    ],
)
def test_clock_reasons(reasons: int, limit: float, texts: list[str]) -> None:
    found = judge_clocks(ClockFacts(0, "RTX", reasons, 88, limit, 450.0))
    assert len(found) == len(texts)
    assert all(text in f.sentence for text, f in zip(texts, found, strict=True))


def test_cpu_engine_beside_a_gpu() -> None:
    assert judge_cpu_engine(is_cpu=True, gpu_names=(), on_bus=0) == ()
    assert judge_cpu_engine(is_cpu=False, gpu_names=("RTX",), on_bus=1) == ()
    assert judge_cpu_engine(is_cpu=True, gpu_names=(), on_bus=1)[0].level is Level.WARN


def test_worker_in_swap() -> None:
    assert judge_worker_swap(10 * MIB) == ()
    assert "2.0 GiB of the worker" in judge_worker_swap(2 * GIB)[0].sentence


@pytest.mark.parametrize(
    ("governor", "driver", "preference", "level"),
    [
        (None, None, None, Level.OK),
        ("performance", "acpi-cpufreq", None, Level.OK),
        ("powersave", "acpi-cpufreq", None, Level.WARN),
        ("powersave", "intel_pstate", "balance_performance", Level.OK),
        ("powersave", "amd-pstate-epp", "power", Level.WARN),
    ],
)
def test_powersave_is_bad_only_where_it_is_slow(
    governor: str | None, driver: str | None, preference: str | None, level: Level
) -> None:
    facts = LimitFacts(1024, None, None, governor, driver, preference)
    assert judge_cpu(facts)[0].level is level
