import errno
import os
from pathlib import Path

import pytest

from cahoots_vllm.core.diagnosis import Cause
from cahoots_vllm.core.events import Lost, Ready
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import WorkerSettings
from cahoots_vllm.host.children import Child, Children, Command
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.host.kernel_log import KernelLog
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.process import Reports, Worker
from cahoots_vllm.worker.standby import Standby


class Refusing(Children):
    """A host that has no process to give just now."""

    def start(self, command: Command) -> Child:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), command.argv[0])


def worker(children: Children, directory: Path, said: list[Ready | Lost]) -> Worker:
    context = WorkerContext(
        children,
        directory,
        None,
        KernelLog(directory / "no-kmsg"),
        WorkerSettings(),
        FdStore({}, lambda _message, _descriptors: None),
    )
    reports = Reports(
        event=said.append,
        suspect=lambda _: None,
        progress=lambda _: None,
        line=lambda _: None,
        stuck=lambda _: None,
        plain=lambda _: None,
        is_asked=lambda: False,
    )
    launch = LaunchSpec(model="a", source="/a", engine=str(directory / "engine"))
    return Worker(1, launch, context, reports)


def lowest_free_descriptor() -> int:
    descriptor = os.dup(0)
    os.close(descriptor)
    return descriptor


@pytest.mark.parametrize(
    ("children", "cause", "is_retryable"),
    [
        (Children(), Cause.MISSING_DEPENDENCY, False),
        (Refusing(), Cause.ENGINE_DEAD_OTHER, True),
    ],
    ids=["no engine", "no process"],
)
async def test_worker_that_cannot_be_started_is_lost_with_the_reason(
    children: Children, cause: Cause, *, is_retryable: bool, tmp_path: Path
) -> None:
    said: list[Ready | Lost] = []
    free = lowest_free_descriptor()
    never = worker(children, tmp_path, said)

    await never.start({"PATH": "/usr/bin"}, {}, None)
    await never.watch()
    await never.stop(at_once=True)

    (lost,) = said
    assert isinstance(lost, Lost)
    assert (lost.diagnosis.cause, lost.diagnosis.is_retryable) == (cause, is_retryable)
    assert "engine/bin/vllm" in lost.diagnosis.evidence
    assert lowest_free_descriptor() == free


async def test_standby_of_a_start_that_fails_before_it_is_ended(tmp_path: Path) -> None:
    class Waiting(Standby):
        has_ended = False

        def __init__(self) -> None:
            """It has no process."""

        async def become(self, command: Command) -> Child:
            raise AssertionError(command)

        async def end(self) -> None:
            self.has_ended = True

    said: list[Ready | Lost] = []
    (tmp_path / "worker-1.sock").mkdir()  # no socket that can be taken away
    standby = Waiting()
    starting = worker(Children(), tmp_path, said)
    await starting.start({}, {}, standby)
    await starting.watch()
    assert isinstance(said[0], Lost)
    assert standby.has_ended
