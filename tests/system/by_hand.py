"""Puts the checkout into a machine the way the package does, for as long as there is no package."""

import subprocess
import sysconfig
from pathlib import Path

from system.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
_VENV = "/usr/lib/cahoots-vllm/venv"
_SCRIPT = """\
#!{venv}/bin/python
import sys
from {module} import main
sys.exit(main())
"""
_PROGRAMS = {"cahoots-vllmd": "cahoots_vllm.main", "cahootsctl": "cahoots_vllm.ctl.main"}


def install(machine: Machine) -> None:
    """Make user, environment, unit and configuration."""
    user = 'u cahoots-vllm - "cahoots-vllm daemon" /var/lib/cahoots-vllm\n'
    machine.run(["systemd-sysusers", "--replace=/usr/lib/sysusers.d/c.conf", "-"], stdin=user)
    machine.run(["/usr/bin/python3", "-m", "venv", "--without-pip", _VENV])
    libraries = f"{_VENV}/lib/python3.11/site-packages"
    _copy(machine, Path(sysconfig.get_paths()["purelib"]), libraries)
    _copy(machine, ROOT / "daemon", libraries)
    _copy(machine, ROOT / "etc", f"{libraries}/cahoots_vllm")
    for name, module in _PROGRAMS.items():
        machine.write(f"{_VENV}/bin/{name}", _SCRIPT.format(venv=_VENV, module=module), mode="0755")
        machine.run(["ln", "-s", f"{_VENV}/bin/{name}", f"/usr/bin/{name}"])
    for unit in (ROOT / "systemd").glob("cahoots-vllm*"):
        machine.write(f"/usr/lib/systemd/system/{unit.name}", unit.read_text())
    owner = ["-o", "root", "-g", "cahoots-vllm"]
    machine.run(["install", "-d", *owner, "-m", "2770", "/etc/cahoots-vllm/models.d"])
    machine.run(["install", "-d", *owner, "-m", "2770", "/etc/cahoots-vllm"])
    machine.systemctl("daemon-reload")


def _copy(machine: Machine, source: Path, target: str) -> None:
    left_out = ["--exclude=mypy*", "--exclude=*.pth", "--exclude=ruff"]
    command = ["/usr/bin/tar", "-C", str(source), *left_out, "-c", "."]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    machine.run(["mkdir", "-p", target])
    machine.run(["tar", "-C", target, "--no-same-owner", "-x"], stdin=packed)
