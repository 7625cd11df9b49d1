"""Why inference is slow: what is told of the worker that serves."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cahoots_vllm.control.findings import SlowFindings
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.host.gpu_health import DriverHealth, GpuHealth

_LOADED = "(Worker pid=1) INFO [default_loader.py:501] Loading weights took 25.0 seconds"


async def _no_figures() -> None:
    """Say nothing, as an engine that is busy."""


def serving(directory: Path, generation: int, *, was_beside: bool) -> Supervisor:
    """Return what the findings look at: the state's worker, and the one that is there."""
    worker = SimpleNamespace(
        generation=2,
        is_running=True,
        launch=SimpleNamespace(source=str(directory)),
        metrics=_no_figures,
        pids=list,
        start_lines=lambda: (_LOADED,),
    )
    live = SimpleNamespace(generation=generation, was_beside=was_beside)
    settings = SimpleNamespace(engine=SimpleNamespace(is_cpu=False))
    found = SimpleNamespace(worker=worker, state=SimpleNamespace(live=live), settings=settings)
    return cast("Supervisor", found)


@pytest.mark.parametrize(
    ("generation", "was_beside", "count"),
    [(2, False, 1), (2, True, 0), (3, False, 0)],
    ids=["alone", "beside another", "replaced meanwhile"],
)
async def test_slow_load_is_told_where_the_disk_alone_can_be_the_cause(
    tmp_path: Path, generation: int, was_beside: bool, count: int  # noqa: FBT001 (parametrized)
) -> None:  # fmt: skip
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    health = GpuHealth()
    health.read = DriverHealth  # type: ignore[method-assign]
    found = await SlowFindings(serving(tmp_path, generation, was_beside=was_beside), health).read()
    assert sum("loading" in finding.sentence for finding in found) == count
