"""packaging/quickstart: from a fresh checkout to a served model, in the foreground."""

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from . import daemon_env, demo, engines, env_file, venvs
from .console import MB, Steps, say
from .preflight import require_alone, require_port, require_space
from .service import Foreground, announce

GPU_MODEL = "Qwen/Qwen3-32B-Instruct"
DAEMON_BYTES = 300 * MB
CHECKOUT = Path(__file__).resolve().parents[2]

DESCRIPTION = """\
Sets up the daemon (.venv/) and the engine (.engine/) in this checkout, needs no root, and serves a
model in the foreground until Ctrl-C. A second run installs nothing. Reads ./.env, and makes one
where there is none.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is served in this run."""

    env: env_file.EnvFile
    model: str
    port: int
    overrides: tuple[str, ...]  # options of the daemon that override the .env


def main(arguments: Sequence[str]) -> int:
    """Set up, then serve; return the exit status."""
    options = _parse(arguments)
    steps = Steps(4 if options.prepare_only else 5)
    with venvs.exclusive(CHECKOUT):
        with steps.step("this machine"):
            engine = engines.choose(options.engine, CHECKOUT)
            say(f"      engine: {_describe(engine)}")
            _check_space(engine)
        with steps.step("the daemon's environment, .venv"):
            daemon_env.ensure(CHECKOUT)
            plan = _plan(options, engine)
            if not options.prepare_only:
                require_port(plan.port)
        with steps.step(f"the engine's environment, {engine.directory}"):
            if engine.kind == "own":
                say("      yours, taken as it is")
            else:
                engines.ensure(engine)
        with steps.step(f"the model, {plan.model}"):
            _ensure_model(plan, engine)
    if options.prepare_only:
        say("prepared; packaging/quickstart starts it")
        return 0
    steps.announce("the daemon, and the model through it")
    return _serve(plan, engine)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="packaging/quickstart", description=DESCRIPTION)
    parser.add_argument(
        "--engine",
        default="auto",
        metavar="auto|cpu|cuda|PATH",
        help="cuda: vLLM for NVIDIA GPUs; cpu: its CPU build; auto (the default): cuda where a GPU "
        "answers, else cpu; PATH: an environment of yours in which vLLM is installed",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="serve this one in this run: a Hugging Face repository, a directory or the name of a "
        "profile; without it the .env decides",
    )
    parser.add_argument("--port", type=_port, help="listen on this port in this run")
    parser.add_argument(
        "--prepare-only", action="store_true", help="set everything up and start nothing"
    )
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 1 << 16:
        message = "must be between 1 and 65535"
        raise argparse.ArgumentTypeError(message)
    return port


def _describe(engine: engines.Engine) -> str:
    return {
        "cuda": "vLLM for NVIDIA GPUs",
        "cpu": "vLLM's CPU build (for a GPU: --engine cuda)",
        "own": f"the one in {engine.directory}",
    }[engine.kind]


def _check_space(engine: engines.Engine) -> None:
    """Check the room for what is not there yet, all at once: better now than in ten minutes."""
    needs: dict[Path, int] = {}
    if not (CHECKOUT / ".venv" / venvs.STAMP).exists():
        needs[CHECKOUT / ".venv"] = DAEMON_BYTES
    if not engines.is_whole(engine):
        needs[engine.directory] = engine.needs_bytes
        needs[Path(tempfile.gettempdir())] = engine.needs_temporary_bytes
    if engine.kind == "cpu" and not demo.directory().is_dir():
        needs[demo.directory()] = demo.NEEDS_BYTES
    require_space(needs, "what is to be installed")


def _plan(options: argparse.Namespace, engine: engines.Engine) -> Plan:
    """Settle model and port, from the options, the `.env` and the defaults, in this order."""
    path = Path.cwd() / ".env"
    if not path.exists():
        model = options.model or _default_model(engine)
        env_file.create(path, model, options.port or env_file.DEFAULT_PORT)
        say(f"      made {path}")
    env = env_file.read(path, CHECKOUT / ".venv" / "bin" / "python")
    model, overrides = options.model or env.model, []
    if model is None:
        model = _default_model(engine)
        say(f"      {path} names no LOCAL_LLM_MODEL: serving {model} in this run")
    if model != env.model:
        overrides += ["--model", model]
    if options.port:
        overrides += ["--port", str(options.port)]
    if model == GPU_MODEL and engine.kind == "cpu":
        say(f"      without a GPU {model} will hardly run; --model {demo.NAME} will")
    return Plan(env, model, options.port or env.port, tuple(overrides))


def _default_model(engine: engines.Engine) -> str:
    if engine.kind == "cuda" or (engine.kind == "own" and engines.has_gpu()):
        return GPU_MODEL
    return demo.NAME


def _ensure_model(plan: Plan, engine: engines.Engine) -> None:
    if not plan.env.is_local:
        say(f"      not now: LLM_PROVIDER is {plan.env.provider or 'missing'} in {plan.env.path}")
    elif plan.model == demo.NAME:
        demo.ensure(engine)
    else:
        say("      the daemon downloads it where it is not there yet")


def _serve(plan: Plan, engine: engines.Engine) -> int:
    programs = CHECKOUT / ".venv" / "bin"
    command = [str(programs / "cahoots-vllmd"), "--user", "--env-file", str(plan.env.path)]
    command += ["--engine", str(engine.directory), *plan.overrides]
    # This daemon's own socket: a service on the same host has another.
    own_socket = f"{_wire().user_runtime_dir(os.environ, os.geteuid())}/control.sock"
    require_alone(own_socket)
    foreground = Foreground(command)
    if not plan.env.is_local:
        say(f"      it serves no model until LLM_PROVIDER in {plan.env.path} says local")
    else:
        ctl = [str(programs / "cahootsctl"), "--socket", own_socket]
        announce(foreground, ctl, ready_text(plan, programs))
    return foreground.wait()


def _wire() -> ModuleType:
    """Return the daemon's module of names and paths: standard library only, so it loads here."""
    sys.path.append(str(CHECKOUT / "daemon"))
    return importlib.import_module("cahoots_vllm.core.wire")


def ready_text(plan: Plan, programs: Path) -> str:
    """Return what to do next. A key is not shown: a terminal is read by others, too."""
    url = f"http://localhost:{plan.port}/v1"
    question = {"role": "user", "content": "What is the capital of France?"}
    body = json.dumps({"model": plan.model, "temperature": 0, "messages": [question]})
    key, hint = "", ""
    if plan.env.has_key:
        key = ' -H "Authorization: Bearer $KEY"'
        hint = f"\n    KEY is the password in LOCAL_LLM_URL, in {plan.env.path}"
    return f"""\
  {plan.model} is served at {url}
  try it:
    curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'{hint}
  look at it:  {programs}/cahootsctl status
  Ctrl-C stops everything"""
