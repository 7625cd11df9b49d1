"""Builds the directory of a fake engine: a `vllm` to execute, metadata to read the version of."""

import stat
import sys
from pathlib import Path

# A whole safetensors file of no tensors: what a model that only the fake serves has to have.
WEIGHTS = b"\x02\0\0\0\0\0\0\0{}"
_TESTS = Path(__file__).parents[1]
# As pip writes a console script; the kernel calls the process "vllm" after the file. The path is
# in the script since the daemon scrubs the environment.
_SCRIPT = """\
#!{python}
import sys
sys.path.insert(0, {tests!r})
from fake_vllm.__main__ import main
sys.exit(main(sys.argv[1:], version={version!r}))
"""
# The engine's own Python, which runs the standby.
_PYTHON = """\
#!/bin/sh
case "$1" in
*/launcher.py) exec {python} {tests}/fake_vllm/standby.py {engine} "$@" ;;
esac
exec {python} "$@"
"""


def make_engine(target: Path, *, version: str = "0.32.0+cpu") -> Path:
    """Make `target` an engine directory as a virtual environment with vLLM would be one."""
    script = target / "bin" / "vllm"
    script.parent.mkdir(parents=True, exist_ok=True)
    content = _SCRIPT.format(python=sys.executable, tests=str(_TESTS), version=version)
    script.write_text(content, encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    information = target / "lib" / "python3.11" / "site-packages" / f"vllm-{version}.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    metadata = f"Metadata-Version: 2.4\nName: vllm\nVersion: {version}\n"
    (information / "METADATA").write_text(metadata, encoding="utf-8")
    return target


def add_standby(engine: Path) -> None:
    """Give it a Python of its own, which plays the standby."""
    python = engine / "bin" / "python"
    python.write_text(
        _PYTHON.format(python=sys.executable, tests=_TESTS, engine=engine), encoding="utf-8"
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
