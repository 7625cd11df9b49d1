"""Tells when a process ends that is not our child: through its pidfd (pidfd_open(2))."""

import asyncio
import os
from collections.abc import Mapping


def watch_processes(titles: Mapping[int, str], death: asyncio.Future[str]) -> list[int]:
    """Resolve `death` when any of these processes ends; return the pidfds to close."""
    pidfds: list[int] = []
    for pid, title in titles.items():
        evidence = f"{title} (pid {pid}) ended while it should serve"
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            if not death.done():
                death.set_result(evidence)
            continue
        pidfds.append(pidfd)

        def ended(pidfd: int = pidfd, evidence: str = evidence) -> None:
            asyncio.get_running_loop().remove_reader(pidfd)
            if not death.done():
                death.set_result(evidence)

        asyncio.get_running_loop().add_reader(pidfd, ended)
    return pidfds
