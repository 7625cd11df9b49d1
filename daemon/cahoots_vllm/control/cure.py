"""Looks, while the goal has failed, whether what was missing has appeared.

A GPU whose driver came late, space on a full disk, other files of the model, another engine, memory
that somebody gave back: each tries again what a person would have to start again.
"""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.control.gate import Gate
from cahoots_vllm.core.diagnosis import Cause
from cahoots_vllm.core.events import Cured
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.state import State
from cahoots_vllm.host import snapshots
from cahoots_vllm.host.blocking import run_blocking

_FIRST_POLL_S = 5.0
_LONGEST_POLL_S = 60.0
_DEADLINE_S = 10.0
_DEVICE_NODE = Path("/dev/nvidia0")
_TEMPORARY = (Path("/tmp"), Path("/dev/shm"))  # noqa: S108 (only looked at)
# So much more of a device's memory, or of a disk, is worth another try.
_MORE = 0.05
_MORE_BYTES = 1 << 30
_MEMORY = frozenset(
    {
        Cause.GPU_OOM_STARTUP_ALLOC,
        Cause.GPU_OOM_STARTUP_FREE,
        Cause.KV_CACHE_NONE,
        Cause.KV_CACHE_TOO_SMALL,
    }
)
_FILES = frozenset({Cause.CORRUPT_WEIGHTS, Cause.HUB_NOT_FOUND, Cause.BAD_ARGUMENTS})
_ENGINE = frozenset({Cause.MISSING_DEPENDENCY, Cause.CUDA_DRIVER, Cause.BAD_ARGUMENTS})


@dataclass(frozen=True, slots=True)
class _Sight:
    """What a failure of some cause may wait for; empty where it waits for none of that kind."""

    gpus: frozenset[str] = frozenset()
    free: tuple[tuple[int, int], ...] = ()
    files: frozenset[tuple[str, int, int]] = frozenset()
    engine: frozenset[tuple[str, int]] = frozenset()


class CureWatch:
    """One watching task at most; started and ended by `update`."""

    def __init__(self, gate: Gate, cache_dir: Path, send: Callable[[Cured], None]) -> None:
        """`send` takes the good news."""
        self._gate = gate
        self._cache_dir = cache_dir
        self._send = send
        self._task: asyncio.Task[None] | None = None
        self._cures = 0
        # Held by the thread that looks: one that could not be had does not leave it taken.
        self._inside = threading.Lock()

    def update(self, state: State, settings: Settings, tasks: asyncio.TaskGroup) -> None:
        """Watch exactly while the goal has failed."""
        if state.last_good is not None and state.plan == state.last_good:
            self._cures = 0
        failure = state.last_failure
        is_over = state.is_failed and state.live is None
        if not is_over or failure is None or state.goal is None:
            if self._task is not None:
                self._task.cancel()
                self._task = None
            return
        if self._task is None:
            watch = self._watch(failure.diagnosis.cause, state.goal, settings)
            self._task = tasks.create_task(watch, name="cure")

    async def _watch(self, cause: Cause, goal: LaunchSpec, settings: Settings) -> None:
        before = await self._look(cause, goal, settings)
        # A thing that comes and goes must not start an engine each time.
        poll_s = min(_LONGEST_POLL_S, _FIRST_POLL_S * 2.0**self._cures)
        while True:
            await asyncio.sleep(poll_s)
            now = await self._look(cause, goal, settings)
            if before is None or now is None:
                before = now
                continue
            what = _appeared(before, now)
            if what is not None:
                self._cures += 1
                self._send(Cured(what))
                return

    async def _look(self, cause: Cause, goal: LaunchSpec, settings: Settings) -> _Sight | None:
        """Return what is there now, None when a disk or a GPU does not answer."""
        free: tuple[tuple[int, int], ...] = ()
        gpus: frozenset[str] = frozenset()
        try:
            if cause in _MEMORY or cause is Cause.CUDA_DRIVER:
                devices = await self._gate.read(is_cpu=settings.engine.is_cpu)
                gpus = frozenset(device.key for device in devices)
                free = tuple(_needed(d.free_bytes, d.total_bytes) for d in devices)
            return await run_blocking(
                lambda: self._look_at_disk(cause, goal, gpus, free), deadline_s=_DEADLINE_S
            )
        except (OSError, TimeoutError):
            return None

    def _look_at_disk(
        self,
        cause: Cause,
        goal: LaunchSpec,
        gpus: frozenset[str],
        free: tuple[tuple[int, int], ...],
    ) -> _Sight | None:
        if not self._inside.acquire(blocking=False):
            return None  # a disk that hangs is not asked again before it answered
        try:
            return self._sight(cause, goal, gpus, free)
        finally:
            self._inside.release()

    def _sight(
        self,
        cause: Cause,
        goal: LaunchSpec,
        gpus: frozenset[str],
        free: tuple[tuple[int, int], ...],
    ) -> _Sight:
        if cause is Cause.CUDA_DRIVER and _DEVICE_NODE.exists():
            gpus |= {str(_DEVICE_NODE)}
        if cause is Cause.DISK_FULL:
            free = tuple(map(_free_space, (self._cache_dir, *_TEMPORARY)))
        files = self._files(goal) if cause in _FILES else frozenset()
        engine = _stamps(goal.engine) if cause in _ENGINE else frozenset()
        return _Sight(gpus, free if cause is not Cause.CUDA_DRIVER else (), files, engine)

    def _files(self, goal: LaunchSpec) -> frozenset[tuple[str, int, int]]:
        """Return name, size and time of the model's files, as far as they are there."""
        directory: Path | None = Path(goal.source)
        if not goal.source.startswith("/"):
            directory = snapshots.find_snapshot(self._cache_dir, goal.source, goal.revision)
        if directory is None or not directory.is_dir():
            return frozenset()
        stats = ((path.name, path.stat()) for path in directory.iterdir() if path.is_file())
        return frozenset((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _appeared(before: _Sight, now: _Sight) -> str | None:
    """Return what is better than before, None when nothing is."""
    if new := now.gpus - before.gpus:
        return f"a GPU appeared: {', '.join(sorted(new))}"
    pairs = zip(before.free, now.free, strict=False)
    if any(after - free >= worth for (free, worth), (after, _) in pairs):
        return "space or memory was freed"
    if now.files and now.files != before.files:
        return "the model's files were changed"
    if now.engine and now.engine != before.engine:
        return "the engine was changed"
    return None


def _needed(free: int, total: int) -> tuple[int, int]:
    """Return what is free, and how much more would be worth another try."""
    return free, max(1, int(total * _MORE))


def _free_space(path: Path) -> tuple[int, int]:
    while not path.exists() and path != path.parent:
        path = path.parent
    usage = shutil.disk_usage(path)
    free, worth = _needed(usage.free, usage.total)
    return free, min(worth, _MORE_BYTES)


def _stamps(engine: str) -> frozenset[tuple[str, int]]:
    """Return what an installation into the engine's environment touches."""
    root = Path(engine)
    programs = (Path(entry) for entry in os.get_exec_path())  # a compiler that was missing
    places = [root / "bin" / "vllm", *root.glob("lib/python3*/site-packages"), *programs]
    return frozenset((str(p), p.stat().st_mtime_ns) for p in places if p.exists())
