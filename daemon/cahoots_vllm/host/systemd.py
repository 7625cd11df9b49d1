"""Asks systemd about our own unit: is it being stopped for good, or will it start again?

SIGTERM looks the same for `systemctl stop` and `systemctl restart`; the job in the queue tells.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_DEADLINE_S = 3.0


@dataclass(frozen=True, slots=True)
class Unit:
    """A service, of the system or of a user's own manager."""

    name: str
    is_user: bool = False


def own_unit(cgroups: Path = Path("/proc/self/cgroup")) -> Unit | None:
    """Return the service this process belongs to, None outside of one (cgroups(7))."""
    for line in cgroups.read_text().splitlines():
        # The v2 tree, and on a hybrid or legacy host systemd's own v1 hierarchy.
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "name=systemd"):
            continue
        names = path.split("/")
        is_user = any(name.startswith("user@") for name in names)
        for name in names:
            if name.endswith(".service") and not name.startswith("user@"):
                return Unit(name, is_user)
    return None


def pending_job(unit: Unit) -> str | None:
    """Return the kind of the unit's job: "stop", "restart", …; "" for none. Blocking, 3 s at most.

    None: systemd does not answer (no D-Bus), so nothing is known.
    """
    said = _ask(unit, "list-jobs", "--plain", "--no-legend", "--full", unit.name)
    if said is None:
        return None
    rows = (line.split() for line in said.splitlines())
    return next((row[2] for row in rows if len(row) > 2 and row[1] == unit.name), "")  # noqa: PLR2004 (JOB UNIT TYPE STATE)


def active_state(unit: Unit) -> str | None:
    """Return "active", "activating", "inactive", "failed", …; None: no answer. Blocking."""
    found = show(unit, "ActiveState")
    return found.get("ActiveState") if found is not None else None


def show(unit: Unit, *properties: str) -> dict[str, str] | None:
    """Return properties of the unit (systemctl(1), show); None: no answer. Blocking."""
    said = _ask(unit, "show", f"--property={','.join(properties)}", unit.name)
    return dict(line.partition("=")[::2] for line in said.splitlines()) if said else None


def _ask(unit: Unit, *arguments: str) -> str | None:
    manager = "--user" if unit.is_user else "--system"
    try:
        answer = subprocess.run(
            ["systemctl", manager, "--no-ask-password", *arguments],  # noqa: S607 (wherever the system has it)
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_DEADLINE_S,
            check=False,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # Its exit status says little here, and the daemon reaps children by pid: by output.
    return answer.stdout if answer.stdout or answer.returncode == 0 else None
