"""What the daemon and `cahootsctl` agree on: names, paths, exit codes.

Standard library only and cheap to import, since `cahootsctl` loads it on every call.
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum

API_VERSION = "v1"
PROBLEM_TYPE_PREFIX = "urn:cahoots-vllm:problem:"
SYSTEM_SOCKET = "/run/cahoots-vllm/control.sock"
GROUP = "cahoots-vllm"


class ExitCode(IntEnum):
    """Exit status of `cahootsctl` (77 is EX_NOPERM, 78 EX_CONFIG of sysexits.h)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_READY = 3
    UNREACHABLE = 4
    TIMED_OUT = 5
    NOT_PERMITTED = 77
    BAD_SETTINGS = 78


class Phase(StrEnum):
    """The phase of the daemon's one job, as shown in status."""

    OFF = "off"
    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


class SwapStrategy(StrEnum):
    """How another worker takes the place of one that serves.

    `auto`: beside it where a GPU has room for both, else after it. `sleep`: after it, and the one
    that served is kept asleep for its return.
    """

    AUTO = "auto"
    OVERLAP = "overlap"
    SEQUENTIAL = "sequential"
    SLEEP = "sleep"


class OperationState(StrEnum):
    """The life of an operation."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_over(self) -> bool:
        """Whether the operation will not change any more."""
        return self is not OperationState.RUNNING


def user_runtime_dir(env: Mapping[str, str], uid: int) -> str:
    """Return the user-mode runtime directory (XDG base directory specification).

    Without `XDG_RUNTIME_DIR` (no login session: containers, `su`) a private directory
    below the temporary one stands in; its owner is checked by whoever makes it.
    """
    base = env.get("XDG_RUNTIME_DIR")
    if base:
        return f"{base}/cahoots-vllm"
    return f"{env.get('TMPDIR') or '/tmp'}/cahoots-vllm-{uid}"  # noqa: S108 (owner and mode are checked at creation)


def socket_candidates(env: Mapping[str, str], uid: int) -> tuple[str, ...]:
    """Return where `cahootsctl` looks for the daemon, first the most explicit."""
    explicit = env.get("CAHOOTS_VLLM_SOCKET")
    if explicit:
        return (explicit,)
    return (f"{user_runtime_dir(env, uid)}/control.sock", SYSTEM_SOCKET)
