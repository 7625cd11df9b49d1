"""What systemd knows of a unit, for the doctor. Blocking, 3 s at most."""

import os
from pathlib import Path
from pwd import getpwuid

from cahoots_vllm.core.doctor.service import UnitFacts
from cahoots_vllm.host import systemd
from cahoots_vllm.host.systemd import Unit

_LINGER = Path("/var/lib/systemd/linger")
_PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "NRestarts", "UnitFileState")


def read_unit(unit: Unit, linger: Path = _LINGER) -> UnitFacts | None:
    """Return the unit's state; None where no systemd answers or it knows no such unit."""
    found = systemd.show(unit, *_PROPERTIES)
    if found is None or found.get("LoadState", "not-found") == "not-found":
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
