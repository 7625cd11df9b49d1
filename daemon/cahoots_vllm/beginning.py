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
    if is_found and (worker := supervisor.worker) is not None:
        _LOG.log(level, "going on with the last daemon's worker, pid %s", worker.pid)
        count = await end_others(cgroup_parent, runtime_dir, worker.number, spared)
    else:
        # Also a worker that was started and not yet noted.
        count = await end_all(cgroup_parent, runtime_dir, state_file.record.worker, spared)
        state_file.save(worker=None)
    if count:
        _LOG.warning("ended %d processes that an earlier daemon left behind", count)
    if standby is not None:
        _LOG.log(level, "standby adopted: the last daemon's, pid %s", standby.pid)
