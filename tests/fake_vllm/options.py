"""The command line of `vllm serve`: what the stand-in uses of it; the rest is kept and ignored."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Seen on vLLM 0.32 (logs/bad_arguments.log): the top parser speaks, not the one of `serve`.
USAGE = """Triton is installed, but doesn't include CPU backend. Disabling Triton.
usage: vllm [-h] [-v]
            {chat,complete,serve,launch,bench,collect-env,download-kernels,preload,run-batch,snapshot}
            ...
"""
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
AUTO = -1


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What is used of the command line, and what vLLM would print of it."""

    model: str
    served_names: tuple[str, ...]
    uds: str | None
    host: str
    port: int
    max_model_len: int | None
    shutdown_timeout_s: int
    access_log: bool
    quiet_paths: frozenset[str]
    load_tracking: bool
    non_default: dict[str, Any]


def parse(argv: Sequence[str]) -> ServeOptions:
    """Parse the words after `vllm serve`; exit 2 as vLLM does on what it refuses."""
    known, unknown = _parser().parse_known_args(argv)
    # Any option may be one of vLLM's several hundred, so only a marked one is unknown here.
    refused = [word for word in unknown if word.startswith("--bad-")]
    if refused:
        sys.stderr.write(f"{USAGE}vllm: error: unrecognized arguments: {' '.join(refused)}\n")
        sys.exit(2)
    given = {name: value for name, value in vars(known).items() if value not in (None, False)}
    quiet = known.disable_access_log_for_endpoints or ""
    return ServeOptions(
        model=known.model_tag,
        served_names=tuple(known.served_model_name or [known.model_tag]),
        uds=known.uds,
        host=known.host or "127.0.0.1",
        port=known.port or 8000,
        max_model_len=known.max_model_len,
        shutdown_timeout_s=known.shutdown_timeout or 0,
        access_log=not known.disable_uvicorn_access_log and known.uvicorn_log_level != "warning",
        quiet_paths=frozenset(quiet.split(",")),
        load_tracking=known.enable_server_load_tracking,
        non_default=given | {"model": known.model_tag} | _kept(unknown),
    )


def max_model_len(options: ServeOptions, own: int) -> int:
    """Return the length to serve: as given, else the model's own, which `auto` finds too."""
    given = options.max_model_len
    return own if given is None or given == AUTO else given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllm serve", usage="vllm serve [model_tag] [options]", allow_abbrev=False
    )
    parser.add_argument("model_tag")
    parser.add_argument("--uds")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", type=human_readable_int_or_auto)
    parser.add_argument("--shutdown-timeout", type=int)
    parser.add_argument("--uvicorn-log-level")
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    parser.add_argument("--disable-access-log-for-endpoints")
    parser.add_argument("--enable-server-load-tracking", action="store_true")
    return parser


def human_readable_int_or_auto(text: str) -> int:
    """Read 4096, 32k (decimal), 32K (binary) or auto. vLLM's error message quotes this name."""
    if text == "auto":
        return AUTO
    if text[-1:] in _UNITS:
        return int(float(text[:-1]) * _UNITS[text[-1]])
    return int(text)


def _kept(unknown: Sequence[str]) -> dict[str, Any]:
    """Return options not used here as vLLM shows them in its line of non-default arguments."""
    kept: dict[str, Any] = {}
    name = ""
    for word in unknown:
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            name = option.replace("-", "_")
            kept[name] = value if equals else True
        elif name:
            kept[name] = word
    return kept
