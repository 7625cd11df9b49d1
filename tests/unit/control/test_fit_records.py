"""What a start says of its memory is kept for the same model, engine, GPU and options only."""

from dataclasses import replace
from pathlib import Path

import pytest

from cahoots_vllm.control.fit_records import About, FitRecord, FitRecords, fit_key
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.fit.measured import NOTHING_SEEN, Seen
from cahoots_vllm.core.launch import LaunchSpec

GIB = 1 << 30
LAUNCH = LaunchSpec(
    model="m", source="/cache/m/abc", engine="/e", options=(("gpu-memory-utilization", 0.5),)
)
GPU = Device("GPU-1", "GPU 0", 40 * GIB, 40 * GIB)
ABOUT = About("0.32.0", (GPU,))
START = (
    "INFO 11-26 21:00:15 [gpu_model_runner.py:1] Model loading took 6.0 GiB memory and 3.2 seconds",
    "INFO 11-26 21:00:15 [gpu_worker.py:1] Available KV cache memory: 12.0 GiB",
    "INFO 11-26 21:00:15 [kv_cache_utils.py:1] GPU KV cache size: 49,152 tokens",
)


def start(
    records: FitRecords,
    launch: LaunchSpec = LAUNCH,
    about: About | None = ABOUT,
    generation: int = 1,
) -> None:
    for text in START:
        records.line(generation, text, launch, about)


def test_start_is_remembered_with_what_neither_weights_nor_cache_took() -> None:
    saved: list[tuple[FitRecord, ...]] = []
    records = FitRecords((), saved.append)
    start(records)
    # Half of 40 GiB, less 6 of weights and 12 of cache.
    seen = Seen(6 * GIB, 2 * GIB)
    assert records.find(fit_key(LAUNCH, "0.32.0", (GPU,))) == seen
    assert [record.seen for record in saved[-1]] == [seen]
    assert FitRecords(saved[-1], saved.append).find(fit_key(LAUNCH, "0.32.0", (GPU,))) == seen


@pytest.mark.parametrize(
    ("launch", "engine", "device"),
    [
        (replace(LAUNCH, source="/cache/m/def"), "0.32.0", GPU),
        (LAUNCH, "0.33.0", GPU),
        (LAUNCH, "0.32.0", Device("GPU-2", "GPU 1", 40 * GIB, 40 * GIB)),
        (LAUNCH.with_option("dtype", "float32"), "0.32.0", GPU),
    ],
    ids=["another revision", "another engine", "another GPU", "another dtype"],
)
def test_figures_hold_for_nothing_else(launch: LaunchSpec, engine: str, device: Device) -> None:
    records = FitRecords((), lambda _: None)
    start(records)
    assert records.find(fit_key(launch, engine, (device,))) == NOTHING_SEEN


def test_a_shorter_context_uses_the_same_figures() -> None:
    records = FitRecords((), lambda _: None)
    start(records)
    shorter = LAUNCH.with_option("max-model-len", 1024)
    assert records.find(fit_key(shorter, "0.32.0", (GPU,))) != NOTHING_SEEN


def test_cache_that_was_sized_by_hand_tells_no_overhead() -> None:
    records = FitRecords((), lambda _: None)
    launch = LAUNCH.with_option("kv-cache-memory-bytes", "12G")
    start(records, launch)
    assert records.find(fit_key(launch, "0.32.0", (GPU,))) == Seen(6 * GIB)


def test_start_that_ends_early_leaves_nothing_to_the_next() -> None:
    records = FitRecords((), lambda _: None)
    records.line(1, START[0].replace("6.0", "9.0"), LAUNCH, ABOUT)
    start(records, generation=2)
    assert records.find(fit_key(LAUNCH, "0.32.0", (GPU,))).weights_bytes == 6 * GIB


def test_same_figures_are_not_written_again() -> None:
    saved: list[tuple[FitRecord, ...]] = []
    records = FitRecords((), saved.append)
    start(records)
    count = len(saved)
    start(records, generation=2)
    assert len(saved) == count


def test_worker_of_an_earlier_daemon_teaches_nothing() -> None:
    """Its lines come again, and where it started is not known."""
    records = FitRecords((), lambda _: None)
    start(records, about=None)
    assert records.find(fit_key(LAUNCH, "0.32.0", (GPU,))) == NOTHING_SEEN


def test_oldest_figures_go_first() -> None:
    saved: list[tuple[FitRecord, ...]] = []
    records = FitRecords((), saved.append)
    for number in range(60):
        start(records, replace(LAUNCH, source=f"/m/{number}"), generation=number + 1)
    kept = [record.key.source for record in saved[-1]]
    assert (len(kept), kept[0], kept[-1]) == (50, "/m/10", "/m/59")


@pytest.mark.parametrize(
    "fits",
    [
        "7", '"x"', "{}", "[7]", "[{}]", '[{"key": 7, "seen": {}}]',
        '[{"key": {"source": "/a"}, "seen": {"weights_bytes": 1}}]',
        '[{"key": {"source": "/a", "engine": "1", "devices": [], "options": ""}, "seen": 7}]',
    ],
)  # fmt: skip
def test_damaged_figures_lose_only_themselves(tmp_path: Path, fits: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(f'{{"generation": 7, "load_times": {{"org/a": [3.0]}}, "fits": {fits}}}')
    file = StateFile(path)
    record = file.load()
    assert (record.generation, record.load_times) == (7, {"org/a": (3.0,)})
    assert (record.fits, file.warnings) == ((), ())


def test_figures_outlive_the_daemon_and_older_files_have_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"generation": 7}')
    file = StateFile(path)
    assert file.load().fits == ()
    start(FitRecords((), lambda fits: file.save(fits=fits)))
    again = StateFile(path).load()
    assert again.generation == 7
    assert FitRecords(again.fits, lambda _: None).find(fit_key(LAUNCH, "0.32.0", (GPU,))) == Seen(
        6 * GIB, 2 * GIB
    )
