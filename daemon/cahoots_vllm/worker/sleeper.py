"""A worker that sleeps: its processes are there, its GPUs' memory is not, and nobody asks it.

vLLM's sleep mode, level 1 (vllm/entrypoints/serve/dev/sleep/api_router.py): weights go to host
memory, the KV cache is discarded. A request sent to a sleeper hangs for good, so none is: not a
probe either. Its death is told by its processes.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.phases import StartProgress
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.deaths import watch_processes
from cahoots_vllm.worker.probe import NoTokenError, Probe
from cahoots_vllm.worker.running import Running

_SLEEP, _WAKE = "/sleep?level=1", "/wake_up"
_POLL_S = 0.1


class SleepError(Exception):
    """A worker does not fall asleep, or does not wake as it was; the text says why."""


class Sleeper:
    """One that was put to sleep. `wake` it or `end` it, once.

    `canary` is the text of its first token.
    """

    def __init__(
        self,
        context: WorkerContext,
        running: Running,
        launch: LaunchSpec,
        progress: StartProgress,
        canary: str,
    ) -> None:
        """It sleeps already."""
        self.running = running
        self.launch = launch
        self.progress = progress
        self.canary = canary
        self._context = context
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pidfds = watch_processes(running.tree.engine_processes(), self.death)
        running.child.exit_status.add_done_callback(self._ended)

    def _ended(self, _exit_status: asyncio.Future[int | None]) -> None:
        if not self.death.done():
            self.death.set_result("its API server ended in its sleep")

    @property
    def pid(self) -> int:
        """The API server's pid."""
        return self.running.child.pid

    def check_alive(self) -> None:
        """Raise SleepError where it has died meanwhile."""
        if self.death.done():
            raise SleepError(self.death.result())

    async def wake(self, timeout_s: float) -> None:
        """Return once it gives the token that it gave before it slept. Raises SleepError."""
        self.leave_watch()
        too_late = f"it did not wake within {timeout_s:.0f} s"
        async with _asking(self._context, self.running, self.launch, timeout_s, too_late) as probe:
            await _tell(probe, _WAKE)
            await _wait_up(probe)
            token = await probe.first_token()
        if token != self.canary:
            what = f"its first token is {token!r}, and was {self.canary!r} before it slept"
            raise SleepError(what)

    async def end(self, on_stuck: Callable[[str], None]) -> None:
        """SIGKILL its whole tree and return when nothing of it is left."""
        self.leave_watch()
        await self.running.end(self._context, on_stuck)

    def leave_watch(self) -> None:
        """Watch it no more: somebody else goes on with it."""
        self.running.child.exit_status.remove_done_callback(self._ended)
        for pidfd in self._pidfds:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        self._pidfds = []


async def put_to_sleep(
    context: WorkerContext,
    running: Running,
    launch: LaunchSpec,
    progress: StartProgress,
    *,
    canary: str | None,
    timeout_s: float,
) -> Sleeper:
    """Put a worker to sleep that has no requests any more. Raises SleepError.

    `canary`: what its first token was; None: an earlier daemon saw it, so it is asked for now.
    """
    if progress.can_generate is False:
        what = "it gives no tokens, so nobody could tell whether it woke as it was"
        raise SleepError(what)
    too_late = f"no answer to {_SLEEP} within {timeout_s:.0f} s"
    async with _asking(context, running, launch, timeout_s, too_late) as probe:
        token = canary if canary is not None else await probe.first_token()
        await _tell(probe, _SLEEP)
    return Sleeper(context, running, launch, progress, token)


@asynccontextmanager
async def _asking(
    context: WorkerContext, running: Running, launch: LaunchSpec, timeout_s: float, too_late: str
) -> AsyncIterator[Probe]:
    """Ask the worker something, so long at most. Raises SleepError: `too_late`, or no token."""
    probe = Probe(str(context.uds(running.generation)), launch.model, running.api_key)
    try:
        async with asyncio.timeout(timeout_s):
            yield probe
    except TimeoutError as error:
        raise SleepError(too_late) from error
    except NoTokenError as error:
        raise SleepError(str(error)) from error
    finally:
        await probe.close()


async def _wait_up(probe: Probe) -> None:
    while True:
        if await probe.is_up():
            return
        await asyncio.sleep(_POLL_S)


async def _tell(probe: Probe, path: str) -> None:
    refused = await probe.tell(path)
    if refused is not None:
        what = f"{path} was answered with {refused}"
        raise SleepError(what)
