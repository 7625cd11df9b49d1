"""Carries out what comes before a start: preflight, the look at the memory, what was learned of it.

Each effect but `Remember` is answered with an event.
"""

import asyncio
import os
from collections.abc import Callable
from typing import assert_never

from cahoots_vllm.control.examine import examine
from cahoots_vllm.control.learned import MemoryKey, asked_for, memory_key
from cahoots_vllm.control.parts import Parts
from cahoots_vllm.control.quarantine import move_caches
from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.core.events import (
    CancelCheck,
    Check,
    Checked,
    CheckFailed,
    Event,
    Measure,
    Measured,
    Remember,
    Tick,
    WakeAt,
)
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import used_devices
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.state import State


class Preparation:
    """Performs these effects as named tasks of the supervisor's group."""

    def __init__(
        self,
        parts: Parts,
        send: Callable[[Event], None],
        on_progress: Callable[[str, float | None], None],
    ) -> None:
        """As of `Effects`."""
        self._parts = parts
        self._send = send
        self._on_progress = on_progress
        self._check: asyncio.Task[None] | None = None
        self._gate: asyncio.Task[None] | None = None
        # All of the host's, as the last preflight saw them: lessons are kept by the used ones.
        self._devices: tuple[Device, ...] = ()

    def perform(
        self,
        effect: Check | CancelCheck | Measure | Remember | WakeAt,
        settings: Settings,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Start it; the answer comes as an event."""
        match effect:
            case Check():
                self._cancel_check()
                self._on_progress("looking for the model", None)
                check = self._run_check(effect, settings)
                self._check = tasks.create_task(check, name="preflight")
            case CancelCheck():
                self._cancel_check()
            case Measure(launch, is_beside):
                self._cancel_gate()
                measure = self._look_beside if is_beside else self._measure
                self._gate = tasks.create_task(measure(launch, settings), name="gate")
            case Remember(goal, launch, memory):
                key = self._key(goal, asked_for(launch, memory), settings)
                self._parts.learned.put(key, memory)
            case WakeAt(at):
                asyncio.get_running_loop().call_at(at, self._send, Tick())
            case _:
                assert_never(effect)

    def update(self, state: State) -> None:
        """End a look at the memory that nobody waits for any more.

        It would take the worker that is started meanwhile for one that was left behind.
        """
        if state.measuring is None:
            self._cancel_gate()

    async def look(self, settings: Settings) -> None:
        """Note the devices as they are now."""
        self._devices = await self._parts.gate.read(is_cpu=settings.engine.is_cpu)

    def _key(self, goal: LaunchSpec, asked: LaunchSpec, settings: Settings) -> MemoryKey:
        devices = used_devices(asked, os.environ, self._devices)
        return memory_key(goal, asked, settings.engine.version, devices)

    def _cancel_check(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _cancel_gate(self) -> None:
        if self._gate is not None:
            self._gate.cancel()
            self._gate = None

    async def _run_check(self, check: Check, settings: Settings) -> None:
        parts, goal, repairs = self._parts, check.goal, check.repairs
        if check.moves_caches:
            await move_caches(settings)
        looks = parts.options, parts.preflight, parts.fit
        tell = self._on_progress
        result = await examine(goal, settings, *looks, progress=tell, repairs=repairs)
        if isinstance(result, Diagnosis):
            self._send(CheckFailed(goal, result))
            return
        await self.look(settings)
        lesson = parts.learned.find(self._key(goal, result, settings))
        self._send(Checked(goal, result, lesson, is_cpu=settings.engine.is_cpu))

    async def _measure(self, launch: LaunchSpec, settings: Settings) -> None:
        self._on_progress("waiting until memory is still", None)
        sleepers = self._parts.sleepers
        made_for = await sleepers.print_of(launch, settings)
        devices = await self._parts.gate.measure(
            launch,
            is_cpu=settings.engine.is_cpu,
            on_ended=lambda pid: self._parts.logs.add(
                "daemon", f"ended process {pid}, left behind by an earlier worker", level="WARNING"
            ),
            sleeping=sleepers.beside(made_for),
        )
        self._send(Measured(launch, devices))

    async def _look_beside(self, launch: LaunchSpec, settings: Settings) -> None:
        self._on_progress("looking for room beside the worker that serves", None)
        host = await self._parts.gate.read(is_cpu=True)
        is_cpu = settings.engine.is_cpu
        found = host if is_cpu else await self._parts.gate.read(is_cpu=False)
        available = min((device.free_bytes for device in host), default=None)
        devices = used_devices(launch, os.environ, found)
        self._send(Measured(launch, devices, is_beside=True, host_available_bytes=available))
