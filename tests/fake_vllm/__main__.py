"""`vllm`, as the engine directory's script runs it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from fake_vllm import gpu_memory
from fake_vllm import options as command_line
from fake_vllm.options import USAGE, ServeOptions
from fake_vllm.processes import Processes
from fake_vllm.script import Behaviour, next_behaviour
from fake_vllm.startup import Startup
from fake_vllm.transcript import Transcript

_TOKENS_IN_CACHE = 3_659_520


def main(argv: Sequence[str], *, version: str) -> None:
    """Run `vllm <argv>`; the process's exit is the real engine's."""
    if argv[:1] in (["--version"], ["-v"]):
        sys.stdout.write(f"{version}\n")
        return
    if argv[:1] != ["serve"]:
        sys.stderr.write(f"{USAGE}vllm: error: argument subparser: invalid choice\n")
        sys.exit(2)
    if argv[1:] == ["--help=all"]:
        # The option lines of vLLM 0.32's own answer.
        sys.stdout.write((Path(__file__).parent / "help.txt").read_text(encoding="utf-8"))
        return
    options = command_line.parse(argv[1:])
    scripted = next_behaviour(argv, (options.model, *options.served_names))
    behaviour, figures = gpu_memory.take_in(scripted, options)
    signal.alarm(behaviour.life_s)
    if behaviour.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    transcript = Transcript(behaviour.log, _values(options, behaviour, version))
    transcript.values.update(figures)
    bound, processes = Startup(options, behaviour, transcript).run()
    gpu_memory.hold(behaviour, options, processes.engine_pid)
    asyncio.run(_serve(options, behaviour, transcript, processes, bound))


async def _serve(
    options: ServeOptions,
    behaviour: Behaviour,
    transcript: Transcript,
    processes: Processes,
    bound: socket.socket,
) -> None:
    # Late on purpose: Startup imports it while the engine's processes start.
    from fake_vllm.server import Server  # noqa: PLC0415

    await Server(options, behaviour, transcript, processes).run(bound)


def _values(options: ServeOptions, behaviour: Behaviour, version: str) -> dict[str, object]:
    """Return what stands in the log templates."""
    longest = command_line.max_model_len(options, behaviour.max_model_len)
    address = f"unix:{options.uds}" if options.uds else f"http://{options.host}:{options.port}"
    return {
        "main": os.getpid(),
        "model": options.model,
        "version": version.partition("+")[0],
        "package_version": version,
        "args": str(options.non_default),
        "address": address,
        "max_model_len": longest,
        "concurrency": f"{_TOKENS_IN_CACHE / longest:.2f}",
    }
