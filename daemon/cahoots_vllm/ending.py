"""How the daemon ends: for good with its worker, or leaving the worker to the next daemon."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.gateway.server import GatewayServer
from cahoots_vllm.host import systemd
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.children import Children, Command
from cahoots_vllm.host.notify import Notifier

_JOB_DEADLINE_S = 5.0
_TRIAL_DEADLINE_S = 30.0
_EXTEND_EVERY_S = 5.0
_EXTENSION_S = 20.0
_LOOK_S = 0.1
_ENDS = (signal.SIGTERM, signal.SIGINT)
_SIGNAL = "CAHOOTS_VLLM_SIGNAL"
_TRIAL = "import cahoots_vllm.main, cahoots_vllm.app"
_LOG = logging.getLogger("cahoots_vllm")


class Ending(Enum):
    """What becomes of the worker and of this process."""

    STOPPED = auto()
    # The worker goes on: systemd starts the next daemon, or this process becomes it.
    RESTARTED = auto()
    REPLACED = auto()


class Exit:
    """Takes signals and the wish for a replacement, and ends what has to end first."""

    def __init__(
        self,
        supervisor: Supervisor,
        gateway: GatewayServer,
        rotation: Rotation,
        notifier: Notifier,
        children: Children,
    ) -> None:
        """Nothing is asked for yet."""
        self._supervisor = supervisor
        self._gateway = gateway
        self._rotation = rotation
        self._notifier = notifier
        self._children = children
        self._asked: asyncio.Queue[signal.Signals | Ending] = asyncio.Queue()
        self._signal = ""
        self._is_leaving = False

    async def replace(self) -> None:
        """Let this process become a daemon made anew from the files on disk; the worker goes on.

        Raises CahootsError (CONFLICT) when they cannot even be loaded: this one stays then.
        """
        self._supervisor.asks.refuse_while_stopping()
        if self._is_leaving:
            raise CahootsError(
                Kind.CONFLICT, "the daemon is being replaced already", "wait for it to be back"
            )
        self._is_leaving = True
        try:
            await self._try_files()
        except BaseException:  # cancelled, too: who asked has hung up
            self._is_leaving = self._is_told_to_end
            raise
        self._asked.put_nowait(Ending.REPLACED)

    @property
    def _is_told_to_end(self) -> bool:
        """Whether a signal has come: it goes first, and no replacement is taken for a second."""
        return bool(self._signal) or not self._asked.empty()

    async def _try_files(self) -> None:
        # With the same view of the world as ourselves: packaged, without any PYTHONPATH.
        python = [sys.executable, "-I" if sys.flags.isolated else "-P"]
        for argv, remedy in (
            (["-c", _TRIAL], "mend the installation"),
            (["-m", "cahoots_vllm.main", *sys.argv[1:], "--check"], "mend the settings"),
        ):
            if not await self._succeeds([*python, *argv]):
                raise CahootsError(
                    Kind.CONFLICT,
                    "the daemon on disk would not start, so this one stays",
                    f"see why in its log (journalctl -u cahoots-vllm), and {remedy}",
                )
        if self._is_told_to_end:
            raise CahootsError(Kind.CONFLICT, "the daemon is ending", "start it again")

    async def _succeeds(self, argv: list[str]) -> bool:
        child = self._children.start(Command(argv, os.environ, cwd=str(Path.cwd())))
        try:
            done, _ = await asyncio.wait({child.exit_status}, timeout=_TRIAL_DEADLINE_S)
        finally:
            child.send_signal(signal.SIGKILL)  # it is reaped without anybody waiting
        return bool(done) and child.exit_status.result() == 0

    async def wait(self) -> Ending:
        """Return when the worker has ended, or the last request before it is left alone."""
        loop = asyncio.get_running_loop()
        for signum in _ENDS:
            loop.add_signal_handler(signum, self._asked.put_nowait, signum)
        # One that came while this process was becoming another daemon.
        if number := os.environ.pop(_SIGNAL, None):
            self._asked.put_nowait(signal.Signals(int(number)))
        ending = await self._next()
        extending = asyncio.ensure_future(self._extend())
        try:
            if ending is not Ending.STOPPED:
                ending = await self._leave(ending)
            if ending is Ending.STOPPED:
                await self._stop()
        finally:
            extending.cancel()
        return ending

    async def _next(self) -> Ending:
        asked = await self._asked.get()
        if isinstance(asked, Ending):
            return asked
        self._signal = asked.name
        try:
            return Ending.RESTARTED if await self._is_restarted() else Ending.STOPPED
        except asyncio.CancelledError:
            self._asked.put_nowait(asked)  # nobody has acted on it: see `hand_on_signals`
            raise

    async def _is_restarted(self) -> bool:
        """Whether systemd will start a daemon again, which finds the worker."""
        unit = systemd.own_unit() if self._notifier.is_heard else None
        if unit is None:
            return False
        with suppress(TimeoutError):
            job = await run_blocking(lambda: systemd.pending_job(unit), deadline_s=_JOB_DEADLINE_S)
            # Not known, or none (a signal sent by hand): leave nothing behind.
            return job not in (None, "", "stop")
        return False

    async def _leave(self, ending: Ending) -> Ending:
        """Finish what is under way; a signal cuts it short, or makes it a stop."""
        said = "restarting" if ending is Ending.RESTARTED else "becoming the daemon on disk"
        _LOG.info("%s; the worker goes on, new requests wait a moment", said)
        self._supervisor.leaves_worker = self._is_leaving = True
        leaving = asyncio.ensure_future(self._finish())
        again = asyncio.ensure_future(self._next())
        await asyncio.wait((leaving, again), return_when=asyncio.FIRST_COMPLETED)
        if again.done():
            ending = again.result()
        for task in (leaving, again):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return ending

    async def _finish(self) -> None:
        """Wait for who waits here: a model that is loading, an operation; then for requests.

        Connections are accepted until the requests that need a model have one.
        """
        settings, now = self._supervisor.settings.gateway, asyncio.get_running_loop().time
        deadline = now() + settings.hold_timeout_s
        while now() < deadline:
            if not self._rotation.held and self._supervisor.operations.running is None:
                break
            await asyncio.sleep(_LOOK_S)
        await self._gateway.leave(settings.drain_timeout_s)

    def hand_on_signals(self) -> None:
        """Leave the last signal that nobody has acted on to the daemon this process becomes."""
        while not self._asked.empty():
            asked = self._asked.get_nowait()
            if isinstance(asked, signal.Signals):
                os.environ[_SIGNAL] = str(asked.value)

    async def _stop(self) -> None:
        self._notifier.stopping()
        _LOG.info("stopping on %s; a second one cuts requests off", self._signal)
        stopping = asyncio.ensure_future(self._supervisor.shut_down())
        while not stopping.done():
            again = asyncio.ensure_future(self._asked.get())
            await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
            if again.done():
                self._rotation.cut_off()
            again.cancel()
        left: list[int] = []
        with suppress(asyncio.CancelledError):
            left = await stopping
        if left:
            what = "stopped, but what a worker has left cannot be killed (a driver or a disk hangs)"
            _LOG.error("%s: process %s", what, ", ".join(map(str, left)))
        else:
            _LOG.info("stopped; no process of the worker is left")

    async def _extend(self) -> None:
        """Say that a long drain is no hang; each wait has a deadline of its own."""
        while True:
            self._notifier.extend_timeout(_EXTENSION_S)
            await asyncio.sleep(_EXTEND_EVERY_S)
