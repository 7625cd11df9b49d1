"""Begins standbys, and remembers for how long another one would be of no use."""

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Final

from cahoots_vllm.control.standby_wish import Wanted
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.launch import build_argv
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.standby import Standby
from cahoots_vllm.worker.standby_source import start_standby

# After memory was scarce, or a standby was of no use: not again before this.
AGAIN_S: Final = 300.0
_DEADLINE_S: Final = 5.0
# After so many in a row that never got warm, of the same engine and environment: not before this.
_FEW: Final = 3
SELDOM_S: Final = 3600.0
_LOG: Final = logging.getLogger(__name__)


class StandbyMaker:
    """Starts one at a time, each with a number of its own."""

    def __init__(self, context: WorkerContext) -> None:
        """None was begun yet."""
        # The number of the latest one, which names its cgroup and its stored socket.
        self.count = 0
        # Why none was begun the last time that it was put off.
        self.why = ""
        self._context = context
        self._again_at = 0.0
        # The print (Wanted) that no standby is of use for, and the one that few are tried for.
        self._useless = ""
        self._seldom = ""
        # How many failed in a row, all for this print.
        self._failures, self._failed = 0, ""

    async def begin(
        self, wanted: Wanted, generation: int, on_news: Callable[[], None]
    ) -> Standby | None:
        """Start one, unless it would be of no use; the caller owns it then."""
        if wanted.print == self._useless or self._is_put_off(wanted.print):
            return None
        argv = build_argv(wanted.launch, str(self._context.uds(generation)))
        make = partial(wanted.learned.parent.mkdir, parents=True, exist_ok=True)
        try:
            await run_blocking(make, deadline_s=_DEADLINE_S)
            self.count += 1
            return start_standby(
                self._context, self.count, argv, wanted.env, wanted.learned, on_news=on_news
            )
        except CahootsError as error:
            self.count_failure(wanted.print, error.message, has_been_warm=False)
        except OSError as error:
            self.put_off(f"cannot start one: {trouble_of(error)}")
        return None

    def _is_put_off(self, made_for: str) -> bool:
        is_another = bool(self._seldom) and made_for != self._seldom
        return asyncio.get_running_loop().time() < self._again_at and not is_another

    def count_failure(self, made_for: str, why: str, *, has_been_warm: bool) -> None:
        """Note one that came to nothing; one that got warm was of use, and something killed it."""
        is_same = made_for == self._failed
        self._failed = made_for
        self._failures = 0 if has_been_warm else self._failures * is_same + 1
        self.put_off(why if self._failures < _FEW else f"{self._failures} in a row failed: {why}")
        if self._failures >= _FEW:
            self._seldom = made_for
            self._again_at += SELDOM_S - AGAIN_S

    def forget(self) -> None:
        """Try again at the next look whatever has failed: the settings are others now."""
        self._again_at = 0.0
        self._failures = 0

    def call_useless(self, made_for: str) -> None:
        """Begin none for this print any more."""
        self._useless = made_for

    def put_off(self, why: str) -> None:
        """Begin none for a while; say so once."""
        self._again_at = asyncio.get_running_loop().time() + AGAIN_S
        self._seldom = ""
        if why != self.why:
            _LOG.warning("no standby is kept for the next start: %s", why)
        self.why = why

    def say_when(self, why: str) -> str:
        """Return a reason why there is none, with the time after which another one is tried."""
        wait_s = self._again_at - asyncio.get_running_loop().time()
        if why and why == self.why and wait_s > 0:
            return f"{why}; another is tried in {math.ceil(wait_s / 60)} min"
        return why


def trouble_of(error: OSError) -> str:
    """Return what is wrong with the host, and where; a TimeoutError may have no words."""
    at = f"{error.filename}: " if error.filename else ""
    return f"{at}{error.strerror or 'no answer in time'}"
