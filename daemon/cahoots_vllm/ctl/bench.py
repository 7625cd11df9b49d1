"""`cahootsctl bench`: measure what is served, compare it, keep the result."""

import os
import time
from dataclasses import asdict
from random import SystemRandom
from typing import Any
from urllib.parse import urlsplit

from cahoots_vllm.core.bench.compare import comparable
from cahoots_vllm.core.bench.figures import Load
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import ExitCode
from cahoots_vllm.ctl.bench_load import Route
from cahoots_vllm.ctl.bench_prompts import Asker, PromptMaker
from cahoots_vllm.ctl.bench_run import Session
from cahoots_vllm.ctl.bench_view import history_lines, plot_lines, result_lines
from cahoots_vllm.ctl.follow import INTERRUPTED, local_now
from cahoots_vllm.ctl.text import Json, Line, Tone
from cahoots_vllm.ctl.verbs import Context

_SHARED = "others' requests ran meanwhile: the figures are shared with them, and compare with none"
_NO_SOCKET = "not measured directly: only root and the daemon's user may open the worker's socket"
_PROMPT_ROOM = 16  # tokens that a long prompt leaves free of the context
_REMEDIES = {
    "off": "start it: `cahootsctl start`",
    "failed": "`cahootsctl status` says why it failed",
}


def bench(ctx: Context) -> int:
    """Measure the served model, or show what was measured before."""
    view = ctx.client.call("GET", "/v1/bench")
    records = view.get("records") or []
    if ctx.args.history:
        lines = history_lines(records, local_now(), ctx.console.width, **_drawing(ctx))
        ctx.console.result({"records": records}, lines)
        return ExitCode.DONE
    status = ctx.client.call("GET", "/v1/status")
    worker = _ready_worker(view, status)
    _check_model(ctx.args.model, worker, status)
    gateway = gateway_route(status)
    asker = Asker(gateway)
    try:
        load = _load(ctx, asker, worker["serving"])
        return _measure(ctx, view | {"status": status}, load, gateway, asker)
    finally:
        asker.close()


def _drawing(ctx: Context) -> dict[str, bool]:
    return {"draws_blocks": ctx.console.draws_blocks}


def _ready_worker(view: Json, status: Json) -> Json:
    worker: Json | None = view.get("worker")
    if worker is None:
        state = str(status.get("state"))
        raise CahootsError(
            Kind.CONFLICT,
            f"cannot measure: no worker is ready, the daemon's state is {state}",
            _REMEDIES.get(state, "wait for it, `cahootsctl wait`, then measure"),
        )
    return worker


def _check_model(wanted: str | None, worker: Json, status: Json) -> None:
    served = worker["serving"]
    names = (served, worker["target"]["model"], (status.get("model") or {}).get("configured"))
    if wanted is not None and wanted not in names:
        raise CahootsError(
            Kind.CONFLICT,
            f"cannot measure {wanted}: {served} is served",
            f"serve it first: `cahootsctl swap-model {wanted}`",
        )


def gateway_route(status: Json) -> Route:
    """Return the way through the gateway. Raises CahootsError (CONFLICT) where none is by TCP."""
    urls = [str(url) for url in status.get("endpoint") or () if str(url).startswith("http://")]
    if not urls:
        raise CahootsError(
            Kind.CONFLICT,
            "cannot measure: the gateway listens at no TCP address",
            'add one to gateway.listen in cahoots-vllm.toml, such as "127.0.0.1"',
        )
    url = urlsplit(urls[0])
    address = (url.hostname or "127.0.0.1", url.port or 80)
    return Route("gateway", address, url.path.rstrip("/"), os.environ.get("OPENAI_API_KEY"))


