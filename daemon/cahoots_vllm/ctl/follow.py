"""Waits for an operation or for a ready worker, showing progress.

Both ask again and again for the present state: an answer missed or a daemon restarted in
between loses nothing, which a stream of events could not promise.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from signal import SIGINT

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import ExitCode, OperationState, Phase
from cahoots_vllm.ctl.client import Client
from cahoots_vllm.ctl.console import Console
from cahoots_vllm.ctl.render import state_text, status_lines
from cahoots_vllm.ctl.sentences import (
    detached_lines,
    done_lines,
    look_rows,
    operation_name,
    progress_text,
    serving_sentence,
    unfinished_lines,
)
from cahoots_vllm.ctl.text import Json, Line, Tone, duration, join, layout

INTERRUPTED = 128 + SIGINT  # what a shell reports for a program that Ctrl-C ended
_ROUND_S = 1
_STATUS_EVERY_S = 0.5


def local_now() -> datetime:
    """Return the present time in this machine's time zone."""
    return datetime.now(UTC).astimezone()


def follow_operation(
    client: Client, console: Console, operation: Json, *, wanted: OperationState
) -> int:
    """Wait until the operation is over; Ctrl-C leaves it running.

    Done means that it ended as `wanted`: an abort wants `aborted`.
    """
    started, told = time.monotonic(), None
    try:
        while operation.get("state") == OperationState.RUNNING:
            console.progress(progress_text(operation), time.monotonic() - started)
            operation = _next_state(client, operation)
            told = _tell_look(console, operation, told)
        status = {} if operation.get("state") == wanted else client.call("GET", "/v1/status")
    except KeyboardInterrupt:
        console.result(operation, [])
        console.note(detached_lines(operation))
        return INTERRUPTED
    return _conclude(console, operation, status, wanted)


def _tell_look(console: Console, operation: Json, told: object) -> object:
    """Say what the daemon has seen of the model, as soon as it is known; return what is told."""
    looked = operation.get("looked") or []
    if looked and looked != told:
        console.note(layout(look_rows(looked), console.width))
    return looked


def _next_state(client: Client, operation: Json) -> Json:
    number = operation.get("id")
    try:
        return client.call("GET", f"/v1/operations/{number}/wait?timeout={_ROUND_S}")
    except CahootsError as error:
        # A daemon that no longer knows the operation was restarted, and the operation went with it.
        if error.kind not in {Kind.UNREACHABLE, Kind.NOT_FOUND}:
            raise
        what = f"{operation_name(operation)} (operation {number})"
        raise CahootsError(
            Kind.UNREACHABLE,
            f"cannot say how {what} ended: the daemon went away",
            "`cahootsctl status` shows what is served now, `journalctl -u cahoots-vllm` why",
        ) from error


def _conclude(console: Console, operation: Json, status: Json, wanted: OperationState) -> int:
    state = operation.get("state")
    if state == wanted == OperationState.DONE:
        console.result(operation, done_lines(operation))
        return ExitCode.DONE
    if state == wanted:
        console.result(operation, [Line(f"{operation_name(operation)}: {state}")])
        return ExitCode.DONE
    console.result(operation, [])
    console.note(unfinished_lines(operation, status, local_now(), console.width))
    return ExitCode.FAILED


def wait_until_ready(
    client: Client, console: Console, *, timeout_s: float | None, shows_progress: bool
) -> int:
    """Wait for a ready worker; gives up when none is wanted or a person must act."""
    started = time.monotonic()
    while True:
        status = client.call("GET", "/v1/status")
        elapsed_s = time.monotonic() - started
        conclusion = _CONCLUSIONS.get(str(status.get("state")))
        if conclusion is None and timeout_s is not None and elapsed_s >= timeout_s:
            conclusion = _timed_out
        if conclusion is not None:
            return conclusion(console, status, elapsed_s)
        if shows_progress:
            console.progress(_progress(status), elapsed_s)
        left_s = _STATUS_EVERY_S if timeout_s is None else timeout_s - elapsed_s
        time.sleep(min(_STATUS_EVERY_S, left_s))


def _progress(status: Json) -> str:
    if status.get("state") == Phase.BACKOFF:
        # The countdown changes with every look; what it waits for does not.
        return f"backoff: {(status.get('last_failure') or {}).get('cause', 'tries again')}"
    return state_text(status, local_now())


def _ready(console: Console, status: Json, elapsed_s: float) -> int:
    said = join(serving_sentence(status, local_now()), f"after {duration(elapsed_s)}")
    console.result(status, [Line(said, Tone.GOOD)])
    return ExitCode.DONE


def _off(console: Console, status: Json, _elapsed_s: float) -> int:
    console.result(status, [])
    console.note([Line(state_text(status, local_now()), Tone.WARNING)])
    return ExitCode.NOT_READY


def _failed(console: Console, status: Json, _elapsed_s: float) -> int:
    console.result(status, [])
    console.note(status_lines(status, local_now(), console.width))
    return ExitCode.FAILED


def _timed_out(console: Console, status: Json, elapsed_s: float) -> int:
    console.result(status, [])
    said = f"not ready after {duration(elapsed_s)}: {_progress(status)}"
    console.note([Line(said, Tone.BAD)])
    return ExitCode.TIMED_OUT


_CONCLUSIONS: dict[str, Callable[[Console, Json, float], int]] = {
    Phase.READY: _ready,
    Phase.OFF: _off,
    Phase.FAILED: _failed,
}
