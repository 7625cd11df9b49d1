"""What systemd knows of a unit, for the doctor. Blocking, 3 s at most."""

import os
import subprocess
from pathlib import Path
from pwd import getpwuid

from cahoots_vllm.core.doctor.service import UnitFacts
from cahoots_vllm.host.systemd import Unit

_DEADLINE_S = 2.0
_LINGER = Path("/var/lib/systemd/linger")
_PROPERTIES = "LoadState,ActiveState,SubState,Result,NRestarts,UnitFileState"


def read_unit(unit: Unit, linger: Path = _LINGER) -> UnitFacts | None:
    """Return the unit's state; None where no systemd answers or it knows no such unit."""
    manager = "--user" if unit.is_user else "--system"
    command = ["systemctl", manager, "--no-ask-password", "show", f"--property={_PROPERTIES}"]
    try:
        answer = subprocess.run(
            [*command, unit.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_DEADLINE_S,
            check=False,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = dict(line.partition("=")[::2] for line in answer.stdout.splitlines())
    if found.get("LoadState", "not-found") == "not-found":
        return None
    return UnitFacts(
        name=unit.name,
        is_user=unit.is_user,
        load=found["LoadState"],
        active=found.get("ActiveState", "?"),
        sub=found.get("SubState", "?"),
        result=found.get("Result", "?"),
        restarts=int(found.get("NRestarts") or 0),
        enabled=found.get("UnitFileState", ""),
        lingers=(linger / _user()).exists() if unit.is_user else None,
    )


def _user() -> str:
    uid = os.geteuid()
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
