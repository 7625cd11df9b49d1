"""For every unit test: code of ours that blocks the event loop fails the test."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

# Short looks at what the kernel holds in memory, or at one small local file: cheaper than a thread.
_MAY_BLOCK = {
    "cahoots_vllm/host/process_tree.py": {"boot_id", "read_process", "read_all", "title"},
    "cahoots_vllm/host/process_info.py": {"read_environ"},
    "cahoots_vllm/host/children.py": {"own_children", "start"},
    "cahoots_vllm/ending.py": {"_succeeds"},  # getcwd
    "cahoots_vllm/host/cgroup.py": {
        *("kill", "is_populated", "pids", "make", "remove"),
        *("worker_cgroups", "standby_cgroups"),
    },
    "cahoots_vllm/worker/output.py": {"_read"},  # the pipe's end is non-blocking
    # Names and lines on the runtime directory's tmpfs.
    "cahoots_vllm/worker/running.py": {"spawn", "find_again", "forget"},
    "cahoots_vllm/host/line_file.py": {"append", "read", "remove"},
}


@pytest.fixture(autouse=True)
def _never_blocks() -> Iterator[BlockBuster]:
    with blockbuster_ctx("cahoots_vllm") as blockbuster:
        for file, functions in _MAY_BLOCK.items():
            for function in blockbuster.functions.values():
                function.can_block_in(file, functions)
        yield blockbuster
