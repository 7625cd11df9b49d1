"""Asks an engine's own Python whether the engine is whole and imports. Blocking.

vLLM's import alone takes six seconds and more: it is begun, and what it has said by the deadline
counts. A missing module, a lost library or a broken file mostly show within the first second.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cahoots_vllm.core.doctor.engine import EngineFacts
from cahoots_vllm.core.settings import EngineInfo

_CUDA = re.compile(r"^cuda\b[^=]*= *'(\d+)\.(\d+)", re.MULTILINE)
_TORCH = re.compile(r"^__version__ *= *'([^']+)'", re.MULTILINE)
_MAX_ERROR = 300
# Run by the engine's Python. Requirements by its own metadata; files by pip's record of them.
_PROGRAM = """
import json, sys
from importlib import metadata
from pathlib import Path
def say(**what):
    print(json.dumps(what), flush=True)
missing, lost = [], []
def look(name):
    try:
        dist = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    files = [f for f in dist.files or () if f.suffix in (".py", ".so")]
    gone = [str(f) for f in files if not Path(dist.locate_file(f)).exists()]
    lost.extend(gone[:20])
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return
    for text in dist.requires or ():
        want = Requirement(text)
        if want.marker and not want.marker.evaluate({"extra": ""}):
            continue
        try:
            has = metadata.version(want.name)
        except metadata.PackageNotFoundError:
            missing.append(want.name + " (not installed)")
            continue
        if not want.specifier.contains(has, prereleases=True):
            missing.append(f"{want.name} ({want.specifier} is wanted, {has} is there)")
for name in ("vllm", "torch"):
    look(name)
say(missing=missing[:20], lost=lost[:20])
try:
    import torch
    say(torch=str(torch.__version__))
    import vllm
    say(imported=True)
except BaseException as error:
    say(error=f"{type(error).__name__}: {error}")
"""


def torch_build(engine: EngineInfo) -> tuple[str | None, tuple[int, int] | None]:
    """Return the version of the engine's torch and its CUDA, by torch/version.py; no import."""
    for path in Path(engine.path).glob("lib/python3*/site-packages/torch/version.py"):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        version, cuda = _TORCH.search(text), _CUDA.search(text)
        found = (int(cuda[1]), int(cuda[2])) if cuda else None
        return (version[1] if version else None), found
    return None, None


def probe_engine(engine: EngineInfo, env: Mapping[str, str], *, for_s: float) -> EngineFacts:
    """Return what the engine's Python said within so many seconds."""
    facts = EngineFacts(engine.path, engine.version, seconds=for_s)
    python = _python(Path(engine.path))
    if python is None:
        return replace(facts, problem="its Python is gone")
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROGRAM],
            env=dict(env),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=for_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return _read(facts, error.stdout or b"")
    except OSError as error:
        return replace(facts, problem=f"its Python cannot be run: {error.strerror}")
    read = _read(facts, done.stdout)
    if read.is_imported or read.import_error is not None:
        return read
    # No last word: it was killed, or the interpreter itself could not start. (The daemon reaps
    # children by pid, so the exit status may be nobody's: by output.)
    words = done.stderr.decode(errors="replace").strip().splitlines()
    return replace(read, import_error=_short(words[-1] if words else "its Python died"))


def _python(engine: Path) -> str | None:
    """Return the engine's interpreter: bin/python, else the one bin/vllm names."""
    python = engine / "bin" / "python"
    if os.access(python, os.X_OK):
        return str(python)
    with (engine / "bin" / "vllm").open("rb") as file:
        first = file.readline(4096).decode(errors="replace").strip()
    named = first.removeprefix("#!").split()
    if first.startswith("#!") and named and os.access(named[0], os.X_OK):
        return named[0]
    return None


def _read(facts: EngineFacts, output: bytes) -> EngineFacts:
    for line in output.decode(errors="replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # what an import prints
        match said:
            case {"missing": list(missing), "lost": list(lost)}:
                facts = replace(facts, missing=tuple(missing), lost_files=tuple(lost))
            case {"torch": str(version)}:
                facts = replace(facts, torch=version)
            case {"imported": True}:
                facts = replace(facts, is_imported=True)
            case {"error": str(error)}:
                facts = replace(facts, import_error=_short(error))
            case _:
                continue
    return facts


def _short(text: str) -> str:
    return " ".join(text.split())[:_MAX_ERROR]
