"""The start-up of `vllm serve`, phase by phase, with what signals and deaths do in each."""

import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import NoReturn

from fake_vllm.options import ServeOptions
from fake_vllm.processes import EngineDeadError, Processes
from fake_vllm.script import Behaviour, Phase
from fake_vllm.transcript import PHASES, Transcript

_SLICE_S = 0.02


class Startup:
    """Walks the phases up to `api`; `ready` is the server's."""

    def __init__(self, options: ServeOptions, behaviour: Behaviour, transcript: Transcript) -> None:
        self._options = options
        self._behaviour = behaviour
        self._transcript = transcript
        self._phase: Phase = "imports"
        self._processes: Processes | None = None
        self._terms = 0
        self._is_stuck = False

    def run(self) -> tuple[socket.socket, Processes]:
        """Return the bound socket, not listening yet, and the engine; or end the process."""
        self._enter("imports")
        if not self._behaviour.ignore_sigterm:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_terminate)
        self._enter("arguments")
        bound = _bind(self._options)
        self._enter("config")
        try:
            processes = self._start_engine()
            for phase in PHASES[PHASES.index("load") : PHASES.index("ready")]:
                self._enter(phase)
        except EngineDeadError:
            self._fail_start()
        return bound, processes

    def _start_engine(self) -> Processes:
        self._phase = "engine"
        processes = self._processes = Processes(self._behaviour, self._transcript.values)
        # The slowest import of all, beside the start of the children. A third of it would be
        # reading the CA certificates, and nothing here speaks TLS.
        os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
        from fake_vllm import server as _  # noqa: F401, PLC0415

        self._enter("engine")
        processes.start_worker()
        self._enter("worker")
        processes.start_strays()
        return processes

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        if self._behaviour.die_at == phase:
            self._transcript.play_rest()
            self._die()
        while self._behaviour.hang_at == phase or self._is_stuck:
            # Rate limits, silent hubs, a missing compiler: no line and no exit (seen: 240 s).
            if self._transcript.is_verbatim:
                self._transcript.play_rest()
            self._pause(1)
        self._transcript.play(phase, self._behaviour.delays_s.get(phase, 0), self._pause)

    def _pause(self, seconds: float) -> None:
        """Sleep, but notice the engine's death: a failed start exits 1."""
        end = time.monotonic() + seconds
        while True:
            if self._processes is not None and self._processes.is_engine_dead():
                raise EngineDeadError
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _SLICE_S))

    def _on_terminate(self, _signum: int, _frame: FrameType | None) -> None:
        """SIGTERM by phase: ends the main process only before there is an engine.

        While EngineCore imports it is swallowed and the start stays stuck, later it is swallowed
        and the server serves; the second one ends it, by SIGINT's status (all seen on 0.32).
        """
        self._terms += 1
        if self._phase in ("arguments", "config") or not self._behaviour.swallow_sigterm:
            self._interrupt()
        if self._terms > 1:
            time.sleep(self._behaviour.second_term_exit_s)
            self._interrupt()
        if self._phase == "engine":
            self._is_stuck = True

    def _interrupt(self) -> NoReturn:
        if self._processes is not None:
            self._processes.kill()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        message = "terminated"
        raise KeyboardInterrupt(message)

    def _die(self) -> NoReturn:
        if self._behaviour.exit_code < 0:
            # The kernel's OOM killer on main: nobody ends the children.
            os.kill(os.getpid(), -self._behaviour.exit_code)
        if self._processes is not None:
            self._processes.kill()
        sys.exit(self._behaviour.exit_code)

    def _fail_start(self) -> NoReturn:
        if self._processes is not None:
            self._processes.kill()
        message = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
        raise RuntimeError(message) from None


def _bind(options: ServeOptions) -> socket.socket:
    """Bind as vLLM does: no unlink of a stale file, no chmod, and no listen until ready."""
    if options.uds:
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(options.uds)
        return bound
    bound = socket.socket(socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((options.host, options.port))
    return bound
