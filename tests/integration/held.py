"""What a daemon holds of its host at one moment, so that two moments can be compared."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.host import process_tree, shared_memory

_V2 = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_SHARED = Path("/dev/shm")  # noqa: S108 (looked at only)


@dataclass(frozen=True, slots=True)
class Held:
    """Things by their kind: numbers in their names are left out."""

    things: Counter[str]
    resident_kib: int
    anonymous_kib: int

    def beyond(self, before: "Held") -> list[str]:
        """Return what there is more of than before."""
        return [
            f"{count} x {what}" for what, count in sorted((self.things - before.things).items())
        ]

    def grown_mib(self, before: "Held") -> tuple[float, float]:
        """Return by how much the daemon's RSS has grown, and the part that no file is behind."""
        resident = self.resident_kib - before.resident_kib
        return resident / 1024, (self.anonymous_kib - before.anonymous_kib) / 1024

    def __str__(self) -> str:
        """Count each sort of thing, and the daemon's memory."""
        sorts = Counter[str]()
        for what, count in self.things.items():
            sorts[what.partition(": ")[0]] += count
        counted = ", ".join(f"{count} of {sort}" for sort, count in sorted(sorts.items()))
        return (
            f"{counted}; RSS {self.resident_kib / 1024:.1f} MiB, "
            f"{self.anonymous_kib / 1024:.1f} MiB of it anonymous"
        )


def held(pid: int, runtime: Path, cgroup: Path | None) -> Held:
    """Look at the daemon `pid`, its runtime directory and the cgroup delegated to it."""
    proc = Path(f"/proc/{pid}")
    status = dict(row.split(":", 1) for row in (proc / "status").read_text().splitlines())
    things = [*_processes(pid), *_descriptors(proc)]
    things += ["thread"] * int(status["Threads"])
    things += [f"file: {path.name}" for path in runtime.iterdir()]
    if cgroup is not None:
        things += [f"cgroup: {path.name}" for path in cgroup.glob("*/")]
    # Others on this host share memory by such names, too; what somebody has mapped is in use.
    things += [f"shared memory: {path}" for path in _abandoned()]
    kinds = Counter(re.sub(r"[0-9]+", "N", what) for what in things)
    return Held(kinds, _kib(status["VmRSS"]), _kib(status["RssAnon"]))


def _kib(text: str) -> int:
    return int(text.split(maxsplit=1)[0])


def _processes(pid: int) -> Iterator[str]:
    rows = process_tree.read_all()
    for below in process_tree.descendants([pid], rows) - {pid}:
        title = "zombie" if rows[below].is_zombie else process_tree.title(below)
        yield f"process: {title[:80]}"


def _descriptors(proc: Path) -> Iterator[str]:
    for fd in (proc / "fd").iterdir():
        try:
            yield f"descriptor: {fd.readlink()}"
        except FileNotFoundError:
            continue  # closed between the look and the reading


def _abandoned() -> set[str]:
    """Return the names in /dev/shm, of the kinds that engines make, that no process has mapped."""
    kinds = ("psm_", "sem.mp-", "torch_")
    names = {str(path) for path in _SHARED.iterdir() if path.name.startswith(kinds)}
    return names - shared_memory.mapped(process_tree.read_all())


@contextmanager
def delegated_cgroup() -> Iterator[Path | None]:
    """Be in a cgroup as systemd delegates it to a service; None where nobody lets us make one.

    Whatever is started meanwhile is in it, too.
    """
    own = next(
        (row[3:] for row in Path("/proc/self/cgroup").read_text().splitlines() if row[:3] == "0::"),
        None,
    )
    mount = next((place for place in _V2 if (place / "cgroup.controllers").exists()), None)
    if own is None or mount is None:
        yield None
        return
    before = mount / own.lstrip("/")
    place = before / f"cahoots-test-{os.getpid()}"
    try:
        place.mkdir()
        os.setxattr(place, "user.delegate", b"1")
        (place / "cgroup.procs").write_text("0")
    except OSError:
        if place.exists():
            place.rmdir()
        yield None
        return
    try:
        yield place
    finally:
        (before / "cgroup.procs").write_text("0")
        for below in place.glob("*/"):
            below.rmdir()
        place.rmdir()
