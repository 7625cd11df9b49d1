"""However an engine fails, and if it fails so for ever: the number of its starts is bounded."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fake_vllm.gpu_log import gpu_failure
from fake_vllm.script import Behaviour, failure

from .fleet import running_fleet
from .harness import Daemon
from .scripted_gpus import Gpu

# `[memory] tries` of the defaults: so many changes, and the start they begin with.
_SEARCH = 10 + 1
_FIVE = 5


@dataclass(frozen=True)
class Budget:
    """How a start fails for ever, what that is called, and how many starts it is worth."""

    behaviour: Behaviour
    cause: str
    most: int
    least: int = 1
    settings: dict[str, dict[str, float]] = field(default_factory=dict)


# One step down and none of the other levers; with the defaults it takes 15 starts and a minute.
_NARROW: dict[str, dict[str, float]] = {
    "memory": {"floor": 0.85},
    "options": {"max-num-seqs": 16, "max-num-batched-tokens": 512},
}
_BUDGETS = {
    # Memory: a search that ends, whichever way it goes.
    "after-kv": Budget(gpu_failure("after_kv"), "gpu_oom_startup_alloc", _SEARCH, 2),
    "profiling": Budget(gpu_failure("profiling"), "gpu_oom_startup_alloc", _SEARCH, 2),
    "kv-none": Budget(gpu_failure("kv_none"), "kv_cache_none", _SEARCH, 2),
    "kv-too-small": Budget(gpu_failure("kv_too_small"), "kv_cache_too_small", _SEARCH, 2),
    "free": Budget(gpu_failure("free_too_small"), "gpu_oom_startup_free", _SEARCH),
    "loading": Budget(gpu_failure("loading"), "gpu_oom_startup_alloc", 2),
    # What no second start can mend.
    "arguments": Budget(failure("bad_arguments"), "bad_arguments", 1),
    "token": Budget(failure("hub_auth"), "hub_auth", 1),
    "dependency": Budget(failure("missing_dependency"), "missing_dependency", 1),
    "disk": Budget(failure("disk_full"), "disk_full", 1),
    "weights": Budget(failure("corrupt_weights"), "corrupt_weights", 1),
    # One more try, for a GPU's own fault.
    "illegal": Budget(gpu_failure("illegal_start"), "cuda_driver", 2, 2),
    # Five in ten minutes.
    "disturbed": Budget(gpu_failure("profile_disturbed"), "gpu_oom_startup_free", _FIVE, 2),
    "driver": Budget(failure("cuda_driver"), "cuda_driver", _FIVE, 2),
    "killed": Budget(Behaviour(die_at="warm_up", exit_code=-9), "unknown", _FIVE, 2),
    "exit-0": Budget(failure("engine_dead_other"), "engine_dead_other", _FIVE, 2),
    # It was ready each time: a search, and what that ends with is restarted like any other death.
    "serving": Budget(gpu_failure("serving"), "gpu_oom_serving", 1 + _FIVE, 3, _NARROW),
}
_QUICK = [name for name, budget in _BUDGETS.items() if budget.most in (1, 2)]
_LONG = [name for name in _BUDGETS if name not in _QUICK]


def give_up(daemon: Daemon) -> tuple[int, str | None]:
    """Let it fail until it is given up; return how many starts that took, and why."""
    daemon.start()
    daemon.wait_phase("failed", timeout_s=60)
    return daemon.started(), daemon.cause()


def outside(names: Iterable[str], found: dict[str, tuple[int, str | None]]) -> dict[str, object]:
    """Return what was started too often, too seldom, or for another cause."""
    wrong: dict[str, object] = {}
    for name in names:
        starts, cause = found[name]
        budget = _BUDGETS[name]
        if not budget.least <= starts <= budget.most or cause != budget.cause:
            wrong[name] = found[name]
    return wrong


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("_subreaper")
@pytest.mark.parametrize("names", [_QUICK, _LONG], ids=["quick", "long"])
def test_engine_that_fails_for_ever_is_given_up(tmp_path: Path, names: list[str]) -> None:
    with running_fleet(tmp_path, names) as fleet:
        for name, daemon in fleet.daemons.items():
            daemon.configure(**_BUDGETS[name].settings)
            daemon.play(_BUDGETS[name].behaviour)
        found = fleet.each(give_up)
        assert outside(names, found) == {}
        time.sleep(5.5)  # the watch for cures looks once
        assert {name: d.started() for name, d in fleet.daemons.items()} == {
            name: starts for name, (starts, _) in found.items()
        }
        if "driver" in names:
            # And a GPU that comes after all tries is served on, with no person near.
            fleet.gpus["driver"].show(Gpu(), Gpu(uuid="GPU-new"))
            fleet.daemons["driver"].play_next(Behaviour())
            fleet.daemons["driver"].wait_phase("ready")
