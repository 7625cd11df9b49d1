"""EngineCore, its Worker and the strays: a script of the standard library, started per process.

Run as `python -I -S engine_process.py '{"role": ...}'`. One byte of a request pipe is one step of
the model: main writes it, EngineCore hands it on, Worker answers it to main. So a process that is
stopped or killed stops the tokens just as in the real engine, and nothing else notices at once.
"""

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

START_WORKER, STEP = b"w", b"t"
_CHUNK_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a process is started with."""

    role: str
    library: str  # where setproctitle is: -S leaves out site-packages
    request: int = -1
    reply: int = -1
    tracker: int = -1  # held open, as multiprocessing's children do
    engine_term_s: float = 0
    orphan_life_s: int = 120
    worker_death: str = ""  # the log line template of a worker's death
    strays_file: str = ""
    shared: str = ""  # a name in /dev/shm that both share memory by


def command(orders: dict[str, object]) -> list[str]:
    return [sys.executable, "-I", "-S", __file__, json.dumps(orders)]


def main(text: str) -> None:
    orders = Orders(**json.loads(text))
    sys.path.append(orders.library)
    if orders.role == "engine":
        _Engine(orders).run()
    elif orders.role == "worker":
        _run_worker(orders)
    else:
        _run_stray(orders)


class _Engine:
    """EngineCore: starts the worker, hands steps on, and outlives the main process."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._worker: subprocess.Popen[bytes] | None = None
        self._memory = _share(orders.shared)
        self._poll = select.poll()
        self._poll.register(orders.request, select.POLLIN)

    def run(self) -> None:
        _set_title("VLLM::EngineCore")
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGINT, self._on_terminate)
        os.write(self._orders.reply, b"engine\n")
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._orders.request:
                    self._on_request(os.read(descriptor, _CHUNK_BYTES))
                else:
                    self._on_worker_death()

    def _on_request(self, request: bytes) -> None:
        if not request:
            # Nothing ties the engine to main: orphaned, it lives on with its memory.
            self._poll.unregister(self._orders.request)
            signal.alarm(self._orders.orphan_life_s)
        elif request.startswith(START_WORKER):
            self._start_worker()
        elif self._worker is not None and self._worker.stdin is not None:
            try:
                os.write(self._worker.stdin.fileno(), request)
            except BrokenPipeError:
                return  # its pidfd says so too

    def _start_worker(self) -> None:
        orders: dict[str, object] = {
            "role": "worker",
            "library": self._orders.library,
            "reply": self._orders.reply,
            "shared": self._orders.shared,
        }
        self._worker = subprocess.Popen(
            command(orders), stdin=subprocess.PIPE, pass_fds=(self._orders.reply,)
        )
        self._poll.register(os.pidfd_open(self._worker.pid), select.POLLIN)

    def _on_worker_death(self) -> NoReturn:
        # Seen on 0.32: EngineCore tells of its worker's death, then ends itself.
        sys.stdout.write(self._orders.worker_death)
        sys.stdout.flush()
        self._unshare()
        sys.exit(1)

    def _on_terminate(self, _signum: int, _frame: FrameType | None) -> NoReturn:
        time.sleep(self._orders.engine_term_s)
        if self._worker is not None:
            self._worker.kill()
        self._unshare()
        os._exit(0)

    def _unshare(self) -> None:
        """Take the name away; who is killed cannot, and the memory stays."""
        if self._memory is not None:
            os.unlink(self._orders.shared)  # noqa: PTH108 (each start would pay for pathlib)


def _share(name: str) -> mmap.mmap | None:
    """Map the memory of that name, none without one."""
    if not name:
        return None
    handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(handle, mmap.PAGESIZE)
    memory = mmap.mmap(handle, mmap.PAGESIZE)
    os.close(handle)
    return memory


def _run_worker(orders: Orders) -> None:
    memory = _share(orders.shared)
    _set_title("VLLM::Worker")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(orders.reply, f"worker {os.getpid()}\n".encode())
    while steps := os.read(0, _CHUNK_BYTES):
        os.write(orders.reply, steps)
    # "Parent process exited, terminating worker queues"
    del memory


def _run_stray(orders: Orders) -> None:
    """Leave session and parent, and end by SIGKILL only, or of old age."""
    done, doing = os.pipe()
    if os.fork():
        os.close(doing)
        os.read(done, 1)  # the end of the pipe: whoever started us may count on the stray
        os._exit(0)
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _set_title("VLLM::Stray")
    signal.alarm(orders.orphan_life_s)
    handle = os.open(orders.strays_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"{os.getpid()}\n".encode())
    os.close(doing)
    while True:
        signal.pause()


def _set_title(title: str) -> None:
    # Imported late: found only once the library is on the path.
    from setproctitle import setproctitle  # noqa: PLC0415

    setproctitle(title)


if __name__ == "__main__":
    main(sys.argv[1])
