"""packaging/build-deb: builds the Debian package from the checkout, into dist/."""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from .console import SetupError, Steps, say

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = {
    "dpkg-buildpackage": "dpkg-dev",
    "dh": "debhelper",
    "systemctl": "systemd",
}
PACKAGES = "dpkg-dev debhelper python3-dev python3-venv systemd"
TAIL = 40
# What is not the product's source: environments, results, the history.
LEFT_OUT = (
    ".git",
    ".venv",
    ".engine",
    "dist",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".*_cache",
)
VERSION = re.compile(r"[A-Za-z0-9.+~]*")


def main(arguments: Sequence[str]) -> int:
    """Build it; return the exit status. Raises SetupError."""
    options = _parse(arguments)
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        message = f"cannot build a Debian package: {', '.join(missing)} not found"
        raise SetupError(message, f"on Debian and Ubuntu: sudo apt install {PACKAGES}")
    package = build(options.version_suffix, options.output.resolve())
    say(f"built {package}")
    say(f"install it with: sudo apt install {package}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="packaging/build-deb",
        description="Builds the Debian package for this distribution and machine into dist/.",
    )
    parser.add_argument(
        "--output", type=Path, default=CHECKOUT / "dist", metavar="DIR", help="default: dist/"
    )
    parser.add_argument(
        "--version-suffix", type=_suffix, default="", metavar="TEXT",
        help="make it a later version, to try an upgrade: +1",
    )  # fmt: skip
    return parser.parse_args(arguments)


def _suffix(text: str) -> str:
    if VERSION.fullmatch(text) is None:
        message = "may hold letters, digits and . + ~ only (deb-version(7))"
        raise argparse.ArgumentTypeError(message)
    return text


def version() -> str:
    """Return the project's version."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    return str(project["project"]["version"])


def build(suffix: str, output: Path) -> Path:
    """Build in a copy of the sources; return the package. Raises SetupError."""
    steps = Steps(2)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cahoots-vllm-deb-") as directory:
        tree = Path(directory) / "cahoots-vllm"
        with steps.step("the sources"):
            shutil.copytree(CHECKOUT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
            shutil.copytree(tree / "packaging" / "debian", tree / "debian")
            _note_version(tree, f"{version()}{suffix}")
        with steps.step("the package"):
            _build(tree)
        found = sorted(Path(directory).glob("cahoots-vllm_*.deb"))
        target = output / found[-1].name
        shutil.copy(found[-1], target)
    return target


def _note_version(tree: Path, wanted: str) -> None:
    """Put the version at the top of the changelog, and where the daemon says it."""
    changelog = tree / "debian" / "changelog"
    text = changelog.read_text()
    if not text.startswith(f"cahoots-vllm ({wanted}-"):
        date = format_datetime(datetime.now(UTC))
        by = next(line for line in text.splitlines() if line.startswith(" -- ")).rpartition("  ")[0]
        head = f"cahoots-vllm ({wanted}-1) unstable; urgency=medium\n\n  * Built to be tried.\n\n"
        changelog.write_text(f"{head}{by}  {date}\n\n{text}")
    module = tree / "daemon" / "cahoots_vllm" / "__init__.py"
    module.write_text(
        re.sub(r'__version__ = ".*"', f'__version__ = "{wanted}"', module.read_text())
    )


def _build(tree: Path) -> None:
    built = subprocess.run(
        ["dpkg-buildpackage", "--build=binary", "--no-sign"],  # noqa: S607 (looked for above)
        cwd=tree, env={**os.environ, "LC_ALL": "C.UTF-8"}, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if built.returncode != 0:
        last = "\n".join(built.stdout.splitlines()[-TAIL:])
        message = "cannot build the package"
        raise SetupError(message, f"packages it needs: sudo apt install {PACKAGES}\n{last}")
