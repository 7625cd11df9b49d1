"""The models that the benches serve: made on demand, kept in the cache, and put out of it.

`tiny` has two layers, `demo` is a real small one, `large` has 1.55 GB of random weights.
"""

import os
import shutil
import subprocess
from pathlib import Path

from engine.daemon import make_tiny
from engine.harness import DEMO, TINY

LARGE = "random-1.5GB"
NAMES = {"tiny": TINY, "demo": DEMO, "large": LARGE}
_MAKE_S = 600.0


def cache() -> Path:
    """Return the directory of what this project keeps for a user."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cahoots-vllm"


def find_model(kind: str, engine: Path) -> Path:
    """Return the directory of a model, which is made where it is not there yet."""
    if kind == "demo":
        return cache() / "models" / DEMO
    target = cache() / "bench" / NAMES[kind]
    if not target.exists():
        _make(kind, engine, target)
    return target


def read_through(directory: Path) -> None:
    """Read all files, so that they are in the page cache."""
    for path in _files(directory):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def evict(directory: Path) -> None:
    """Let the kernel forget all files, but those that something has mapped (posix_fadvise(2))."""
    os.sync()
    for path in _files(directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _make(kind: str, engine: Path, target: Path) -> None:
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if kind == "tiny":
        make_tiny(engine, unfinished)
    else:
        script = Path(__file__).with_name("random_model.py")
        command = [engine / "bin" / "python", script, unfinished]
        subprocess.run(command, check=True, timeout=_MAKE_S)
    unfinished.rename(target)
