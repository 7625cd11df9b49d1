"""Host memory, swap, /dev/shm and disks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.amounts import GIB, MIB, size_text
from cahoots_vllm.core.doctor.expectations import Expectation
from cahoots_vllm.core.doctor.finding import Finding, Findings, Group, Judge, or_ok

_RAM: Final = Judge("ram", Group.MEMORY)
_SWAP: Final = Judge("swap", Group.MEMORY)
_SHM: Final = Judge("shm", Group.MEMORY)
_DISK: Final = Judge("disk", Group.MEMORY)
_WRITABLE: Final = Judge("writable", Group.MEMORY)
_LITTLE_RAM: Final = GIB
# Three times in ten seconds to the kernel's "some" pressure would be noise; this is not.
_SWAP_USED: Final = 0.5
# What vLLM's processes share, and a Docker default of 64 MiB does not hold (tests/failures, 023).
_SHM_LEAST: Final = 128 * MIB
_SHM_PARALLEL: Final = GIB
_DISK_LEAST: Final = 256 * MIB
_DISK_LITTLE: Final = 2 * GIB
_FEW_INODES: Final = 1000


@dataclass(frozen=True, slots=True)
class RamFacts:
    """Bytes; `limit` is the memory cgroup's of this process, None without one."""

    total: int
    available: int
    swap_total: int = 0
    swap_free: int = 0
    limit: int | None = None
    swappiness: int | None = None


@dataclass(frozen=True, slots=True)
class ShmFacts:
    """Room in /dev/shm in bytes; `is_there`: it is a file system of its own."""

    total: int
    free: int
    is_there: bool = True


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A directory and the file system it is on, or would be.

    Free bytes and inodes are those a process without privileges may have; None where a file
    system counts no inodes. `why_not_writable` is "" where this user may write there.
    """

    what: str
    path: str
    device: int
    free: int
    total: int
    free_inodes: int | None = None
    why_not_writable: str = ""
    runs_programs: bool = True


def judge_ram(facts: RamFacts, expected: Expectation | None) -> Findings:
    """Say how much host memory there is."""
    total = facts.total if facts.limit is None else min(facts.total, facts.limit)
    found = []
    if expected is not None and total < expected.ram:
        limited = " (the limit of its cgroup)" if total < facts.total else ""
        said = f"{size_text(total)} of RAM{limited}; the guide wants 32 GB for a 32B model"
        found.append(_RAM.warn(said, "serve a smaller model, or add memory"))
    if facts.available < _LITTLE_RAM:
        said = f"only {size_text(facts.available)} of {size_text(facts.total)} of RAM are available"
        remedy = "see who has it: ps -eo pid,user,rss,args --sort=-rss | head"
        found.append(_RAM.warn(said, remedy))
    return or_ok(found, _RAM.ok(f"{size_text(facts.available)} of {size_text(total)} available"))


def judge_swap(facts: RamFacts) -> Findings:
    """Say whether the host lives on swap."""
    used = facts.swap_total - facts.swap_free
    if not facts.swap_total:
        return (_SWAP.ok("none"),)
    said = f"{size_text(used)} of {size_text(facts.swap_total)} of swap are used"
    if used > _SWAP_USED * facts.swap_total and facts.available < facts.total // 10:
        eager = facts.swappiness if facts.swappiness is not None else "?"
        remedy = f"the host needs more memory or less to do (vm.swappiness is {eager})"
        return (_SWAP.warn(f"{said}, and little RAM is left", remedy),)
    return (_SWAP.ok(said),)


def judge_shm(facts: ShmFacts, processes: int) -> Findings:
    """Say whether the worker's processes can share memory; `processes` is tensor by pipeline."""
    remedy = "docker run --shm-size=8g or --ipc=host; elsewhere: mount -o remount,size=50% /dev/shm"
    if not facts.is_there:
        return (_SHM.fail("no /dev/shm is mounted", "mount -t tmpfs tmpfs /dev/shm"),)
    said = f"{size_text(facts.free)} of {size_text(facts.total)} free in /dev/shm"
    if facts.total < _SHM_LEAST:
        return (_SHM.fail(f"{said}: too small for vLLM's processes", remedy),)
    if facts.free < _SHM_LEAST:
        return (_SHM.fail(said, "see what fills it: ls -lS /dev/shm"),)
    if processes > 1 and facts.total < _SHM_PARALLEL:
        return (_SHM.warn(f"{said}: little for {processes} GPUs", remedy),)
    return (_SHM.ok(said),)


def judge_disks(
    disks: tuple[DiskFacts, ...], expected: Expectation | None, *, is_model_here: bool
) -> Findings:
    """Say whether there is room; the first disk is the cache's, where a model would go."""
    found: list[Finding] = []
    # One file system may be there under several names.
    for disk in {disk.device: disk for disk in reversed(disks)}.values():
        found += _full(disk)
        found += [] if disk.runs_programs else [_no_programs(disk)]
    if disks and not found and not is_model_here:
        found += _download(disks[0], expected)
    said = "; ".join(f"{disk.what} {size_text(disk.free)} free" for disk in disks)
    return or_ok(found, _DISK.ok(said))


def _full(disk: DiskFacts) -> Iterator[Finding]:
    said = f"{disk.what} ({disk.path}): {size_text(disk.free)} of {size_text(disk.total)} free"
    remedy = "free space there (cahootsctl prune removes models that are not served)"
    if disk.free < min(_DISK_LEAST, disk.total // 20):
        yield _DISK.fail(f"{said}: full", remedy)
    elif disk.free < min(_DISK_LITTLE, disk.total // 10):
        yield _DISK.warn(said, remedy)
    elif disk.free_inodes is not None and disk.free_inodes < _FEW_INODES:
        yield _DISK.fail(
            f"{disk.what} ({disk.path}): {disk.free_inodes} inodes left", "delete small files"
        )


def _download(disk: DiskFacts, expected: Expectation | None) -> Iterator[Finding]:
    if expected is None:
        return
    said = f"{disk.what} ({disk.path}): {size_text(disk.free)} free"
    if disk.free < expected.download:
        wants = f"the model's download needs about {size_text(expected.download)}"
        yield _DISK.fail(f"{said}; {wants}", "free space there")
    elif disk.free < expected.free_disk:
        yield _DISK.warn(f"{said}; the guide wants 100 GB for a 32B model", "free space there")


def _no_programs(disk: DiskFacts) -> Finding:
    said = f"{disk.what} ({disk.path}) is mounted noexec: compiled kernels cannot be loaded from it"
    return _DISK.warn(said, f"mount -o remount,exec the file system of {disk.path}")


def judge_writable(disks: tuple[DiskFacts, ...], user: str) -> Findings:
    """Say whether the daemon's user can write where it must."""
    found = [
        _WRITABLE.fail(
            f"{user} cannot write {disk.what} ({disk.path}): {disk.why_not_writable}",
            f"sudo chown -R {user} {disk.path}",
        )
        for disk in disks
        if disk.why_not_writable
    ]
    return or_ok(found, _WRITABLE.ok(f"{user} can write caches, state and temporary files"))
