"""The one error type of the project: what went wrong and what to do next.

Errors are raised with a `Kind`; only `api.problem` turns kinds into HTTP and only
`ctl` turns them into exit codes.
"""

from enum import StrEnum

from cahoots_vllm.core.wire import PROBLEM_TYPE_PREFIX


class Kind(StrEnum):
    """The closed set of problem kinds, also the last part of a problem's `type`."""

    BAD_REQUEST = "bad-request"
    NOT_FOUND = "not-found"
    NOT_PERMITTED = "not-permitted"
    BUSY = "busy"
    CONFLICT = "conflict"
    BAD_SETTINGS = "bad-settings"
    ENGINE_UNUSABLE = "engine-unusable"
    MODEL_UNUSABLE = "model-unusable"
    WORKER_FAILED = "worker-failed"
    WORKER_LOST = "worker-lost"
    ABORTED = "aborted"
    TIMED_OUT = "timed-out"
    UNREACHABLE = "unreachable"
    INTERNAL = "internal"


_TITLES = {
    Kind.BAD_REQUEST: "The request cannot be understood",
    Kind.NOT_FOUND: "No such thing",
    Kind.NOT_PERMITTED: "Not permitted",
    Kind.BUSY: "Busy",
    Kind.CONFLICT: "Not possible now",
    Kind.BAD_SETTINGS: "The settings cannot be used",
    Kind.ENGINE_UNUSABLE: "The engine cannot be used",
    Kind.MODEL_UNUSABLE: "The model cannot be served",
    Kind.WORKER_FAILED: "The worker has failed",
    Kind.WORKER_LOST: "The worker was lost",
    Kind.ABORTED: "Aborted",
    Kind.TIMED_OUT: "Timed out",
    Kind.UNREACHABLE: "Unreachable",
    Kind.INTERNAL: "A bug in cahoots-vllm",
}


class CahootsError(Exception):
    """Something a person can act on.

    `message` says "cannot X: reason", lower case, no full stop; `remedy` says what to do next;
    `more` is for programs, e.g. the operation that is in the way.
    """

    def __init__(self, kind: Kind, message: str, remedy: str, **more: str) -> None:
        """Keep the three parts apart; no caller has to parse a sentence."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.remedy = remedy
        self.more = more

    def __str__(self) -> str:
        """Join reason and remedy, for logs."""
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def problem_view(kind: Kind, detail: str, remedy: str, **more: str) -> dict[str, object]:
    """Return a problem's members (RFC 9457) without the HTTP status, which only the API knows."""
    return {
        "type": f"{PROBLEM_TYPE_PREFIX}{kind}",
        "title": _TITLES[kind],
        "detail": detail,
        "remedy": remedy,
        **more,
    }
