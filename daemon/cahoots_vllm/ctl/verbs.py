"""What each verb does: ask the daemon, show the answer, return the exit status."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import ExitCode, OperationState, Phase
from cahoots_vllm.ctl.client import Client
from cahoots_vllm.ctl.config import change_lines, config_table, key_lines
from cahoots_vllm.ctl.console import Console
from cahoots_vllm.ctl.follow import follow_operation, local_now, wait_until_ready
from cahoots_vllm.ctl.memory import memory_rows
from cahoots_vllm.ctl.render import status_lines
from cahoots_vllm.ctl.replace import replace_daemon
from cahoots_vllm.ctl.sentences import event_line, log_line, operation_lines, operation_table
from cahoots_vllm.ctl.text import Json, Line, layout, quote

_KEY_BYTES = 32
_SILENCE_S = 45.0  # three keep-alive comments of the event stream missed


class Context(NamedTuple):
    """What every verb works with."""

    client: Client
    console: Console
    args: argparse.Namespace


def status(ctx: Context) -> int:
    """Show the snapshot; done only when the worker is ready."""
    document = ctx.client.call("GET", "/v1/status")
    ctx.console.result(document, status_lines(document, local_now(), ctx.console.width))
    return ExitCode.DONE if document.get("state") == Phase.READY else ExitCode.NOT_READY


def swap_model(ctx: Context) -> int:
    """Serve another model, or again the one of `.env`."""
    body: Json = {"reset": True} if ctx.args.reset else {"model": ctx.args.model}
    if ctx.args.save:
        body["save"] = True
    if ctx.args.strategy:
        body["strategy"] = ctx.args.strategy
    return _change(ctx, "swap-model", body)


def start(ctx: Context) -> int:
    """Start the worker."""
    return _change(ctx, "start", {})


def stop(ctx: Context) -> int:
    """Stop the worker; the daemon stays."""
    return _change(ctx, "stop", {})


def restart(ctx: Context) -> int:
    """Stop and start the worker."""
    return _change(ctx, "restart", {})


def reload(ctx: Context) -> int:
    """Read the settings again."""
    return _change(ctx, "reload", {})


def daemon_reexec(ctx: Context) -> int:
    """Let the daemon become the one that is installed now; the worker goes on serving."""
    return replace_daemon(ctx.client, ctx.console)


def _change(ctx: Context, kind: str, body: Json) -> int:
    operation = ctx.client.call("POST", f"/v1/{kind}", body)
    if ctx.args.no_wait:
        ctx.console.result(operation, [Line(str(operation.get("id")))])
        return ExitCode.DONE
    return follow_operation(ctx.client, ctx.console, operation, wanted=OperationState.DONE)


def wait(ctx: Context) -> int:
    """Wait until the worker is ready."""
    return wait_until_ready(
        ctx.client,
        ctx.console,
        timeout_s=ctx.args.timeout,
        shows_progress=not ctx.args.no_progress,
    )


def operations_list(ctx: Context) -> int:
    """List what was asked of this daemon."""
    document = ctx.client.call("GET", "/v1/operations")
    ctx.console.result(document, operation_table(document.get("operations") or [], local_now()))
    return ExitCode.DONE


def operations_show(ctx: Context) -> int:
    """Show one operation."""
    operation = ctx.client.call("GET", f"/v1/operations/{ctx.args.id}")
    ctx.console.result(operation, operation_lines(operation, local_now(), ctx.console.width))
    return ExitCode.DONE


def operations_wait(ctx: Context) -> int:
    """Wait for an operation as the verb that began it would have."""
    operation = ctx.client.call("GET", f"/v1/operations/{ctx.args.id}")
    return follow_operation(ctx.client, ctx.console, operation, wanted=OperationState.DONE)


def operations_abort(ctx: Context) -> int:
    """Abort an operation and wait until it has ended."""
    path = f"/v1/operations/{ctx.args.id}"
    ctx.client.call("DELETE", path)
    operation = ctx.client.call("GET", path)
    return follow_operation(ctx.client, ctx.console, operation, wanted=OperationState.ABORTED)


def config_show(ctx: Context) -> int:
    """Show every setting, its value and where it comes from."""
    document = ctx.client.call("GET", "/v1/config")
    ctx.console.result(document, config_table(document.get("config") or []))
    return ExitCode.DONE


def config_diff(ctx: Context) -> int:
    """Show what a reload would change; nothing is changed."""
    document = ctx.client.call("GET", "/v1/config/diff")
    ctx.console.result(document, change_lines(document.get("changes") or []))
    return ExitCode.DONE


def config_check(ctx: Context) -> int:
    """Validate the settings, or just some files, without a daemon."""
    # The daemon's own reading of them, in a process of its own: it needs pydantic.
    mode = ["--system"] if ctx.args.system else []
    asks = ["--json"] if ctx.args.json else []
    # A file may have an option's name.
    files = [f"./{name}" if name.startswith("-") else name for name in ctx.args.files]
    command = [sys.executable, "-m", "cahoots_vllm.main", *mode, *asks, "--check", *files]
    return subprocess.run(command, check=False).returncode


def config_key(ctx: Context) -> int:
    """Make a key for a client of the gateway; needs no daemon, and keeps nothing."""
    import secrets  # noqa: PLC0415 (no other verb needs it)

    from cahoots_vllm.core.api_keys import PREFIX, digest_of  # noqa: PLC0415 (as above)

    key = f"cv-{secrets.token_urlsafe(_KEY_BYTES)}"
    document = {"key": key, "hash": f"{PREFIX}{digest_of(key.encode())}"}
    ctx.console.result(document, key_lines(document))
    return ExitCode.DONE


def diagnose(ctx: Context) -> int:
    """Say why a worker died by its log alone; needs no daemon."""
    # Loaded here: the table of wordings would cost every other verb 20 ms.
    from cahoots_vllm.ctl import diagnose as offline  # noqa: PLC0415

    lines = offline.read_log(ctx.args.file)
    view = offline.diagnosis_view(offline.find(lines, ctx.args.exit_code, ctx.args.signal))
    ctx.console.result(view, layout(offline.diagnosis_rows(view), ctx.console.width))
    return ExitCode.DONE


def memory_show(ctx: Context) -> int:
    """Show what was learned about memory."""
    document = ctx.client.call("GET", "/v1/memory")
    rows = memory_rows(document.get("memory") or [], local_now())
    ctx.console.result(document, layout(rows, ctx.console.width))
    return ExitCode.DONE


def memory_reset(ctx: Context) -> int:
    """Forget it, for one model or for all."""
    model = ctx.args.model
    path = f"/v1/memory?model={quote(model)}" if model else "/v1/memory"
    document = ctx.client.call("DELETE", path)
    count = document.get("forgotten", 0)
    about = f"about {model}" if model else "about any model"
    said = f"nothing was known {about}"
    if count:
        said = f"{count} forgotten; the next start begins with what is asked for"
    ctx.console.result(document, [Line(said)])
    return ExitCode.DONE


def logs(ctx: Context) -> int:
    """Show log entries; with --follow until interrupted."""
    follow = ctx.args.follow
    path = f"/v1/logs?n={ctx.args.lines}&follow={int(follow)}"
    # A worker with nothing to say is silent for hours, and the stream has no keep-alive.
    for line in ctx.client.stream(path, silence_s=None if follow else _SILENCE_S):
        if line:
            entry = _object(line)
            ctx.console.record(entry, log_line(entry, local_now()))
    if follow:
        raise _ended()
    return ExitCode.DONE


def events(ctx: Context) -> int:
    """Show events until interrupted."""
    for event in server_sent_events(ctx.client.stream("/v1/events", silence_s=_SILENCE_S)):
        line = event_line(event["event"], event["data"], local_now())
        ctx.console.record(event, line)
    raise _ended()


def server_sent_events(lines: Iterable[str]) -> Iterator[Json]:
    """Parse a text/event-stream (WHATWG HTML, section 9.2) whose data is JSON.

    Yields {"id", "event", "data"}; comments, unknown fields and events without data are dropped.
    """
    event_id: str | None = None
    name, data = "message", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "" if not line and data:
                yield {"id": event_id, "event": name, "data": _object("\n".join(data))}
                name, data = "message", []
            case "" if not line:
                name = "message"
            case "event":
                name = value
            case "data":
                data.append(value)
            case "id":
                event_id = value
            case _:
                continue


def _object(text: str) -> Json:
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise _garbled() from error
    if not isinstance(entry, dict):
        raise _garbled()
    return entry


def _garbled() -> CahootsError:
    return CahootsError(
        Kind.INTERNAL,
        "cannot understand the daemon's stream: an entry is not a JSON object",
        "compare `cahootsctl --version` with the version in `cahootsctl status --json`",
    )


def _ended() -> CahootsError:
    return CahootsError(
        Kind.UNREACHABLE,
        "cannot go on: the daemon ended the stream",
        "see `systemctl status cahoots-vllm`",
    )
