"""Carries out what the lifecycle decided: preflight, spawn, drain, stop, wake-up.

Each effect is answered with an event. Owns the worker object and nothing of the state.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from cahoots_vllm.control.examine import child_environment, examine
from cahoots_vllm.control.fit_check import FitCheck
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.gpu_release import GpuRelease
from cahoots_vllm.control.handover import Handover, Left
from cahoots_vllm.control.learned import Learned, MemoryKey, asked_for, memory_key
from cahoots_vllm.control.load_times import LoadTimes
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.control.option_check import OptionCheck
from cahoots_vllm.control.preflight import Preflight
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.control.worker_log import WorkerLog
from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.core.events import (
    Admit,
    CancelCheck,
    Check,
    Checked,
    CheckFailed,
    Drain,
    Drained,
    Effect,
    Event,
    Gone,
    Measure,
    Measured,
    Remember,
    Spawn,
    Stop,
    Tick,
    WakeAt,
)
from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.log_line import parse_line
from cahoots_vllm.core.memory import used_devices
from cahoots_vllm.core.phases import StartProgress
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.state import Stage
from cahoots_vllm.worker.leftovers import WorkerMark, mark_worker
from cahoots_vllm.worker.process import Reports, Worker
from cahoots_vllm.worker.running import WorkerContext


@dataclass(frozen=True, slots=True)
class Parts:
    """What the effects work with."""

    context: WorkerContext
    preflight: Preflight
    options: OptionCheck
    fit: FitCheck
    rotation: Rotation
    release: GpuRelease
    gate: Gate
    learned: Learned
    load_times: LoadTimes
    state_file: StateFile
    handover: Handover
    logs: LogBuffer
    worker_log: WorkerLog


@dataclass(frozen=True, slots=True)
class _Running:
    worker: Worker
    task: asyncio.Task[None]


class Effects:
    """Performs effects as named tasks of the supervisor's group."""

    def __init__(
        self,
        parts: Parts,
        send: Callable[[Event], None],
        on_progress: Callable[[str, float | None], None],
        on_spawn: Callable[[WorkerMark], None],
    ) -> None:
        """`send` takes the answers; `on_progress` words and fraction of what takes long."""
        self._parts = parts
        self._send = send
        self._on_progress = on_progress
        self._on_spawn = on_spawn
        self._running: _Running | None = None
        self._found: Worker | None = None
        self._check: asyncio.Task[None] | None = None
        # All of the host's, as the last preflight saw them: lessons are kept by the used ones.
        self._devices: tuple[Device, ...] = ()

    @property
    def worker(self) -> Worker | None:
        """The worker that exists."""
        return self._running.worker if self._running else self._found

    def perform(self, effect: Effect, settings: Settings, tasks: asyncio.TaskGroup) -> None:
        """Start an effect; the answer comes as an event."""
        match effect:
            case Check() | CancelCheck() | Measure() | Remember() | WakeAt():
                self._prepare(effect, settings, tasks)
            case Spawn() | Admit() | Drain() | Stop():
                self._handle_worker(effect, settings, tasks)
            case _:
                assert_never(effect)

    def _prepare(
        self,
        effect: Check | CancelCheck | Measure | Remember | WakeAt,
        settings: Settings,
        tasks: asyncio.TaskGroup,
    ) -> None:
        match effect:
            case Check(goal, repairs):
                self._cancel_check()
                self._on_progress("looking for the model", None)
                check = self._run_check(goal, settings, repairs=repairs)
                self._check = tasks.create_task(check, name="preflight")
            case CancelCheck():
                self._cancel_check()
            case Measure(launch):
                tasks.create_task(self._measure(launch, settings), name="gate")
            case Remember(goal, launch, memory):
                key = self._key(goal, asked_for(launch, memory), settings)
                self._parts.learned.put(key, memory)
            case WakeAt(at):
                asyncio.get_running_loop().call_at(at, self._send, Tick())
            case _:
                assert_never(effect)

    def _handle_worker(
        self,
        effect: Spawn | Admit | Drain | Stop,
        settings: Settings,
        tasks: asyncio.TaskGroup,
    ) -> None:
        match effect:
            case Spawn(generation, launch):
                self._spawn(generation, launch, settings, tasks)
            case Admit(generation):
                worker = self.worker
                if worker is not None and worker.generation == generation:
                    self._admit(worker)
            case Drain(generation):
                timeout_s = settings.gateway.drain_timeout_s
                tasks.create_task(self._drain(generation, timeout_s), name=f"drain {generation}")
            case Stop(generation, at_once):
                self._on_progress("", None)
                tasks.create_task(self._stop(generation, at_once), name=f"stop {generation}")
            case _:
                assert_never(effect)

    def _admit(self, worker: Worker) -> None:
        launch = worker.launch
        self._parts.rotation.admit(worker.generation, worker.uds, launch.model, launch.served)

    def _key(self, goal: LaunchSpec, asked: LaunchSpec, settings: Settings) -> MemoryKey:
        devices = used_devices(asked, os.environ, self._devices)
        return memory_key(goal, asked, settings.engine.version, devices)

    def find_again(self, left: Left, mark: WorkerMark, settings: Settings) -> bool:
        """Find the worker that an earlier daemon left; False: nobody can go on with it.

        Requests are sent to it from now on if it served; `go_on` watches it.
        """
        live = left.state.live
        if live is None:
            return False
        worker = self._worker(live.generation, live.plan.launch, settings)
        is_ready = live.stage is Stage.READY
        if not worker.find_again(mark, is_ready=is_ready):
            return False
        self._found = worker
        for text in worker.recent_lines():
            self._log_line(worker.generation, text)
        self._parts.release.before = dict(left.gpu_memory)
        if is_ready and worker.is_running:
            self._admit(worker)
        return True

    def go_on(self, settings: Settings, tasks: asyncio.TaskGroup) -> None:
        """Watch the worker that was found again as if it had been started here."""
        worker = self._found
        if worker is None:
            return
        watch = self._watch_again(worker, settings)
        task = tasks.create_task(watch, name=f"worker {worker.generation}")
        self._running, self._found = _Running(worker, task), None

    async def _watch_again(self, worker: Worker, settings: Settings) -> None:
        self._devices = await self._parts.gate.read(is_cpu=settings.engine.is_cpu)
        await worker.watch()

    async def abandon(self) -> None:
        """End the worker's processes if the daemon goes down by an error: nobody else would."""
        if self._running is not None:
            await self._running.worker.stop(at_once=True)

    def _cancel_check(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None

    async def _run_check(self, goal: LaunchSpec, settings: Settings, *, repairs: bool) -> None:
        parts = self._parts
        looks = parts.options, parts.preflight, parts.fit
        tell = self._on_progress
        result = await examine(goal, settings, *looks, progress=tell, repairs=repairs)
        if isinstance(result, Diagnosis):
            self._send(CheckFailed(goal, result))
            return
        is_cpu = settings.engine.is_cpu
        self._devices = await parts.gate.read(is_cpu=is_cpu)
        lesson = parts.learned.find(self._key(goal, result, settings))
        self._send(Checked(goal, result, lesson, is_cpu=is_cpu))

    async def _measure(self, launch: LaunchSpec, settings: Settings) -> None:
        self._on_progress("waiting until memory is still", None)
        devices = await self._parts.gate.measure(
            launch,
            is_cpu=settings.engine.is_cpu,
            on_ended=lambda pid: self._parts.logs.add(
                "daemon", f"ended process {pid}, left behind by an earlier worker", level="WARNING"
            ),
        )
        self._send(Measured(launch, devices))

    def _spawn(
        self, generation: int, launch: LaunchSpec, settings: Settings, tasks: asyncio.TaskGroup
    ) -> None:
        self._on_progress("importing", None)
        worker = self._worker(generation, launch, settings)
        task = tasks.create_task(self._run(worker, settings), name=f"worker {generation}")
        self._running = _Running(worker, task)

    def _worker(self, generation: int, launch: LaunchSpec, settings: Settings) -> Worker:
        reports = Reports(
            event=self._send,
            suspect=self._parts.rotation.lose,
            progress=self._report_start,
            line=lambda text: self._log(generation, text, launch),
            stuck=lambda text: self._on_progress(text, None),
            is_asked=lambda: self._parts.rotation.is_asked(generation),
        )
        context = replace(self._parts.context, settings=settings.worker)
        return Worker(generation, launch, context, reports)

    async def _run(self, worker: Worker, settings: Settings) -> None:
        await self._parts.release.remember()
        env = child_environment(worker.launch, settings, with_token=False)
        secrets = {name: secret.reveal() for name, secret in settings.secret_env}
        worker.start(env, secrets)
        if worker.pid is not None:
            mark = mark_worker(worker.generation, worker.pid)
            self._parts.state_file.save(generation=worker.generation, worker=mark)
            if mark is not None:
                self._on_spawn(mark)
        await worker.watch()

    def _report_start(self, progress: StartProgress) -> None:
        self._on_progress(progress.sub_phase, progress.fraction)

    def _log_line(self, generation: int, text: str) -> None:
        level = parse_line(text).level
        self._parts.logs.add("worker", text, level=level, generation=generation)

    def _log(self, generation: int, text: str, launch: LaunchSpec) -> None:
        self._log_line(generation, text)
        self._parts.fit.line(generation, text, launch)
        self._parts.worker_log.line(generation, text)

    async def _drain(self, generation: int, timeout_s: float) -> None:
        await self._parts.rotation.drain(generation, timeout_s)
        self._send(Drained(generation))

    async def _stop(self, generation: int, at_once: bool) -> None:  # noqa: FBT001 (the effect's own field)
        self._parts.rotation.close(generation)
        running = self._running
        if running is not None and running.worker.generation == generation:
            running.task.cancel()
            with suppress(asyncio.CancelledError):
                await running.task
            await self._parts.rotation.retire(generation)
            await running.worker.stop(at_once=at_once)
            self._running = None
            self._parts.state_file.save(worker=None)
            await self._parts.release.wait()
        self._send(Gone(generation))
