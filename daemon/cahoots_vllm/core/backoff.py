"""How long to wait before the next try, and when trying is useless (DESIGN §5)."""

from dataclasses import dataclass

from cahoots_vllm.core.memory import DEFAULT_MEMORY_LIMITS, MemoryLimits
from cahoots_vllm.core.wire import SwapStrategy


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds."""

    first_s: float = 1.0
    longest_s: float = 60.0
    jitter: float = 0.10
    reset_after_ready_s: float = 300.0
    window_s: float = 600.0
    failures_in_window: int = 5
    # A start may take longer than window_s / failures_in_window: count those in a row too.
    starts_in_a_row: int = 5
    # A launch spec that was never ready, with a good one to go back to, gets one retry: its
    # users are without service until then.
    unproven_starts: int = 2
    # So many changes of sizes it gets: most are found by then, the next swap goes on from there.
    unproven_sizes: int = 5
    # A GPU's own fault (illegal access, ECC) may be gone after one restart, not after more.
    transient_failures: int = 2
    # So many restarts in a row, each with less host memory left, are a leak.
    shrinking_restarts: int = 3
    # How often to look whether a holder has given memory back.
    shortage_poll_s: float = 5.0
    memory: MemoryLimits = DEFAULT_MEMORY_LIMITS
    # Where a swap does not say it itself.
    swap: SwapStrategy = SwapStrategy.SEQUENTIAL


DEFAULT_LIMITS = Limits()


def delay_s(failures: int, jitter: float, limits: Limits = DEFAULT_LIMITS) -> float:
    """Return the wait after the n-th failure (n ≥ 1): min(60 s, 1 s·2ⁿ⁻¹) plus 0 to 10 %.

    `jitter` is a random number in [0, 1), given by the caller.
    """
    exponent = min(failures - 1, 32)  # 2**32 s is far above longest_s; keeps the float finite
    plain = min(limits.longest_s, limits.first_s * 2.0**exponent)
    return plain * (1.0 + limits.jitter * jitter)
