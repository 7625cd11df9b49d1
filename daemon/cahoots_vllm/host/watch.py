"""Tells when the content of files has changed and lies still again.

Notifications only say when to look: what changed is told by comparing looks, so that a lost
notification costs seconds and no change. How a look is made is `watched_files`' business.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Literal

from watchfiles import awatch
from watchfiles._rust_notify import WatchfilesRustInternalError

from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.watched_files import MISSING, Look, Mark, look_at

_STEP_MS = 20  # how often watchfiles asks its own thread: 0.2 % of a core
_DEBOUNCE_MS = 100  # in a busy directory no batch is held back for longer
_TICK_S = 1.0  # between two looks where notifications do not tell everything
_HEARTBEAT_S = 5.0  # between two looks where they should
_RETRY_TICKS = 60  # until notifications are asked for again after they failed
_LOOK_DEADLINE_S = 10.0
_SLACK_S = 0.1  # a tick that comes a little early is one
_LIMITS = ("Too many open files", "watch limit reached")  # EMFILE and ENOSPC, as watchfiles says it


class FileWatch:
    """Watches what `files` names, asked again at each look; a directory stands for its *.toml.

    `settle_s`: content must stay the same this long. `vanished_s`: so long a file must be missing
    or empty before that counts, since editors and shells leave it so between two steps.
    """

    def __init__(
        self,
        files: Callable[[], tuple[Path, ...]],
        *,
        settle_s: float = 0.12,
        vanished_s: float = 1.5,
    ) -> None:
        """Nothing is looked at before `begin` or `changes`."""
        self._files = files
        self._changes = _Changes(settle_s, vanished_s)
        self._settle_s = settle_s
        self._has_begun = False
        self._asked_at = 0.0
        self._unwatched = ""
        self._unseen = ""
        # Held by the thread that looks: on a file system that hangs, the next must not follow it.
        self._inside = threading.Lock()

    @property
    def mode(self) -> Literal["inotify", "polling"]:
        """How changes are noticed: at once, or by a look every second."""
        return "polling" if self.reason else "inotify"

    @property
    def reason(self) -> str:
        """Why the mode is polling, "" when it is not."""
        return self._unwatched or self._unseen or self._look.blind

    @property
    def _look(self) -> Look:
        return self._changes.look

    async def begin(self) -> None:
        """Take what is there now as known. Whoever reads the files after this misses no change."""
        await self._refresh()
        self._changes.take_as_told()
        self._has_begun = True

    async def changes(self) -> AsyncGenerator[tuple[Path, ...], None]:
        """Yield the files whose content, existence or readability changed, once they lie still.

        A file that `files` newly names counts as changed. Only cancelling or closing ends it: use
        `contextlib.aclosing` to close it in time.
        """
        if not self._has_begun:
            await self.begin()
        while True:
            places = self._look.places
            watched = {place for place, _, _ in places}
            async with aclosing(self._events(watched)) as events:
                async for paths in events:
                    if not self._are_worth_a_look(paths):
                        continue
                    await self._refresh()
                    while changed := await self._settled():
                        yield changed
                        await self._refresh()
                    # A new directory may have the old one's inode: an event about it is enough.
                    if self._look.places != places or not watched.isdisjoint(paths):
                        break

    async def _events(self, directories: set[str]) -> AsyncGenerator[frozenset[str], None]:
        """Yield the paths that changed, none at each tick. Ends when it should be started anew."""
        self._asked_at = 0.0
        yield frozenset()  # something may have changed since the last look
        self._asked_at = 0.0  # and until the watch is set: the first tick is for that
        try:
            if directories:
                batches = awatch(
                    *sorted(directories),
                    watch_filter=None,
                    debounce=_DEBOUNCE_MS,
                    step=_STEP_MS,
                    rust_timeout=round(_TICK_S * 1000),
                    yield_on_timeout=True,
                    force_polling=False,
                    recursive=False,
                )
                async with aclosing(batches):
                    async for batch in batches:
                        self._unwatched = ""
                        yield frozenset(path for _, path in batch)
        except FileNotFoundError:  # since the look
            await asyncio.sleep(self._settle_s)
            yield frozenset(directories)
            return
        except (OSError, WatchfilesRustInternalError) as error:
            self._unwatched = _explain(error)
        for _ in range(_RETRY_TICKS):
            await asyncio.sleep(_TICK_S)
            yield frozenset()

    def _are_worth_a_look(self, paths: frozenset[str]) -> bool:
        pause_s = _TICK_S if self.reason else _HEARTBEAT_S
        if time.monotonic() >= self._asked_at + pause_s - _SLACK_S:
            return True
        look = self._look
        matter = look.names.union(place for place, _, _ in look.places)
        return not matter.isdisjoint(paths) or any(
            path.endswith(".toml") and path.rpartition("/")[0] in look.folders for path in paths
        )

    async def _refresh(self) -> None:
        """Look again; where that fails for the host's sake, the last look stands."""
        sources = tuple(path.absolute() for path in self._files())
        self._asked_at = time.monotonic()
        try:
            look = await run_blocking(
                lambda: self._try_to_look(sources), deadline_s=_LOOK_DEADLINE_S
            )
        except TimeoutError:
            self._unseen = f"the files could not be read within {_LOOK_DEADLINE_S:.0f} s"
            return
        except OSError as error:
            self._unseen = f"cannot look at the files: {error.strerror}"
            return
        if look is not None:
            self._unseen = ""
            self._changes.take(look, sources, self._asked_at)

    def _try_to_look(self, sources: tuple[Path, ...]) -> Look | None:
        if not self._inside.acquire(blocking=False):
            return None  # a look that was given up has not come back
        try:
            return look_at(sources)
        finally:
            self._inside.release()

    async def _settled(self) -> tuple[Path, ...]:
        """Return what changed and lies still, () when all is as it was."""
        while self._changes.pending():
            done = self._changes.tell()
            if done:
                return done
            await asyncio.sleep(self._changes.left_s())
            await self._refresh()
        return ()


