"""What an earlier daemon's worker has said last stands in no log with a secret in it."""

import asyncio
import os
from pathlib import Path

from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.core.settings import WorkerSettings
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.host.kernel_log import KernelLog
from cahoots_vllm.host.process_tree import boot_id
from cahoots_vllm.worker.context import WorkerContext
from cahoots_vllm.worker.leftovers import WorkerMark, mark_worker
from cahoots_vllm.worker.running import find_again

GIVEN, OURS = "hf_given_at_its_start", "hf_of_the_settings_now"
GONE = 1 << 22  # above every pid


def context(directory: Path, read_end: int) -> WorkerContext:
    return WorkerContext(
        Children(),
        directory,
        None,
        KernelLog(directory / "no-kmsg"),
        WorkerSettings(),
        FdStore({"CAHOOTS_VLLM_FDS": f"output-3={read_end}"}, lambda _message, _descriptors: None),
    )


async def last_words(directory: Path, mark: WorkerMark) -> list[str]:
    """Return the lines that are heard of a worker that has said both secrets."""
    read_end, write_end = os.pipe()
    os.write(write_end, f"401 for ?token={OURS}, {GIVEN}\n".encode())
    os.close(write_end)
    lines: list[str] = []
    found = find_again(context(directory, read_end), mark, [OURS], lines.append)
    assert found is not None
    async with asyncio.timeout(5):
        while not lines:  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)
    found.pump.close()
    return lines


async def test_of_a_dead_one_the_secrets_of_the_settings_are_masked(tmp_path: Path) -> None:
    mark = WorkerMark(3, GONE, 1, boot_id())
    assert await last_words(tmp_path, mark) == [f"401 for ?token=***, {GIVEN}"]


async def test_of_a_living_one_its_own_are_masked_as_well(tmp_path: Path) -> None:
    env = {WORKER_MARK: f"{tmp_path}#3", "HF_TOKEN": GIVEN}
    process = await asyncio.create_subprocess_exec("/bin/sleep", "60", env=env)
    mark = mark_worker(3, process.pid)
    assert mark is not None
    assert await last_words(tmp_path, mark) == ["401 for ?token=***, ***"]
    process.kill()
    await process.wait()
