"""One worker: `vllm serve` on a private socket, from spawn to the end of its last process.

Reports to the supervisor and decides nothing: Ready after a token came out, Lost on any end that
was not asked for, whatever its exit status (a dead engine exits 0).
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Exit, diagnose
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.events import Lost, Ready
from cahoots_vllm.core.evidence import HostEvidence
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.phases import StartProgress, advance
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.worker.deaths import watch_processes
from cahoots_vllm.worker.leftovers import WorkerMark
from cahoots_vllm.worker.output import LineSink
from cahoots_vllm.worker.probe import Probe
from cahoots_vllm.worker.running import Running, WorkerContext, find_again, spawn
from cahoots_vllm.worker.stall import notice_dead, notice_stall
from cahoots_vllm.worker.tree import Growth
from cahoots_vllm.worker.witness import Witness, call_witness, hear_witness, refresh_witness

_POLL_S = 0.25
# After an engine process died the API server says why and answers its clients within half a
# second; its own exit would take up to 5 s (entrypoints/launchers/launcher.py:309).
_LAST_WORDS_S = 1.0
_NOTE_EVERY_S = 1.0
_JUDGE_S = 30.0
_RECENT = 1000


@dataclass(frozen=True, slots=True)
class Reports:
    """Where a worker's news goes; `suspect` comes at once, `event` when the cause is known.

    `is_asked` is a question: whether requests are on it.
    """

    event: Callable[[Ready | Lost], None]
    suspect: Callable[[int], None]
    progress: Callable[[StartProgress], None]
    line: LineSink
    stuck: Callable[[str], None]
    is_asked: Callable[[], bool]


class Worker:
    """One generation. `start` it, `watch` it as a task; cancel that, then `stop` it."""

    def __init__(
        self, generation: int, launch: LaunchSpec, context: WorkerContext, reports: Reports
    ) -> None:
        """Nothing is started yet."""
        self.generation = generation
        self.launch = launch
        self.uds = context.uds(generation)
        self.progress = StartProgress()
        self._context = context
        self._reports = reports
        self._running: Running | None = None
        self._spawn_error: Diagnosis | None = None
        self._probe: Probe | None = None
        self._witness: Witness | None = None
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        """The API server's pid, while it lives: it may be somebody else's after."""
        return self._running.child.pid if self._running and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether its API server has not ended yet."""
        return self._running is not None and self._running.child.is_running

    def start(self, env: Mapping[str, str], secrets: Mapping[str, str]) -> None:
        """Start the process; an engine that cannot be run is reported by `watch`."""
        try:
            self._running = spawn(
                self._context,
                self.generation,
                self.launch,
                env=env,
                secrets=secrets,
                sink=self._take_line,
            )
        except CahootsError as error:
            self._spawn_error = _not_run(error.message, error.remedy, is_retryable=False)
        except OSError as error:
            # The host's own trouble: no cgroup, no descriptor, no process to be had just now.
            why = f"cannot start the worker: {error.strerror}: {error.filename or 'fork or pipe'}"
            self._spawn_error = _not_run(why, "see the unit's limits", is_retryable=True)

    def find_again(self, mark: WorkerMark, *, is_ready: bool) -> bool:
        """Go on with the worker an earlier daemon left; False: nobody can.

        `is_ready`: a token came out of it before. One that ended meanwhile is reported by `watch`.
        """
        self._running = find_again(self._context, mark, self._take_line)
        if self._running is None:
            return False
        self._is_ready = is_ready
        for text in self._running.pump.lines:
            self.progress = advance(self.progress, text)
        return True

    def recent_lines(self) -> tuple[str, ...]:
        """Return the last lines it said, also to an earlier daemon."""
        return self._running.pump.lines[-_RECENT:] if self._running is not None else ()

    def pids(self) -> list[int]:
        """Return the living processes of its tree."""
        return self._running.tree.pids() if self._running is not None else []

    def start_lines(self) -> tuple[str, ...]:
        """Return what it said at its start."""
        return self._running.pump.first_lines if self._running is not None else ()

    async def watch(self) -> None:
        """Report Ready and Lost; return when it is lost, or by cancellation."""
        running = self._running
        if running is None:
            never = _not_run("the worker was never started", "report this", is_retryable=False)
            self._reports.event(Lost(self.generation, self._spawn_error or never))
            return
        probe = self._probe = Probe(str(self.uds), self.launch.model, running.api_key)
        watch = asyncio.ensure_future(self._watch(running, probe))
        try:
            self._witness = await call_witness(running.child.pid, self._context.kernel_log)
            exit_status = running.child.exit_status
            await asyncio.wait((exit_status, watch), return_when=asyncio.FIRST_COMPLETED)
            self._reports.suspect(self.generation)
            seen = watch.result() if watch.done() else None
            evidence = await hear_witness(self._witness)
            diagnosis = await self._explain(running, seen, evidence)
            left = evidence.host_available_bytes
            self._reports.event(Lost(self.generation, diagnosis, left))
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            self._probe = None
            await probe.close()

    def _take_line(self, text: str) -> None:
        self._reports.line(text)
        if self._is_ready:
            return
        progress = advance(self.progress, text)
        if progress != self.progress:
            self.progress = progress
            self._reports.progress(progress)

    async def _watch(self, running: Running, probe: Probe) -> str:
        """Return what was seen when the worker has failed without exiting."""
        if not self._is_ready:
            stuck = await self._become_ready(running, probe)
            if stuck is not None:
                return stuck
            self._is_ready = True
            self._reports.event(Ready(self.generation))
        return await self._stay_ready(running, probe)

    async def _become_ready(self, running: Running, probe: Probe) -> str | None:
        """Wait until a token came out. Return why not, if the start is stuck."""
        silence_s = self._context.settings.start_silence_s
        growth = Growth(running.tree, every_s=silence_s / 4)
        noted_at = 0.0
        while not (self.uds.exists() and await probe.is_up()):
            await asyncio.sleep(_POLL_S)
            now = asyncio.get_running_loop().time()
            if now - noted_at >= _NOTE_EVERY_S and self._witness is not None:
                noted_at = now
                self._witness.note(running.tree.pids())
            if now - max(running.pump.last_line_at, growth.grown_at(now)) >= silence_s:
                return f"the start neither logged nor grew for {silence_s:.0f} s"
        if self.progress.can_generate is False:
            return None  # an embedding or scoring model: no token to wait for
        error = await probe.first_token()
        return None if error is None else f"no first token: {error}"

    async def _stay_ready(self, running: Running, probe: Probe) -> str:
        """Return once an engine process died, the API server says so, or nothing moves in it."""
        settings = self._context.settings
        interval_s = settings.health_interval_s
        if self._witness is not None:
            self._witness.note(running.tree.pids())
        death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running.tree.note_shared_memory()
        pidfds = watch_processes(running.tree.engine_processes(), death)
        signs = {death, asyncio.ensure_future(notice_dead(probe, interval_s))}
        if settings.stall_timeout_s > 0:
            patience_s, is_asked = settings.stall_timeout_s, self._reports.is_asked
            stall = notice_stall(probe, is_asked, timeout_s=patience_s, interval_s=interval_s)
            signs.add(asyncio.ensure_future(stall))
        try:
            while True:
                seen, _ = await asyncio.wait(
                    signs, timeout=interval_s, return_when=asyncio.FIRST_COMPLETED
                )
                if seen:
                    return seen.pop().result()
                await refresh_witness(self._witness)
        finally:
            for sign in signs:
                sign.cancel()
            for pidfd in pidfds:
                asyncio.get_running_loop().remove_reader(pidfd)
                os.close(pidfd)

    async def _explain(
        self, running: Running, seen: str | None, evidence: HostEvidence
    ) -> Diagnosis:
        """Return why it is lost, after its last words; `seen` is what was noticed first."""
        exit_status = running.child.exit_status
        if not exit_status.done():
            await asyncio.wait((exit_status,), timeout=_LAST_WORDS_S)
        running.pump.drain()
        exit_ = Exit()
        if exit_status.done():
            exit_ = _exit(exit_status.result())
        lines, was_ready = running.pump.lines, self._is_ready

        def judge() -> Diagnosis:
            return diagnose(
                exit_, lines, was_ready=was_ready, seen=seen, evidence=evidence, is_unasked=True
            )

        # In a thread: thousands of lines are read by hundreds of rules, and requests are held.
        try:
            return await run_blocking(judge, deadline_s=_JUDGE_S)
        except TimeoutError:
            why = f"the worker ended ({exit_}); its log could not be judged in {_JUDGE_S:.0f} s"
            return Diagnosis(Cause.UNKNOWN, why, "read it: cahootsctl logs", is_retryable=True)

    async def request_counts(self) -> tuple[int, int] | None:
        """Return how many requests run and wait in the engine, None if it does not say."""
        return await self._probe.request_counts() if self._probe and self._is_ready else None

    async def metrics(self) -> str | None:
        """Return the engine's own figures in Prometheus' format, None if it does not say."""
        return await self._probe.metrics() if self._probe and self._is_ready else None

    async def stop(self, *, at_once: bool) -> None:
        """Climb the stop ladder until no process of the tree is left.

        `watch` must have been cancelled. SIGTERM is swallowed during engine start and can hang with
        open streams, and a SIGKILLed API server leaves its engine alive: the tree is killed in
        every case, politely ended before only where that can work.
        """
        running = self._running
        if running is None:
            return
        if not at_once:
            running.child.send_signal(signal.SIGTERM)
            grace_s = self._context.settings.stop_grace_s
            await asyncio.wait((running.child.exit_status,), timeout=grace_s)
        await running.tree.kill(self._reports.stuck)
        await running.child.exit_status
        running.pump.drain()
        running.forget(self._context)
        if running.minder is not None:  # outside the tree where there is no cgroup
            running.minder.send_signal(signal.SIGKILL)
            await running.minder.exit_status


def _exit(status: int | None) -> Exit:
    """Return how it ended; unknown for a process that an earlier daemon started."""
    if status is None:
        return Exit()
    return Exit(code=status) if status >= 0 else Exit(signal=-status)


def _not_run(evidence: str, remedy: str, *, is_retryable: bool) -> Diagnosis:
    cause = Cause.ENGINE_DEAD_OTHER if is_retryable else Cause.MISSING_DEPENDENCY
    return Diagnosis(cause, evidence, remedy, is_retryable)
