"""What a daemon does with the worker that an earlier one has left."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cahoots_vllm.control.effects import Effects
from cahoots_vllm.control.handover import Left
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.core.backoff import DEFAULT_LIMITS
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import begin, read_sizes
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.core.settings import EngineInfo, Settings, WorkerSettings
from cahoots_vllm.core.state import Live, Plan, Stage, State
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.host.kernel_log import KernelLog
from cahoots_vllm.host.process_tree import boot_id
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.leftovers import WorkerMark

TOKEN = "hf_" + "s" * 30
LAUNCH = LaunchSpec(model="a", source="/a", engine="/engine")
SETTINGS = Settings(
    provider="local",
    configured_model="a",
    engine=EngineInfo("/engine", "1"),
    cache_dir="/cache",
    env_file="/.env",
    secret_env=(("HF_TOKEN", Secret(TOKEN)),),
)
GONE = WorkerMark(3, 1 << 22, 1, boot_id())  # above every pid


def parts(context: WorkerContext, logs: LogBuffer) -> Any:  # noqa: ANN401 (a stand-in for Parts)
    def ignore(*_: object) -> None:
        pass

    return SimpleNamespace(
        context=context,
        logs=logs,
        rotation=SimpleNamespace(lose=ignore, is_asked=ignore),
        standby=SimpleNamespace(failed=ignore),
        release=SimpleNamespace(before={}),
        fit=SimpleNamespace(line=ignore),
        worker_log=SimpleNamespace(line=ignore),
    )


async def test_last_words_of_a_worker_that_had_ended_have_no_secret(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, f"401 for ?token={TOKEN}\n".encode())
    os.close(write_end)
    store = FdStore({"CAHOOTS_VLLM_FDS": f"output-3={read_end}"}, lambda *_: None)
    kernel_log = KernelLog(tmp_path / "no-kmsg")
    context = WorkerContext(Children(), tmp_path, None, kernel_log, WorkerSettings(), store)
    logs = LogBuffer()
    effects = Effects(parts(context, logs), lambda _: None, lambda *_: None, lambda _: None)
    memory = begin(read_sizes(LAUNCH), None, DEFAULT_LIMITS.memory, 0.0)
    live = Live(3, Plan(LAUNCH, LAUNCH, memory), Stage.READY, 0.0)
    left = Left(1, boot_id(), State(live=live), was_local=True, mark=GONE)
    assert effects.find_again(left, GONE, SETTINGS)
    worker = effects.worker(3)
    assert worker is not None
    await worker.stop(at_once=True)
    assert [entry.text for entry in logs.last(5)] == ["401 for ?token=***"]
