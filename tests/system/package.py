"""The package under test: where it is, how it gets into a machine, a later version of it."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from system.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
NAME = "cahoots-vllm"
# All it depends on is installed, and there is no network. Reading the host's lists hung once, for
# two minutes, beside a busy engine.
_NO_LISTS = ("-o", "Dir::Etc::SourceList=/dev/null", "-o", "Dir::Etc::SourceParts=/dev/null")
_MODULE = "usr/lib/cahoots-vllm/venv/lib/python3*/site-packages/cahoots_vllm/__init__.py"


def find_package() -> Path | None:
    """Return what packaging/test built, else the last one in dist/, else None."""
    given = os.environ.get("CAHOOTS_TEST_DEB")
    if given:
        return Path(given)
    built = (ROOT / "dist").glob(f"{NAME}_*.deb")
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


def install(machine: Machine, package: Path) -> str:
    """Install it, or upgrade to it, as a person would; return what apt said."""
    inside = f"/var/tmp/{package.name}"  # noqa: S108 (a machine's, and root's alone)
    machine.write(inside, package.read_bytes())
    said = machine.run(
        ["apt-get", *_NO_LISTS, "install", "--yes", "--allow-downgrades", inside],
        env={"DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"},
        timeout_s=240,
    )
    machine.run(["rm", inside])
    return said.stdout + said.stderr


def later_version(package: Path, directory: Path) -> Path:
    """Make the same package with a later version, in seconds: its daemon says so too."""
    with tempfile.TemporaryDirectory(prefix="cahoots-deb-") as place:
        _run("dpkg-deb", "--raw-extract", str(package), place)
        control = Path(place, "DEBIAN", "control")
        old = re.search(r"^Version: (.*)-(\d+)$", control.read_text(), re.MULTILINE)
        assert old is not None
        new = f"{old[1]}+later"
        control.write_text(control.read_text().replace(old[0], f"Version: {new}-{old[2]}"))
        for module in Path(place).glob(_MODULE):
            module.write_text(module.read_text().replace(f'"{old[1]}"', f'"{new}"'))
        target = directory / f"{NAME}_{new}-{old[2]}.deb"
        _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", place, str(target))
    return target


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
