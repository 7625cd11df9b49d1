"""What reading ahead saves a start: a file of weights that only the disk has, read through mmap.

    .venv/bin/python tests/bench/read_ahead.py [--times 3] [--mib 1536]

Reads as safetensors does, once with the file evicted from the page cache and once after it was read
ahead. Where the host's own cache holds the file (a virtual machine), the disk looks faster than it
is. Prints a table.
"""

import argparse
import mmap
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from cahoots_vllm.host.read_ahead import read_ahead

_MIB = 1 << 20


def write(path: Path, mib: int) -> None:
    """Write random weights, and have them on the disk."""
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(_MIB))
        os.fsync(file.fileno())


def evict(path: Path) -> None:
    """Drop the file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load_s(path: Path) -> float:
    """Return the seconds that it takes to touch every page, in order."""
    begun = time.monotonic()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        for at in range(0, len(mapped), mmap.PAGESIZE):
            mapped[at]
    return time.monotonic() - begun


def ahead_s(path: Path) -> float:
    """Return the seconds that the daemon's own reading takes, in a thread as there."""
    begun = time.monotonic()
    work = threading.Thread(target=read_ahead, args=([path], 1 << 40, threading.Event()))
    work.start()
    work.join()
    return time.monotonic() - begun


def main() -> None:
    """Measure in turns and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1536)
    options = parser.parse_args()
    found: dict[str, list[float]] = {
        "weights, only on the disk": [],
        "reading them ahead": [],
        "weights, read ahead": [],
    }
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.safetensors"
        write(path, options.mib)
        for _ in range(options.times):
            evict(path)
            found["weights, only on the disk"].append(load_s(path))
            evict(path)
            found["reading them ahead"].append(ahead_s(path))
            found["weights, read ahead"].append(load_s(path))
    sys.stdout.write("| what | median | all |\n| --- | --- | --- |\n")
    for what, seconds in found.items():
        each = ", ".join(f"{one:.2f}" for one in seconds)
        sys.stdout.write(f"| {what} | {statistics.median(seconds):.2f} s | {each} |\n")


if __name__ == "__main__":
    main()
