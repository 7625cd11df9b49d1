"""One worker: `vllm serve` on a private socket, from spawn to the end of its last process.

Reports to the supervisor and decides nothing: Ready after a token came out, Lost on any end that
was not asked for, whatever its exit status (a dead engine exits 0).
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.events import Lost, Ready
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.phases import WAKING, StartProgress, advance
from cahoots_vllm.host.children import Child, Command
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.last_words import explain
from cahoots_vllm.worker.leftovers import WorkerMark
from cahoots_vllm.worker.output import LineSink
from cahoots_vllm.worker.probe import NoTokenError, Probe
from cahoots_vllm.worker.ready_watch import stay_ready
from cahoots_vllm.worker.running import Running, clear_away, find_again, spawn
from cahoots_vllm.worker.sleeper import Sleeper, SleepError, put_to_sleep
from cahoots_vllm.worker.standby import Standby, StandbyError
from cahoots_vllm.worker.tree import Growth
from cahoots_vllm.worker.witness import Witness, call_witness, hear_witness

_LOG = logging.getLogger(__name__)
_POLL_S = 0.25
_NOTE_EVERY_S = 1.0
_RECENT = 1000


@dataclass(frozen=True, slots=True)
class Reports:
    """Where a worker's news goes; `suspect` comes at once, `event` when the cause is known.

    `plain`: it was started plainly, for the standby could not become it; why. `is_asked` is a
    question: whether requests are on it.
    """

    event: Callable[[Ready | Lost], None]
    suspect: Callable[[int], None]
    progress: Callable[[StartProgress], None]
    line: LineSink
    stuck: Callable[[str], None]
    plain: Callable[[str], None]
    is_asked: Callable[[], bool]


class Worker:
    """One generation. `start` it, `watch` it as a task; cancel that, then `stop` it."""

    def __init__(
        self, generation: int, launch: LaunchSpec, context: WorkerContext, reports: Reports
    ) -> None:
        """Nothing is started yet."""
        self.generation = generation
        self.launch = launch
        self.progress = StartProgress()
        # A digest of all that it is good for, "" where it is not known, or cannot be put to sleep.
        self.made_for = ""
        self._context = context
        self._reports = reports
        self._running: Running | None = None
        self._spawn_error: Diagnosis | None = None
        self._probe: Probe | None = None
        self._witness: Witness | None = None
        self._is_ready = False
        # The text of the first token that came out of it, None where an earlier daemon saw that.
        self._canary: str | None = None

    @property
    def number(self) -> int:
        """The generation that its process was started as: its socket is named after that."""
        return self._running.generation if self._running is not None else self.generation

    @property
    def uds(self) -> Path:
        """Its private socket."""
        return self._context.uds(self.number)

    @property
    def pid(self) -> int | None:
        """The API server's pid, while it lives: it may be somebody else's after."""
        return self._running.child.pid if self._running and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether its API server has not ended yet."""
        return self._running is not None and self._running.child.is_running

    async def start(
        self, env: Mapping[str, str], secrets: Mapping[str, str], standby: Standby | None
    ) -> None:
        """Start the process; an engine that cannot be run is reported by `watch`.

        `standby` becomes it, where there is one; one that cannot costs nothing but its time.
        """

        async def start(command: Command) -> Child:
            if standby is not None:
                try:
                    return await standby.become(command)
                except StandbyError as error:
                    self._reports.plain(str(error))
            return self._context.children.start(command)

        try:
            self._running = await spawn(
                self._context,
                self.generation,
                self.launch,
                env=env,
                secrets=secrets,
                sink=self._take_line,
                start=start,
            )
        except CahootsError as error:
            self._spawn_error = _not_run(error.message, error.remedy, is_retryable=False)
        except OSError as error:
            # The host's own trouble: no cgroup, no descriptor, no process to be had just now.
            why = f"cannot start the worker: {error.strerror}: {error.filename or 'fork or pipe'}"
            self._spawn_error = _not_run(why, "see the unit's limits", is_retryable=True)
        finally:
            if self._running is None and standby is not None:
                await standby.end()

    def find_again(self, mark: WorkerMark, secrets: Iterable[str], *, is_ready: bool) -> bool:
        """Go on with the worker an earlier daemon left; False: nobody can.

        `secrets` must not stand in its lines. `is_ready`: a token came out of it before. One that
        ended meanwhile is reported by `watch`.
        """
        self._running = find_again(self._context, mark, secrets, self._take_line)
        if self._running is None:
            return False
        self._is_ready = is_ready
        self.made_for = mark.made_for
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
            _LOG.debug("worker %s lost: %s; hearing why", self.generation, seen or "it ended")
            evidence = await hear_witness(self._witness)
            diagnosis = await explain(running, seen, evidence, was_ready=self._is_ready)
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
        return await stay_ready(
            running,
            probe,
            self._context.settings,
            find_witness=lambda: self._witness,
            is_asked=self._reports.is_asked,
        )

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
        try:
            self._canary = await probe.first_token()
        except NoTokenError as error:
            return f"no first token: {error}"
        return None

    async def request_counts(self) -> tuple[int, int] | None:
        """Return how many requests run and wait in the engine, None if it does not say."""
        return await self._probe.request_counts() if self._probe and self._is_ready else None

    async def metrics(self) -> str | None:
        """Return the engine's own figures in Prometheus' format, None if it does not say."""
        return await self._probe.metrics() if self._probe and self._is_ready else None

    async def fall_asleep(self, timeout_s: float) -> Sleeper:
        """Put it to sleep; what comes back has its processes. Raises SleepError: it is as it was.

        `watch` must have been cancelled, and no request may be left on it.
        """
        running = self._running
        if running is None:
            what = "it is not running"
            raise SleepError(what)
        return await put_to_sleep(
            self._context,
            running,
            self.launch,
            self.progress,
            canary=self._canary,
            timeout_s=timeout_s,
        )

    async def wake(self, sleeper: Sleeper, timeout_s: float) -> None:
        """Go on with one that sleeps; `watch` it then. Raises SleepError: it is gone."""
        self._running = sleeper.running
        sleeper.running.pump.hear(self._take_line)
        self.progress = replace(sleeper.progress, sub_phase=WAKING, fraction=None)
        self._reports.progress(self.progress)
        try:
            await sleeper.wake(timeout_s)
        except SleepError:
            await self.stop(at_once=True)
            self._running, self.progress = None, StartProgress()
            raise

    async def stop(self, *, at_once: bool) -> None:
        """Climb the stop ladder until no process of the tree is left.

        `watch` must have been cancelled. SIGTERM is swallowed during engine start and can hang with
        open streams, and a SIGKILLed API server leaves its engine alive: the tree is killed in
        every case, politely ended before only where that can work.
        """
        running = self._running
        if running is None:
            await clear_away(self._context, self.generation, self._reports.stuck)
            return
        if not at_once:
            running.child.send_signal(signal.SIGTERM)
            grace_s = self._context.settings.stop_grace_s
            await asyncio.wait((running.child.exit_status,), timeout=grace_s)
        await running.end(self._context, self._reports.stuck)


def _not_run(evidence: str, remedy: str, *, is_retryable: bool) -> Diagnosis:
    cause = Cause.ENGINE_DEAD_OTHER if is_retryable else Cause.MISSING_DEPENDENCY
    return Diagnosis(cause, evidence, remedy, is_retryable)
