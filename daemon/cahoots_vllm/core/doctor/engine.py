"""The engine: is it there, whole, and does it import?"""

from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.doctor.finding import Findings, Group, Judge

_ENGINE: Final = Judge("engine", Group.ENGINE)
_REINSTALL: Final = (
    "install the engine again: sudo cahoots-vllm-engine install (in a checkout: "
    "packaging/quickstart --prepare-only)"
)
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine's own Python said.

    `missing` are requirements that are not met, as "numpy (2.1 is wanted, 1.26 is there)" or so;
    `lost_files` belong to vllm or torch and are gone; `import_error` is the exception's one line.
    `is_imported`: vLLM was really imported, or a worker of it serves. `problem`: it could not be
    asked at all.
    """

    path: str
    version: str
    torch: str | None = None
    missing: tuple[str, ...] = ()
    lost_files: tuple[str, ...] = ()
    import_error: str | None = None
    is_imported: bool = False
    problem: str | None = None
    seconds: float = 0.0


def judge_engine(facts: EngineFacts) -> Findings:
    """Say whether it can be used."""
    name = f"vLLM {facts.version} in {facts.path}"
    if facts.problem is not None:
        return (_ENGINE.fail(f"{name}: {facts.problem}", _REINSTALL),)
    if facts.import_error is not None:
        said = f"{name} cannot be imported: {facts.import_error}"
        return (_ENGINE.fail(said, _REINSTALL),)
    if facts.lost_files:
        said = f"{name} is not whole: {_some(facts.lost_files)} missing from its files"
        return (_ENGINE.fail(said, _REINSTALL),)
    if facts.missing:
        said = f"{name} lacks what it requires: {_some(facts.missing)}"
        return (_ENGINE.warn(said, _REINSTALL),)
    torch = f", torch {facts.torch}" if facts.torch else ""
    if facts.is_imported:
        return (_ENGINE.ok(f"{name}{torch}; it imports"),)
    # vLLM's import takes longer than a doctor may: what is known is said, and no more.
    until = "torch imports" if facts.torch else "its files are there"
    return (_ENGINE.ok(f"{name}{torch}; {until}, vLLM's own import was not waited for"),)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
