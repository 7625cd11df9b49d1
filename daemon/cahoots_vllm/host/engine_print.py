"""Whether an engine on the disk is still what a process of it has imported. Blocking, short."""

from collections.abc import Iterator
from pathlib import Path

_DRIVER = Path("/sys/module/nvidia/version")


def fingerprint(engine: Path, driver: Path = _DRIVER) -> str | None:
    """Return what changes with each installation into the engine, and with the GPU's driver.

    pip makes and removes directories beside the packages it changes, and within them. None: there
    is no engine.
    """
    try:
        seen = [_stamp(place) for place in _places(engine)]
    except OSError:
        return None  # in the middle of an installation
    try:
        seen.append(driver.read_text().strip())
    except OSError:
        seen.append("no driver")
    return "\n".join(seen) if len(seen) > 1 else None


def _places(engine: Path) -> Iterator[Path]:
    for packages in sorted(engine.glob("lib/python3*/site-packages")):
        yield packages
        yield from sorted(packages.glob("vllm*"))
        yield from sorted(packages.glob("torch"))


def _stamp(place: Path) -> str:
    status = place.stat()
    return f"{place}:{status.st_ino}:{status.st_mtime_ns}"
