"""Serving until a signal or the engine's death, and how each of them ends: with exit status 0."""

import asyncio
import signal
import socket
from typing import Literal

from aiohttp import web

from fake_vllm.api import Api
from fake_vllm.engine import Engine
from fake_vllm.options import ServeOptions
from fake_vllm.processes import Processes
from fake_vllm.script import Behaviour
from fake_vllm.transcript import Transcript

_FLUSH_S = 0.05  # for the last response to leave
_RELEASE_S = 0.5  # from the last client's hanging up to the exit, seen on 0.32

End = Literal["signal", "engine death"]


class Server:
    """The API process from `Application startup complete` on."""

    def __init__(
        self,
        options: ServeOptions,
        behaviour: Behaviour,
        transcript: Transcript,
        processes: Processes,
    ) -> None:
        self._options = options
        self._behaviour = behaviour
        self._transcript = transcript
        self._processes = processes
        self._engine = Engine(processes, behaviour)
        self._api = Api(self._engine, options, behaviour, transcript)
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    async def run(self, bound: socket.socket) -> None:
        """Serve on the bound socket; return when the process is to exit 0."""
        self._take_signals()
        self._engine.watch(lambda: self._finish("engine death"))
        delay_s = self._behaviour.delays_s.get("ready", 0)
        await asyncio.sleep(delay_s)
        self._transcript.play("ready", 0, lambda _: None)
        runner = web.AppRunner(self._api.app(), access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.SockSite(runner, bound, backlog=2048)
        await site.start()
        match await self._end:
            case "signal":
                await self._stop(site)
            case "engine death":
                await self._follow_engine()

    def _take_signals(self) -> None:
        if self._behaviour.ignore_sigterm:
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._finish, "signal")

    def _finish(self, end: End) -> None:
        # Once it goes down, further signals are ignored; so is the death of an engine we killed.
        if not self._end.done():
            self._end.set_result(end)

    async def _stop(self, site: web.SockSite) -> None:
        """SIGTERM: drain if told to, kill the engine, and then wait for the clients."""
        await self._drain()
        how = self._behaviour.term_with_streams
        has_streams = not self._api.idle.is_set()
        self._engine.end_requests(how)
        self._processes.kill()
        self._transcript.play_end(0)
        await site.stop()
        if has_streams and how == "hang":
            # Seen in 6 of 14 runs on 0.32: "Waiting for connections to close", for ever.
            self._transcript.access("INFO:     Waiting for connections to close.")
            await self._api.idle.wait()
            await asyncio.sleep(_RELEASE_S)
        await self._api.idle.wait()
        await asyncio.sleep(_FLUSH_S)
        self._transcript.play_end(1)

    async def _drain(self) -> None:
        # While it drains, /health stays 200 and new requests get a 500.
        if not self._options.shutdown_timeout_s:
            return
        self._api.completions.is_draining = True
        try:
            async with asyncio.timeout(self._options.shutdown_timeout_s):
                await self._api.idle.wait()
        except TimeoutError:
            return

    async def _follow_engine(self) -> None:
        """Follow the dead engine: 503, every request ended, and a good-looking exit status."""
        await asyncio.sleep(self._behaviour.health_notice_s)
        self._engine.is_dead = True
        self._engine.end_requests(self._behaviour.engine_death_streams)
        self._transcript.play_death()
        await asyncio.sleep(self._behaviour.engine_death_exit_s)
        self._processes.kill()
        if self._behaviour.engine_death_streams == "hang":
            await self._api.idle.wait()
        await asyncio.sleep(_FLUSH_S)
