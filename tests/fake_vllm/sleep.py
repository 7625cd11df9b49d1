"""vLLM 0.32's routes for sleep: entrypoints/serve/dev/sleep/api_router.py.

There only with VLLM_SERVER_DEV_MODE=1, and of use only with --enable-sleep-mode. The memory that
is given back is that of tests/fake_nvml.
"""

import asyncio
import os

from aiohttp import web

from fake_vllm import gpu_memory
from fake_vllm.engine import Engine
from fake_vllm.options import ServeOptions
from fake_vllm.script import Behaviour

_LEVELS = ("0", "1", "2")
_MIB = 1 << 20


class SleepRoutes:
    """The three routes that the daemon may use, and what they do to the engine."""

    def __init__(self, engine: Engine, options: ServeOptions, behaviour: Behaviour) -> None:
        self._engine = engine
        self._options = options
        self._behaviour = behaviour
        self._weights = b""

    def routes(self) -> list[web.RouteDef]:
        if os.environ.get("VLLM_SERVER_DEV_MODE") != "1":
            return []
        return [
            web.post("/sleep", self._sleep),
            web.post("/wake_up", self._wake_up),
            web.get("/is_sleeping", self._is_sleeping),
        ]

    async def _sleep(self, request: web.Request) -> web.Response:
        level, fault = request.query.get("level", "1"), self._behaviour.sleep
        if level not in _LEVELS:
            return web.Response(status=422)
        is_possible = self._options.non_default.get("enable_sleep_mode") is True
        if fault == "error" or not is_possible:
            return web.Response(status=500)
        if fault == "hang":
            await asyncio.get_running_loop().create_future()
        self._engine.is_asleep = True
        if fault != "keeps_memory":
            gpu_memory.rest(self._behaviour, self._options, self._engine.pid)
        self._weights = b"w" * (self._behaviour.asleep_host_mib * _MIB)
        return web.json_response({"status": "sleeping", "level": int(level)})

    async def _wake_up(self, request: web.Request) -> web.Response:
        tags, fault = request.query.getall("tags", []) or None, self._behaviour.wake
        if fault == "error" or not gpu_memory.has_room(self._behaviour, self._options):
            return web.Response(status=500)
        if fault == "hang":
            await asyncio.get_running_loop().create_future()
        gpu_memory.hold(self._behaviour, self._options, self._engine.pid)
        self._engine.is_asleep, self._weights = False, b""
        self._engine.has_other_weights = fault == "other_weights"
        return web.json_response({"status": "awake", "tags": tags})

    async def _is_sleeping(self, _request: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": self._engine.is_asleep})
