"""The daemon's end: it comes by itself, also where a process of the worker cannot be killed."""

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

from cahoots_vllm import ending
from cahoots_vllm.control import effects, supervisor
from cahoots_vllm.control.event_hub import EventHub
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.handover import Handover
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.shared_hub import SharedHub
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.control.worker_log import WorkerLog
from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.core.memory import Memory, Sizes
from cahoots_vllm.core.settings import (
    EngineInfo,
    GatewaySettings,
    Settings,
    WorkerSettings,
    make_launch_spec,
)
from cahoots_vllm.core.state import Live, Plan, Stage, State
from cahoots_vllm.ending import Ending, Exit
from cahoots_vllm.host import process_tree
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.host.gpu import Gpu, NvmlReader
from cahoots_vllm.host.hub import ProcessHub
from cahoots_vllm.host.notify import Notifier
from cahoots_vllm.host.paths import user_paths
from cahoots_vllm.supervision import Ground, build_supervisor
from cahoots_vllm.worker.leftovers import mark_worker


class Manager(Notifier):
    """A service manager that counts how often it was asked for more time."""

    def __init__(self) -> None:
        self.extended = 0

    @property
    def is_heard(self) -> bool:
        return False

    def stopping(self) -> None:
        """It need not be told."""

    def extend_timeout(self, seconds: float) -> None:
        assert seconds > 0
        self.extended += 1


@dataclass
class Daemon:
    """One that goes on with the worker of an earlier one."""

    supervisor: Supervisor
    exit: Exit
    manager: Manager
    worker: "subprocess.Popen[bytes]"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    env = {WORKER_MARK: f"{tmp_path}/cahoots-vllm#1"}
    with subprocess.Popen(["/bin/sleep", "60"], env=env) as process:
        environ = Path(f"/proc/{process.pid}/environ")
        while WORKER_MARK.encode() not in environ.read_bytes():
            time.sleep(0.01)
        yield process
        process.kill()


@pytest.fixture
def ground(tmp_path: Path, _never_blocks: BlockBuster) -> Ground:
    _never_blocks.deactivate()  # each step writes a small file
    paths = user_paths(None, {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)})
    paths.runtime_dir.mkdir()
    settings = Settings(
        "local", "a", EngineInfo("/e", "1"), str(tmp_path), str(tmp_path / ".env"),
        gateway=GatewaySettings(drain_timeout_s=0.1), worker=WorkerSettings(stop_grace_s=0.1),
    )  # fmt: skip
    children, gpus = Children(), NvmlReader()
    return Ground(
        settings=settings,
        paths=paths,
        state_file=StateFile(paths.state_file),
        handover=Handover(paths.runtime_dir / "handover.json"),
        store=FdStore({}, lambda *_: None),
        cgroup=None,
        children=children,
        rotation=Rotation(),
        hub=SharedHub(ProcessHub(children)),
        gpus=gpus,
        gate=Gate(gpus, f"{paths.runtime_dir}#"),
        logs=LogBuffer(),
        worker_log=WorkerLog(None),
        events=EventHub(),
    )


def planned(ground: Ground) -> State:
    """Return the state in which the model of the settings has passed preflight."""
    goal = make_launch_spec(ground.settings, "a")
    return State(goal=goal, plan=Plan(goal, goal, Memory(Sizes(900), Sizes(900))))


@pytest.fixture
def daemon(ground: Ground, worker: "subprocess.Popen[bytes]") -> Daemon:
    state, mark = planned(ground), mark_worker(1, worker.pid)
    assert state.plan is not None
    assert mark is not None
    state = replace(state, live=Live(1, state.plan, Stage.READY, 0.0), generation=1)
    ground.handover.started(mark, state, ground.settings, {})
    output, write_end = os.pipe()
    os.close(write_end)
    store = FdStore({"CAHOOTS_VLLM_FDS": f"output-1={output}"}, lambda *_: None)
    made, _ = build_supervisor(replace(ground, store=store), keeps_override=True)
    manager = Manager()
    gateway: Any = None  # of no use to a stop
    leaver = Exit(made, gateway, ground.rotation, manager, ground.children)
    return Daemon(made, leaver, manager, worker)


class Loading:
    """A GPU that somebody else loads more and more on: it is looked at for ten seconds."""

    def __init__(self) -> None:
        self.looks, self._used = 0, 8 << 30

    async def read(self) -> tuple[Gpu, ...]:
        self.looks += 1
        self._used += 128 << 20
        return (Gpu(0, "A", 24 << 30, self._used, None, None, (), "GPU-0"),)


async def test_stop_ends_the_look_at_the_memory(ground: Ground) -> None:
    gpus = Loading()
    made, _ = build_supervisor(replace(ground, gate=Gate(gpus, "#")), keeps_override=True)
    made.state = planned(ground)
    running = asyncio.create_task(made.run())
    while not gpus.looks:  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0.01)
    assert await made.shut_down() == []
    looks = gpus.looks
    await asyncio.sleep(0.5)
    assert gpus.looks == looks
    running.cancel()
    await asyncio.wait((running,))


async def test_stop_leaves_nothing(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert daemon.supervisor.find_worker()
    running = asyncio.create_task(daemon.supervisor.run())
    asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
    assert await daemon.exit.wait() is Ending.STOPPED
    running.cancel()
    await asyncio.wait((running,))
    assert process_tree.read_process(daemon.worker.pid) is None
    assert "no process of the worker is left" in caplog.text


async def test_process_that_cannot_be_killed_does_not_keep_the_daemon_from_ending(
    daemon: Daemon, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(process_tree, "kill", lambda *_: None)
    monkeypatch.setattr(supervisor, "_KILLED_WITHIN_S", 0.3)
    monkeypatch.setattr(effects, "_ABANDON_S", 0.3)
    monkeypatch.setattr(ending, "_EXTEND_EVERY_S", 0.02)
    os.kill(daemon.worker.pid, signal.SIGSTOP)  # so that no SIGTERM ends it
    assert daemon.supervisor.find_worker()
    running = asyncio.create_task(daemon.supervisor.run())
    asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await daemon.exit.wait() is Ending.STOPPED
        extended = daemon.manager.extended
        running.cancel()
        await asyncio.wait((running,))
    assert daemon.worker.poll() is None
    (error,) = (row.getMessage() for row in caplog.records if row.levelname == "ERROR")
    assert str(daemon.worker.pid) in error
    assert "no process of the worker is left" not in caplog.text
    assert extended > 1
    assert daemon.manager.extended == extended
