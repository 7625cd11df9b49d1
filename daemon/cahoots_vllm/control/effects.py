"""Carries out what the lifecycle decided: preflight, spawn, drain, stop, wake-up.

Each effect is answered with an event. Owns the worker object and nothing of the state.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from cahoots_vllm.control.examine import child_environment
from cahoots_vllm.control.handover import Left
from cahoots_vllm.control.parts import Parts
from cahoots_vllm.control.preparation import Preparation
from cahoots_vllm.core.events import (
    Admit,
    CancelCheck,
    Check,
    Drain,
    Drained,
    Effect,
    Event,
    Gone,
    Measure,
    Remember,
    Spawn,
    Stop,
    WakeAt,
)
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.log_line import parse_line
from cahoots_vllm.core.phases import StartProgress
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.state import Stage, State
from cahoots_vllm.worker.leftovers import WorkerMark, mark_worker
from cahoots_vllm.worker.process import Reports, Worker
from cahoots_vllm.worker.sleeper import SleepError

_ABANDON_S = 10.0
_LOG = logging.getLogger(__name__)


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
        # By generation: two while one starts beside another, or has just taken its place.
        self._running: dict[int, _Running] = {}
        self._found: Worker | None = None
        # By generation: the deadline of one that was taken back must not end the next.
        self._drains: dict[int, asyncio.Task[None]] = {}
        self._preparation = Preparation(parts, send, on_progress)

    def worker(self, generation: int) -> Worker | None:
        """Return the worker of this generation, if it exists."""
        if (running := self._running.get(generation)) is not None:
            return running.worker
        found = self._found
        return found if found is not None and found.generation == generation else None

    def update(self, state: State) -> None:
        """Take what a step has made of the state, before its effects."""
        self._preparation.update(state)

    def perform(self, effect: Effect, settings: Settings, tasks: asyncio.TaskGroup) -> None:
        """Start an effect; the answer comes as an event."""
        match effect:
            case Check() | CancelCheck() | Measure() | Remember() | WakeAt():
                self._preparation.perform(effect, settings, tasks)
            case Spawn() | Admit() | Drain() | Stop():
                self._handle_worker(effect, settings, tasks)
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
                self._cancel_drain(generation)
                if (worker := self.worker(generation)) is not None:
                    self._admit(worker)
            case Drain(generation):
                self._cancel_drain(generation)
                drain = self._drain(generation, settings.gateway.drain_timeout_s)
                self._drains[generation] = tasks.create_task(drain, name=f"drain {generation}")
            case Stop(generation):
                self._cancel_drain(generation)
                self._on_progress("", None)
                tasks.create_task(self._stop(effect, settings), name=f"stop {generation}")
            case _:
                assert_never(effect)

    def _admit(self, worker: Worker) -> None:
        launch = worker.launch
        self._parts.rotation.admit(worker.generation, worker.uds, launch.model, launch.served)

    def find_again(self, left: Left, mark: WorkerMark, settings: Settings) -> bool:
        """Find the worker that an earlier daemon left; False: nobody can go on with it.

        Requests are sent to it from now on if it served; `go_on` watches it.
        """
        live = left.state.live
        if live is None:
            return False
        worker = self._worker(live.generation, live.plan.launch, settings)
        is_ready = live.stage is Stage.READY
        secrets = [secret.reveal() for _, secret in settings.secret_env]
        if not worker.find_again(mark, secrets, is_ready=is_ready):
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
        self._running[worker.generation], self._found = _Running(worker, task), None

    async def _watch_again(self, worker: Worker, settings: Settings) -> None:
        await self._preparation.look(settings)
        await worker.watch()

    def pids(self) -> list[int]:
        """Return the living processes of every worker."""
        return [pid for running in self._running.values() for pid in running.worker.pids()]

    async def abandon(self) -> None:
        """End the workers' processes if the daemon goes down by an error: nobody else would.

        What cannot be killed within 10 s is left: the daemon must end all the same.
        """
        stops = (running.worker.stop(at_once=True) for running in self._running.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(_ABANDON_S):
                await asyncio.gather(*stops)

    def _spawn(
        self, generation: int, launch: LaunchSpec, settings: Settings, tasks: asyncio.TaskGroup
    ) -> None:
        self._on_progress("importing", None)
        worker = self._worker(generation, launch, settings)
        task = tasks.create_task(self._run(worker, settings), name=f"worker {generation}")
        self._running[generation] = _Running(worker, task)

    def _worker(self, generation: int, launch: LaunchSpec, settings: Settings) -> Worker:
        reports = Reports(
            event=self._send,
            suspect=self._parts.rotation.lose,
            progress=self._report_start,
            line=lambda text: self._log(generation, text, launch),
            plain=self._parts.standby.failed,
            stuck=lambda text: self._on_progress(text, None),
            is_asked=lambda: self._parts.rotation.is_asked(generation),
        )
        context = replace(self._parts.context, settings=settings.worker)
        return Worker(generation, launch, context, reports)

    async def _run(self, worker: Worker, settings: Settings) -> None:
        if len(self._running) == 1:  # else another one's memory is in use, too
            await self._parts.release.remember()
        worker.made_for = await self._parts.sleepers.print_of(worker.launch, settings)
        if not await self._wake(worker, settings):
            await self._start(worker, settings)
        if worker.pid is not None:
            mark = mark_worker(worker.generation, worker.pid, worker.number, worker.made_for)
            self._parts.state_file.save(generation=worker.generation, worker=mark)
            if mark is not None:
                self._on_spawn(mark)
        await worker.watch()

    async def _wake(self, worker: Worker, settings: Settings) -> bool:
        """Let it go on with the one that sleeps for it; False: it is to be started."""
        sleeper = self._parts.sleepers.take(worker.made_for)
        if sleeper is None:
            return False
        model, begun = worker.launch.model, asyncio.get_running_loop().time()
        try:
            await worker.wake(sleeper, settings.sleep.timeout_s)
        except SleepError as error:
            _LOG.warning("%s slept and is started plainly: %s", model, error)
            return False
        self._parts.load_times.skip(worker.generation)
        took_s = asyncio.get_running_loop().time() - begun
        _LOG.info("%s woke after %.1f s", model, took_s)
        return True

    async def _start(self, worker: Worker, settings: Settings) -> None:
        env = child_environment(worker.launch, settings, with_token=False)
        secrets = {name: secret.reveal() for name, secret in settings.secret_env}
        standby = await self._parts.standby.take(worker.launch, settings)
        await worker.start(env, secrets, standby)

    def _report_start(self, progress: StartProgress) -> None:
        self._on_progress(progress.sub_phase, progress.fraction)

    def _log_line(self, generation: int, text: str) -> None:
        level = parse_line(text).level
        self._parts.logs.add("worker", text, level=level, generation=generation)

    def _log(self, generation: int, text: str, launch: LaunchSpec) -> None:
        self._log_line(generation, text)
        self._parts.fit.line(generation, text, launch)
        self._parts.worker_log.line(generation, text)

    def _cancel_drain(self, generation: int) -> None:
        if (drain := self._drains.pop(generation, None)) is not None:
            drain.cancel()

    async def _drain(self, generation: int, timeout_s: float) -> None:
        await self._parts.rotation.drain(generation, timeout_s)
        self._send(Drained(generation))

    async def _stop(self, stop: Stop, settings: Settings) -> None:
        generation = stop.generation
        self._parts.rotation.close(generation)
        running = self._running.get(generation)
        if running is not None:
            running.task.cancel()
            await asyncio.wait((running.task,))
            await self._parts.rotation.retire(generation)
            is_asleep = await self._put_to_sleep(running.worker, stop, settings)
            if not is_asleep:
                await running.worker.stop(at_once=stop.at_once)
            del self._running[generation]
            if not self._running:  # what is used now is the other's, too
                self._parts.state_file.save(worker=None)
                if not is_asleep:  # else its memory was looked at
                    await self._parts.release.wait()
        self._send(Gone(generation))

    async def _put_to_sleep(self, worker: Worker, stop: Stop, settings: Settings) -> bool:
        if stop.sleeps_for is None:
            return False
        self._on_progress(f"putting {stop.sleeps_for.model} to sleep", None)
        is_asleep = await self._parts.sleepers.put(worker, stop.sleeps_for, settings)
        self._on_progress("", None)
        return is_asleep