def _load(ctx: Context, asker: Asker, model: str) -> Load:
    """Return what to send. Raises CahootsError (BAD_REQUEST) when the context has no room."""
    args = ctx.args
    input_tokens = args.input_tokens or (128 if args.quick else 512)
    output_tokens = args.output_tokens or (32 if args.quick else 128)
    longest = 512 if args.quick else 2048
    context = next((int(m["max_model_len"]) for m in asker.models() if m["id"] == model), longest)
    if input_tokens + output_tokens > context:
        raise CahootsError(
            Kind.BAD_REQUEST,
            f"cannot measure {input_tokens} tokens in and {output_tokens} out: "
            f"the context has {context}",
            "ask for fewer: --input-tokens, --output-tokens",
        )
    return Load(
        concurrency=args.concurrency,
        requests=max(
            args.requests or args.concurrency * (2 if args.quick else 4), args.concurrency
        ),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        prefill_tokens=max(min(longest, context - _PROMPT_ROOM), 1),
    )


def _measure(ctx: Context, view: Json, load: Load, gateway: Route, asker: Asker) -> int:
    worker, began = view["worker"], time.monotonic()
    seed = ctx.args.seed if ctx.args.seed is not None else SystemRandom().randrange(2**31)
    notes = [_SHARED] if _others(view["status"]) else []
    if notes:
        ctx.console.note([Line(notes[0], Tone.WARNING)])

    def say(text: str) -> None:
        ctx.console.progress(text, time.monotonic() - began)

    routes, is_broken_off = [gateway], False
    if os.access(worker["socket"], os.W_OK):
        routes.append(Route("direct", worker["socket"]))
    else:
        notes.append(_NO_SOCKET)
    session: Session | None = None
    try:
        say("learning the tokenizer")
        session = Session(worker["serving"], load, PromptMaker(asker, worker["serving"], seed), say)
        for route in routes:
            session.run(route)
    except KeyboardInterrupt:
        is_broken_off = True
        notes.append(f"interrupted at {session.doing if session else 'the start'}: not kept")
    result = _result(worker, load, seed, notes, session)
    if is_broken_off and not any((result["gateway"] or {}).values()):
        ctx.console.note([Line("interrupted: nothing was measured yet")])
        return INTERRUPTED
    if not is_broken_off:
        _keep(ctx, result, has_failures=bool(session and session.failures))
    _show(ctx, result, view.get("records") or [])
    return INTERRUPTED if is_broken_off else ExitCode.DONE


def _others(status: Json) -> bool:
    requests = status.get("requests") or {}
    return any(requests.get(name) for name in ("running", "waiting", "held"))


def _result(worker: Json, load: Load, seed: int, notes: list[str], session: Session | None) -> Json:
    figures = session.figures if session else {}
    if session and session.failures:
        notes.append(f"{len(session.failures)} requests failed: {session.failures[0]}")
    ways: dict[str, Any] = {
        name: asdict(figures[name]) if name in figures else None for name in ("gateway", "direct")
    }
    return {
        "generation": worker["generation"],
        "serving": worker["serving"],
        "target": worker["target"],
        "load": asdict(load),
        "seed": seed,
        "is_shared": _SHARED in notes,
        "notes": notes,
        "kept_at": None,
        **ways,
    }


def _keep(ctx: Context, result: Json, *, has_failures: bool) -> None:
    """Let the daemon keep the result; a refusal is a note, what was measured is shown anyway."""
    if _others(ctx.client.call("GET", "/v1/status")) and not result["is_shared"]:
        result["is_shared"] = True
        result["notes"].append(_SHARED)
    if has_failures:
        result["notes"].append("not kept: requests failed")
        return
    fields = ("generation", "seed", "load", "is_shared", "gateway", "direct")
    try:
        kept = ctx.client.call("POST", "/v1/bench", {name: result[name] for name in fields})
    except CahootsError as error:
        result["notes"].append(f"not kept: {error.message}")
        return
    result["kept_at"] = kept.get("at")


def _show(ctx: Context, result: Json, records: list[Json]) -> None:
    earlier = comparable(records, result["target"], result["load"])
    width = ctx.console.width
    lines, now = list[Line](), {**result, "at": result["kept_at"]}
    if result["kept_at"] and not result["is_shared"]:
        lines = plot_lines([*earlier, now], local_now(), width, **_drawing(ctx))
    # Last, where it is seen on a small screen.
    lines = [*lines[1:], *([Line("")] if lines else []), *result_lines(result, earlier, width)]
    ctx.console.result({**result, "earlier": earlier}, lines)
