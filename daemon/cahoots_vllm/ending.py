"""How the daemon ends: for good with its worker, or leaving the worker to the next daemon."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from enum import Enum, auto

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

    async def replace(self) -> None:
        """Let this process become a daemon made anew from the files on disk; the worker goes on.

        Raises CahootsError (CONFLICT) when they cannot even be loaded: this one stays then.
        """
        self._supervisor.refuse_while_stopping()
        # With the same view of the world as ourselves: packaged, without any PYTHONPATH.
        argv = [sys.executable, "-I" if sys.flags.isolated else "-P", "-c", _TRIAL]
        child = self._children.start(Command(argv, os.environ))
        done, _ = await asyncio.wait({child.exit_status}, timeout=_TRIAL_DEADLINE_S)
        if not done or child.exit_status.result() != 0:
            child.send_signal(signal.SIGKILL)
            raise CahootsError(
                Kind.CONFLICT,
                "the daemon on disk cannot be loaded, so this one stays",
                "see why in its log (journalctl -u cahoots-vllm), and mend the installation",
            )
        self._asked.put_nowait(Ending.REPLACED)

    async def wait(self) -> Ending:
        """Return when the worker has ended, or the last request before it is left alone."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._asked.put_nowait, signum)
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
        return Ending.RESTARTED if await self._is_restarted() else Ending.STOPPED

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
        """Finish what is under way; another signal cuts it short, or makes it a stop."""
        said = "restarting" if ending is Ending.RESTARTED else "becoming the daemon on disk"
        _LOG.info("%s; the worker goes on, new requests wait a moment", said)
        self._supervisor.leaves_worker = True
        timeout_s = self._supervisor.settings.gateway.drain_timeout_s
        leaving = asyncio.ensure_future(self._gateway.leave(timeout_s))
        again = asyncio.ensure_future(self._next())
        await asyncio.wait((leaving, again), return_when=asyncio.FIRST_COMPLETED)
        if again.done() and again.result() is Ending.STOPPED:
            ending = Ending.STOPPED
        for task in (leaving, again):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return ending

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
        with suppress(asyncio.CancelledError):
            await stopping
        _LOG.info("stopped; no process of the worker is left")

    async def _extend(self) -> None:
        """Say that a long drain is no hang; each wait has a deadline of its own."""
        while True:
            self._notifier.extend_timeout(_EXTENSION_S)
            await asyncio.sleep(_EXTEND_EVERY_S)
