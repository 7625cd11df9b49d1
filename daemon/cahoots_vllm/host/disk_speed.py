"""Measures how fast a model's weights come from their disk, past the page cache. Blocking."""

import mmap
import os
import time
from contextlib import suppress
from pathlib import Path

from cahoots_vllm.core.doctor.speed import ReadFacts

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")
_BLOCK_BYTES = 4 << 20
_SAMPLE_BYTES = 64 << 20


def weights_of(directory: Path) -> dict[Path, int]:
    """Return the weights files of a model directory with their sizes. Raises OSError."""
    files = {path for pattern in _WEIGHTS for path in directory.glob(pattern)}
    return {path: path.stat().st_size for path in sorted(files)}


def measure_read(directory: Path, *, for_s: float) -> ReadFacts | None:
    """Read from the largest weights file for so long, or 64 MiB; None where that cannot be.

    O_DIRECT (open(2)): the cache neither helps nor is filled, and what a worker has there stays.
    tmpfs and some network file systems refuse it; there is no disk to be slow, or none to measure.
    Raises OSError.
    """
    weights = weights_of(directory)
    if not weights:
        return None
    largest = max(weights, key=lambda path: weights[path])
    try:
        file = os.open(largest, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        done, seconds = _read(file, weights[largest], for_s)
    finally:
        os.close(file)
    if not done:
        return None
    return ReadFacts(done, seconds, sum(weights.values()), str(directory))


def _read(file: int, size: int, for_s: float) -> tuple[int, float]:
    """Return bytes and seconds."""
    done, start = 0, time.perf_counter()
    seconds = 0.0
    with mmap.mmap(-1, _BLOCK_BYTES) as block:  # O_DIRECT wants its memory aligned
        # The last block may be no whole one: only O_DIRECT's whole sectors are read.
        while done + _BLOCK_BYTES <= min(size, _SAMPLE_BYTES) and seconds < for_s:
            count = 0
            with suppress(OSError):
                count = os.preadv(file, [block], done)
            if count <= 0:
                break
            done += count
            seconds = time.perf_counter() - start
    return done, seconds
