"""Main's side of its children: EngineCore, the Worker below it, the tracker, the strays."""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import setproctitle

from fake_vllm import engine_process, transcript
from fake_vllm.script import LOGS, VARIABLE, Behaviour, strays_file

_CHUNK_BYTES = 4096
_LIBRARY = str(Path(setproctitle.__file__).parents[1])


class EngineDeadError(Exception):
    """The engine died; the message is vLLM's own."""

    def __init__(self) -> None:
        super().__init__(
            "EngineCore encountered an issue. See stack trace (above) for the root cause."
        )


class Processes:
    """The children of one `vllm serve`, all in its own session and process group."""

    def __init__(self, behaviour: Behaviour, values: dict[str, object]) -> None:
        self._behaviour = behaviour
        self._values = values
        request_read, self.request = os.pipe()
        self.reply, reply_write = os.pipe()
        tracker = self._start_tracker()
        self._engine = self._start_engine(request_read, reply_write, tracker)
        values["engine"] = self._engine.pid
        self.worker_pid: int | None = None
        for descriptor in (request_read, reply_write):
            os.close(descriptor)

    @property
    def engine_pid(self) -> int:
        return self._engine.pid

    def start_worker(self) -> None:
        """Have EngineCore start its worker; return once both have their titles."""
        os.write(self.request, engine_process.START_WORKER)
        hello = b""
        while hello.count(b"\n") < 2:  # one line each
            received = os.read(self.reply, _CHUNK_BYTES)
            if not received:
                raise EngineDeadError
            hello += received
        self.worker_pid = int(hello.split()[-1])
        self._values["worker"] = self.worker_pid

    def is_engine_dead(self) -> bool:
        return self._engine.poll() is not None

    def kill(self) -> None:
        """End engine and worker as vLLM does: a SIGTERM nobody waits for, then SIGKILL."""
        self._engine.terminate()
        self._engine.kill()
        self._engine.wait()
        if self.worker_pid is not None:
            _kill(self.worker_pid)

    def kill_engine(self) -> None:
        """Crash: the worker ends itself when it sees its parent gone."""
        self._engine.kill()

    def kill_worker(self) -> None:
        """Crash: EngineCore tells and follows."""
        if self.worker_pid is not None:
            _kill(self.worker_pid)

    def start_strays(self) -> None:
        """Start what killpg does not reach; `hold_pipe` keeps our output open as well."""
        for _ in range(self._behaviour.setsid_grandchildren):
            self._start_stray(subprocess.DEVNULL)
        if self._behaviour.hold_pipe:
            self._start_stray(None)

    def _start_stray(self, output: int | None) -> None:
        orders: dict[str, object] = {
            "role": "stray",
            "library": _LIBRARY,
            "orphan_life_s": self._behaviour.orphan_life_s,
            "strays_file": str(strays_file(Path(os.environ[VARIABLE]))),
        }
        subprocess.run(
            engine_process.command(orders),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )

    def _start_engine(self, request: int, reply: int, tracker: int) -> subprocess.Popen[bytes]:
        # With a real log to play, the children have nothing of their own to say.
        is_real = self._behaviour.log is not None and not self._behaviour.log.startswith("gpu/")
        death = "" if is_real else (LOGS / "worker_death.log").read_text("utf-8")
        orders: dict[str, object] = {
            "role": "engine",
            "library": _LIBRARY,
            "request": request,
            "reply": reply,
            "tracker": tracker,
            "engine_term_s": self._behaviour.engine_term_s,
            "orphan_life_s": self._behaviour.orphan_life_s,
            "worker_death": transcript.fill(death, self._values),
            "shared": _shared_name() if self._behaviour.shares_memory else "",
        }
        return subprocess.Popen(
            engine_process.command(orders),
            stdin=subprocess.DEVNULL,
            pass_fds=(request, reply, tracker),
        )

    def _start_tracker(self) -> int:
        """Start multiprocessing's own resource tracker: it ignores SIGTERM, ends on EOF."""
        read, write = os.pipe()
        code = f"from multiprocessing.resource_tracker import main;main({read})"
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.DEVNULL, pass_fds=(read,)
        )
        os.close(read)
        return write


def _shared_name() -> str:
    """Return a name as multiprocessing.shared_memory makes them."""
    return f"/dev/shm/psm_{secrets.token_hex(4)}"  # noqa: S108 (where such names are)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
