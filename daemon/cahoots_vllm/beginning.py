"""How the daemon begins: with what the last one left, or with nothing."""

import logging
from pathlib import Path

from cahoots_vllm.control.standby import StandbyKeeper
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.worker.leftovers import end_all, end_others

_LOG = logging.getLogger("cahoots_vllm")


async def go_on(
    supervisor: Supervisor,
    keeper: StandbyKeeper,
    state_file: StateFile,
    *,
    is_same_process: bool,
    cgroup_parent: Path | None,
    runtime_dir: Path,
) -> None:
    """Go on with the last daemon's worker and standby; end whatever else it has left."""
    # A warning where systemd has just warned of "left-over" processes: it is them.
    level = logging.INFO if is_same_process else logging.WARNING
    is_found = supervisor.find_worker()
    standby = keeper.find_again(supervisor.settings)
    spared = standby.pid if standby is not None else None

    def say_stuck(text: str) -> None:
        _LOG.warning("a worker of an earlier daemon %s", text)

    if is_found and (worker := supervisor.worker) is not None:
        _LOG.log(level, "going on with the last daemon's worker, pid %s", worker.pid)
        count = await end_others(cgroup_parent, runtime_dir, worker.number, spared, say_stuck)
    else:
        # Also a worker that was started and not yet noted.
        noted = state_file.record.worker
        count = await end_all(cgroup_parent, runtime_dir, noted, spared, say_stuck)
        state_file.save(worker=None)
    if count:
        _LOG.warning("ended %d processes that an earlier daemon left behind", count)
    if standby is not None:
        _LOG.log(level, "standby adopted: the last daemon's, pid %s", standby.pid)
