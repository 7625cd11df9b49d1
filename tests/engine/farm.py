"""An engine that a test may change: the packages are links to the real ones."""

import shutil
from pathlib import Path

_OWN = "vllm*"  # what an installation of vLLM replaces


def plant(engine: Path, target: Path) -> Path:
    """Make `target` an engine of links to `engine`, with scripts of its own."""
    packages = _packages(engine)
    (target / "bin").mkdir(parents=True)
    for name in ("python", "python3"):
        (target / "bin" / name).symlink_to((engine / "bin" / name).resolve())
    script = (engine / "bin" / "vllm").read_text().partition("\n")[2]
    (target / "bin" / "vllm").write_text(f"#!{target}/bin/python\n{script}")
    (target / "bin" / "vllm").chmod(0o755)
    for name in ("pyvenv.cfg", "cahoots-vllm.json"):
        shutil.copy(engine / name, target / name)
    own = target / packages.relative_to(engine)
    own.mkdir(parents=True)
    for package in packages.iterdir():
        (own / package.name).symlink_to(package)
    install(engine, target)
    return target


def install(engine: Path, target: Path) -> None:
    """Install vLLM anew, as pip does: its directories go, and others of the same names come."""
    own = _packages(target)
    for package in _packages(engine).glob(_OWN):
        _remove(own / package.name)
        (own / package.name).mkdir()
        # Not what is compiled: it would be written there for a file that is ours.
        for part in package.iterdir():
            if part.name != "__pycache__":
                (own / package.name / part.name).symlink_to(part)


def spoil(target: Path, condition: str) -> None:
    """Let `import vllm` fail where a condition holds; `sys` is there to be asked."""
    module = _packages(target) / "vllm" / "__init__.py"
    text = module.read_text()
    module.unlink()
    module.write_text(f"import sys\nif {condition}:\n    raise ImportError('spoilt')\n{text}")


def _packages(engine: Path) -> Path:
    return next(engine.glob("lib/python3*/site-packages"))


def _remove(place: Path) -> None:
    if place.is_symlink():
        place.unlink()
    else:
        shutil.rmtree(place)
