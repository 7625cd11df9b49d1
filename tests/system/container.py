"""Boots a machine (boot.sh) and leaves nothing of it behind."""

import functools
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from system.machine import PATIENCE_S, Machine, wait_for

_BOOT = Path(__file__).with_name("boot.sh")
_CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")


@contextmanager
def booted(
    lower: Mapping[Path, str] | None = None,
    bound: Mapping[Path, str] | None = None,
    *,
    has_network: bool = False,
    is_unified: bool = False,
) -> Iterator[Machine]:
    """Boot a machine; its network is its own unless it `has_network`, which is the host's.

    `lower` and `bound`: directories of the host and where they are in the machine; what is written
    to the former stays in the machine. `is_unified`: the v2 hierarchy alone, and so a device
    policy that is really applied (by BPF), whatever the host has; else the cgroups are as there.
    """
    name = f"cahoots-{os.getpid()}-{secrets.token_hex(2)}"
    words = [f"--lower={source}:{target}" for source, target in (lower or {}).items()]
    words += [f"--bind={source}:{target}" for source, target in (bound or {}).items()]
    options = [] if has_network else ["--private-network"]
    environment = dict(os.environ)
    if is_unified:
        environment["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
        options.append("--system-call-filter=bpf")
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as place:
        console = Path(f"{place}.log")
        # The kernel ends a pid namespace with its first process, and that with the tests.
        command = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--propagation=private"]
        command += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        with console.open("wb") as log:
            boot = subprocess.Popen(
                [*command, "--", str(_BOOT), place, name, *words, "--", *options],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield _up(boot, console)
        finally:
            boot.kill()
            boot.wait(PATIENCE_S)
            console.unlink()
            _forget(name)


def _up(boot: subprocess.Popen[bytes], console: Path) -> Machine:
    try:
        return Machine(boot.pid)
    except AssertionError as error:
        message = f"{error}; systemd-nspawn {boot.poll()}:\n{console.read_text()[-3000:]}"
        raise AssertionError(message) from error


def _forget(name: str) -> None:
    """Remove the directories that a container leaves on the host, once it has ended."""
    for root in _CGROUPS:
        top = Path(root) / name
        wait_for(functools.partial(_is_removed, top), what=f"{top} is empty")
    with suppress(OSError):
        Path(f"/run/systemd/nspawn/propagate/{name}").rmdir()


def _is_removed(top: Path) -> bool:
    with suppress(OSError):  # a process that was killed is not gone yet
        for group in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
            group.rmdir()
        top.rmdir()
    return not top.exists()