class _Changes:
    """Compares looks: what differs from what was told, and since when."""

    def __init__(self, settle_s: float, vanished_s: float) -> None:
        self.look = Look()
        self._settle_s = settle_s
        self._vanished_s = vanished_s
        self._told: dict[Path, str] = {}
        self._since: dict[Path, float] = {}
        self._looked_at = 0.0

    def take(self, look: Look, sources: tuple[Path, ...], now: float) -> None:
        """Take a look; what is not named any more is forgotten, which is no change."""
        for path in self.look.marks.keys() | look.marks.keys():
            if look.marks.get(path, MISSING) != self._mark(path):
                self._since[path] = now
        self.look = look
        self._looked_at = now
        named = {path for path in self._told if path in sources or path.parent in sources}
        self._told = {path: self._told[path] for path in named}

    def take_as_told(self) -> None:
        """Tell nothing of what is there now."""
        self._told = {path: mark.content for path, mark in self.look.marks.items()}

    def _mark(self, path: Path) -> Mark:
        return self.look.marks.get(path, MISSING)

    def pending(self) -> tuple[Path, ...]:
        """Return what differs from what was told."""
        paths = sorted(self._told.keys() | self.look.marks.keys())
        told = ((path, self._told.get(path, MISSING.content)) for path in paths)
        return tuple(path for path, content in told if content != self._mark(path).content)

    def _wait_s(self, path: Path) -> float:
        """Return for how long it must stay as it is."""
        needed_s = self._vanished_s if self._mark(path).is_void else self._settle_s
        return self._since.get(path, 0.0) + needed_s - self._looked_at

    def tell(self) -> tuple[Path, ...]:
        """Return what lies still, and count it as told; () while there is something to wait for.

        Files saved together are told together; one that is away does not hold up the others.
        """
        pending = self.pending()
        done = tuple(path for path in pending if self._wait_s(path) <= 0)
        if any(self._wait_s(path) > 0 and not self._mark(path).is_void for path in pending):
            return ()
        self._told |= {path: self._mark(path).content for path in done}
        return done

    def left_s(self) -> float:
        """Return when to look again: something may happen to a file that is waited for."""
        waits = (self._wait_s(path) for path in self.pending())
        return min([self._settle_s, *(wait_s for wait_s in waits if wait_s > 0)])


def _explain(error: Exception) -> str:
    """Say why there are no notifications."""
    if any(limit in str(error) for limit in _LIMITS):
        return "no inotify watch to be had: raise fs.inotify.max_user_watches and _instances"
    return f"no notifications: {error}"
