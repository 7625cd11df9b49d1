"""What the system tier needs: root, systemd-nspawn, a built package, the machines' engine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import debian_package, demo, engines, service_engines, venvs
from .console import SetupError, say

# By the Debian package they come with.
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "dpkg-buildpackage": "dpkg-dev",
    "dh": "debhelper",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "apt-get": "apt",
}
TRIAL = """\
mount -t tmpfs tmpfs "$1" && mkdir "$1/up" "$1/work" "$1/root" &&
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
"""


def why_not() -> str | None:
    """Return why machines cannot be booted on this one, None if they can."""
    if os.geteuid() != 0:
        return "it boots systemd in containers, which takes root: sudo packaging/test --tier system"
    missing = {name: package for name, package in TOOLS.items() if shutil.which(name) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        return f"{', '.join(missing)} not found: apt install {packages}"
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", TRIAL, "sh", "/mnt"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"an overlay of / cannot be mounted here: {tried.stderr.strip()}"
    return None


def prepare(checkout: Path) -> dict[str, str]:
    """Build the package, and the engine unless it is there; return the tests' environment.

    Raises SetupError.
    """
    places = {"CAHOOTS_TEST_LAYER": str(demo.cache() / "system-test")}
    given = os.environ.get("CAHOOTS_TEST_DEB")
    if given is None:
        say("building the package")
        given = str(debian_package.build("", checkout / "dist"))
    places["CAHOOTS_TEST_DEB"] = given
    if not _is_whole(Path(places["CAHOOTS_TEST_LAYER"])):
        say("installing the engine that the machines share")
        _make_layer(checkout, places)
    return places


def _is_whole(layer: Path) -> bool:
    engine = service_engines.choose(service_engines.ROOT, "cpu", None)
    directory = layer / "opt" / engine.directory.relative_to(service_engines.ROOT)
    stamp = venvs.read_stamp(directory)
    is_current = stamp.get("requirements") == engines.requirements(engine)
    is_done = is_current and not (directory / venvs.DRAFT).exists()
    return is_done and (layer / "cache" / "models" / demo.NAME).is_dir()


def _make_layer(checkout: Path, places: dict[str, str]) -> None:
    python = checkout / ".venv" / "bin" / "python"
    path = f"{checkout / 'tests'}:{checkout / 'daemon'}"
    environment = {**os.environ, **places, "PYTHONPATH": path}
    made = subprocess.run(
        [str(python), "-m", "system.prepare"], env=environment, check=False, stdout=sys.stdout
    )
    if made.returncode != 0 or not _is_whole(Path(places["CAHOOTS_TEST_LAYER"])):
        message = "cannot install the engine that the machines of the system tier share"
        raise SetupError(message, "see what cahoots-vllm-engine said above, then run this again")
