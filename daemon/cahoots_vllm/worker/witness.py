"""What the host saw of one worker: whom the kernel killed for memory, what the driver reported.

Read in a thread: it opens files of /proc and /sys.
"""

from collections.abc import Iterable
from contextlib import suppress

from cahoots_vllm.core.evidence import NO_EVIDENCE, HostEvidence
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.host_memory import read_host_memory
from cahoots_vllm.host.kernel_log import KernelLog, find_oom_kill, find_xid, has_initial_pids
from cahoots_vllm.host.oom import OomCounters

_DEADLINE_S = 2.0
_IN_CGROUP = "the kernel's OOM killer ended a process of the worker (its memory cgroup says so)"
_ON_HOST = "the kernel's OOM killer ended a process of this host meanwhile (/proc/vmstat says so)"


class Witness:
    """Remembers how things stood when the worker started. Blocking."""

    def __init__(self, main: int, kernel_log: KernelLog) -> None:
        """`main` is the worker's first process, just started."""
        self._kernel_log = kernel_log
        self._counters = OomCounters(main)
        self._pids = {main}
        self._recent: tuple[str, ...] = ()
        kernel_log.take()  # what was said before concerns others

    def note(self, pids: Iterable[int]) -> None:
        """Remember who was in the worker: the dead cannot be asked."""
        self._pids.update(pids)

    def forget_older(self) -> None:
        """Let go of what happened before the last call: the worker has outlived it."""
        self._counters.forget_older()
        self._recent = self._kernel_log.take()

    def testify(self) -> HostEvidence:
        """Return what the host says now."""
        messages = (*self._recent, *self._kernel_log.take())
        return HostEvidence(
            oom_kill=self._oom_kill(messages),
            xid=find_xid(messages, self._pids if has_initial_pids() else None),
            host_available_bytes=read_host_memory().available_bytes,
            has_kernels_word=self._kernel_log.is_readable or self._counters.are_readable,
        )

    def _oom_kill(self, messages: tuple[str, ...]) -> str | None:
        growth = self._counters.grown()
        # The kernel's log counts pids as the initial namespace does: elsewhere it names strangers.
        if self._kernel_log.is_readable and has_initial_pids():
            named = find_oom_kill(messages, self._pids)
            if named is not None or not growth.in_cgroup:
                return named
        if growth.in_cgroup:
            return _IN_CGROUP
        return _ON_HOST if growth.on_host else None


async def call_witness(main: int, kernel_log: KernelLog) -> Witness | None:
    """Return a witness of the worker that just started, None where the host shows nothing."""
    try:
        return await run_blocking(lambda: Witness(main, kernel_log), deadline_s=_DEADLINE_S)
    except (OSError, TimeoutError):
        return None  # the log alone must tell


async def refresh_witness(witness: Witness | None) -> None:
    """Let it forget what the worker has outlived; a host that does not answer is no matter."""
    if witness is not None:
        with suppress(OSError, TimeoutError):
            await run_blocking(witness.forget_older, deadline_s=_DEADLINE_S)


async def hear_witness(witness: Witness | None) -> HostEvidence:
    """Return what the witness says; nothing where there is none."""
    if witness is None:
        return NO_EVIDENCE
    try:
        return await run_blocking(witness.testify, deadline_s=_DEADLINE_S)
    except (OSError, TimeoutError):
        return NO_EVIDENCE
