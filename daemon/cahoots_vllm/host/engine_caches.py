"""The caches of engines, a directory for each version: what an engine compiled and inspected.

One that an engine died in is moved aside, so that it can be looked at. Blocking.
"""

import shutil
from datetime import datetime
from pathlib import Path

from cahoots_vllm.host.model_store import Waste, half_deleted

_MARK = ".quarantined-"
_KEPT = 2


def move_aside(directory: Path, now: datetime) -> Path | None:
    """Rename a directory; return where it is now, None where there is none. Raises OSError.

    Of all that were moved there the newest two are kept. `now` is in UTC.
    """
    aside = directory.with_name(f"{directory.name}{_MARK}{now:%Y%m%dT%H%M%SZ}")
    try:
        directory.rename(aside)
    except FileNotFoundError:
        return None
    there = sorted(directory.parent.glob(f"*{_MARK}*"), key=_moved_at)
    for old in there[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)  # what stays costs space, and no start
    return aside


def find_unused(directory: Path) -> list[Waste]:
    """Return the caches beside this one: of other versions, and those that were moved aside."""
    others = (path for path in sorted(directory.parent.glob("*")) if path != directory)
    found = [
        Waste(
            "what an engine compiled that is not in use", f"vLLM {path.name}", _size(path), (path,)
        )
        for path in others
        if path.is_dir() and not path.is_symlink()
    ]
    return [*found, *half_deleted(directory.parents[1], "-")]


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def _moved_at(path: Path) -> str:
    return path.name.rpartition(_MARK)[2]
