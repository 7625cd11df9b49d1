"""The engine as the API server knows it: steps that come back, requests counted, death noticed."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from fake_vllm.engine_process import STEP
from fake_vllm.processes import EngineDeadError, Processes
from fake_vllm.script import Behaviour, StreamEnd

_CHUNK_BYTES = 4096
_SILENT_S = 0.1  # a step that has no answer for so long: the engine is stopped


class AbortedError(Exception):
    """The request was aborted by a shutdown; the client sees `finish_reason: abort`."""


@dataclass(slots=True)
class Counters:
    """What /metrics and /load show."""

    waiting: int = 0
    running: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})

    @contextmanager
    def one(self, kind: Literal["waiting", "running"]) -> Iterator[None]:
        """Count one request as long as the block runs; a client that hangs up leaves it too."""
        setattr(self, kind, getattr(self, kind) + 1)
        try:
            yield
        finally:
            setattr(self, kind, getattr(self, kind) - 1)


class Engine:
    """Generates as long as the processes answer."""

    def __init__(self, processes: Processes, behaviour: Behaviour) -> None:
        self.counters = Counters()
        self.is_dead = False
        self.is_asleep = False
        self.has_other_weights = False
        self._processes = processes
        self._behaviour = behaviour
        self._answered = 0
        self._warm_up_steps = behaviour.warm_up_tokens
        self._steps: deque[asyncio.Future[None]] = deque()
        self._asked_at: deque[float] = deque()
        self._shown = Counters()
        self._end: StreamEnd | None = None
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int:
        """EngineCore's."""
        return self._processes.engine_pid

    @property
    def shown(self) -> Counters:
        """What the engine said last: one that is stopped counts nothing, nor who gives up."""
        now = asyncio.get_running_loop().time()
        is_silent = bool(self._asked_at) and now - self._asked_at[0] > _SILENT_S
        if not is_silent and not self._is_frozen():
            self._shown = replace(self.counters, finished=dict(self.counters.finished))
        return self._shown

    def watch(self, on_death: Callable[[], None]) -> None:
        """Read the worker's answers; call `on_death` once the engine's process is gone."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._processes.reply, self._on_steps)
        pidfd = os.pidfd_open(self._processes.engine_pid)

        def noticed() -> None:
            loop.remove_reader(pidfd)
            on_death()

        loop.add_reader(pidfd, noticed)
        if self._behaviour.exit0_after_s is not None:
            loop.call_later(self._behaviour.exit0_after_s, self._processes.kill_engine)

    def end_requests(self, how: StreamEnd) -> None:
        """End what is in flight as `how` says; a later call finds nothing to end."""
        if self._end is not None:
            return
        self._end = how
        self._ended.set()
        while self._steps:
            step = self._steps.popleft()
            self._asked_at.popleft()
            if not step.done() and how != "hang":
                step.set_exception(_failure(how))

    async def generate(
        self, prompt: str, tokens: Sequence[str], emit: Callable[[str], Awaitable[None]]
    ) -> None:
        """Emit the tokens, one a step. Raises EngineDeadError or AbortedError in the middle."""
        poison = self._behaviour.crash_on_prompt
        if poison is not None and poison in prompt:
            self._processes.kill_worker()
        await self._first_step()
        self.counters.prompt_tokens += len(prompt.split())
        with self.counters.one("running"):
            await self._emit(tokens, emit)
        self.counters.preemptions += self._behaviour.preempts
        self._answered += 1
        if self._answered == self._behaviour.exit0_after_requests:
            self._processes.kill_engine()

    async def _emit(self, tokens: Sequence[str], emit: Callable[[str], Awaitable[None]]) -> None:
        started = asyncio.get_running_loop().time()
        for index, token in enumerate(tokens):
            if index:
                await self._pace(started, index)
                await self._step()
            await emit(token)
            self.counters.generation_tokens += 1
            if self.counters.generation_tokens == self._behaviour.exit0_after_tokens:
                self._processes.kill_engine()

    async def _first_step(self) -> None:
        warm_up, self._warm_up_steps = self._warm_up_steps, 0
        started = asyncio.get_running_loop().time()
        await self._step()  # until then the engine has not even seen it
        with self.counters.one("waiting"):
            for index in range(warm_up):
                await self._pace(started, index + 1)
                await self._step()

    async def _pace(self, started: float, index: int) -> None:
        if not self._behaviour.tokens_per_s:
            return
        due = started + index / self._behaviour.tokens_per_s
        left = due - asyncio.get_running_loop().time()
        if left <= 0:
            return
        try:
            async with asyncio.timeout(left):
                await self._ended.wait()
        except TimeoutError:
            return

    async def _step(self) -> None:
        if self._end not in (None, "hang"):
            raise _failure(self._end)
        step = asyncio.get_running_loop().create_future()
        if self._end is None and not self._is_frozen():
            self._steps.append(step)
            self._asked_at.append(asyncio.get_running_loop().time())
            # A broken pipe: dead, and not noticed yet. The client waits as with the real one.
            with suppress(BrokenPipeError):
                os.write(self._processes.request, STEP)
        await step

    def _is_frozen(self) -> bool:
        after = self._behaviour.frozen_after_requests
        return (
            self.is_asleep
            or self._behaviour.ready_but_no_token
            or (after is not None and self._answered >= after)
        )

    def _on_steps(self) -> None:
        answers = os.read(self._processes.reply, _CHUNK_BYTES)
        if not answers:
            asyncio.get_running_loop().remove_reader(self._processes.reply)
        for _ in range(min(len(answers), len(self._steps))):
            step = self._steps.popleft()
            self._asked_at.popleft()
            if not step.done():
                step.set_result(None)


def _failure(how: StreamEnd | None) -> Exception:
    return AbortedError() if how == "abort" else EngineDeadError()
