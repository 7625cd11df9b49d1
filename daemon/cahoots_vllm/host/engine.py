"""Finds the engine and its version without importing it."""

import shutil
from pathlib import Path

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import EngineInfo

SYSTEM_ENGINE = Path("/opt/cahoots-vllm/engine")
# Where packaging/quickstart puts it, beside the daemon's sources.
_CHECKOUT_ENGINE = Path(__file__).resolve().parents[3] / ".engine"


def find_engine(configured: Path | None) -> EngineInfo:
    """Return the configured engine, else the system's, else `vllm` on PATH's, else the checkout's.

    Raises CahootsError (ENGINE_UNUSABLE) naming where it looked.
    """
    try:
        return _find(configured)
    except OSError as error:
        raise CahootsError(
            Kind.ENGINE_UNUSABLE,
            f"cannot look at the engine {error.filename}: {error.strerror}",
            "let this user read it, or set engine.path to one it may read",
        ) from error


def _find(configured: Path | None) -> EngineInfo:
    if configured is not None:
        return _inspect(configured)
    if (SYSTEM_ENGINE / "bin" / "vllm").is_file():
        return _inspect(SYSTEM_ENGINE)
    on_path = shutil.which("vllm")
    if on_path is not None:
        return _inspect(Path(on_path).resolve().parent.parent)
    if (_CHECKOUT_ENGINE / "bin" / "vllm").is_file():
        return _inspect(_CHECKOUT_ENGINE)
    raise CahootsError(
        Kind.ENGINE_UNUSABLE,
        f"cannot find an engine: neither {SYSTEM_ENGINE} nor vllm on PATH",
        "install one: sudo cahoots-vllm-engine install (in a checkout: packaging/quickstart "
        "--prepare-only), or set engine.path",
    )


def _inspect(path: Path) -> EngineInfo:
    if not (path / "bin" / "vllm").is_file():
        raise CahootsError(
            Kind.ENGINE_UNUSABLE,
            f"cannot use the engine {path}: it has no bin/vllm",
            "point engine.path at a virtual environment with vLLM in it",
        )
    # A local version (0.32.0+cpu) sorts behind the plain one and says more.
    found = sorted(path.glob("lib/python3*/site-packages/vllm-*.dist-info"))
    if not found:
        raise CahootsError(
            Kind.ENGINE_UNUSABLE,
            f"cannot use the engine {path}: no installed vllm in its site-packages",
            "install vllm there again; an interrupted installation leaves it like this",
        )
    version = found[-1].name.removeprefix("vllm-").removesuffix(".dist-info")
    # Where links end: another engine behind the same link is another launch spec.
    return EngineInfo(str(path.resolve()), version)
