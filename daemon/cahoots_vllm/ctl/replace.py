"""`cahootsctl daemon-reexec`: has the daemon replaced, and waits for the new one."""

import time

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import ExitCode
from cahoots_vllm.ctl.client import Client
from cahoots_vllm.ctl.console import Console
from cahoots_vllm.ctl.text import Json, Line, Tone

# Requests under way are finished first; the longest `drain_timeout_s` is an hour.
_PATIENCE_S = 3660.0
_EVERY_S = 0.1
_SILENCE_S = 60.0  # the new one is there within two seconds


def replace_daemon(client: Client, console: Console) -> int:
    """Ask for it and wait until another daemon answers. Raises CahootsError."""
    before = client.call("GET", "/v1/status")
    client.call("POST", "/v1/daemon-reexec", {})
    started = answered = time.monotonic()
    while time.monotonic() - started < _PATIENCE_S:
        try:
            now = client.call("GET", "/v1/status")
            answered = time.monotonic()
        except CahootsError as error:
            is_gone = time.monotonic() - answered >= _SILENCE_S
            if error.kind is not Kind.UNREACHABLE or is_gone:
                raise
            now = before  # between the two: the connection was cut
        if _since(now) != _since(before):
            console.result(now, [Line(_sentence(before, now), Tone.GOOD)])
            return ExitCode.DONE
        console.progress("requests under way are finished first", time.monotonic() - started)
        time.sleep(_EVERY_S)
    raise CahootsError(
        Kind.TIMED_OUT,
        f"the daemon was not replaced within {_PATIENCE_S:.0f} s",
        "see `journalctl -u cahoots-vllm`, or restart it: systemctl restart cahoots-vllm",
    )


def _since(status: Json) -> object:
    return (status.get("daemon") or {}).get("since")


def _sentence(before: Json, now: Json) -> str:
    old, new = before.get("version"), now.get("version")
    said = f"the daemon is version {new}" + (f", was {old}" if old != new else ", anew")
    worker = now.get("worker") or {}
    if worker.get("pid") is None:
        return said
    was = (before.get("worker") or {}).get("pid")
    went_on = "went on" if worker["pid"] == was else "is another one"
    return f"{said}; the worker (pid {worker['pid']}) {went_on}"
