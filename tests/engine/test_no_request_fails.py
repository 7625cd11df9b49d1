"""No request of the real client fails because the worker changes, on a real engine under load.

Four changes once each; tests/bench/worker_changes.py does all of them several times.
"""

import pytest

from engine.changes import CHANGES
from engine.harness import Daemon, wait_for
from engine.load import load

pytestmark = pytest.mark.timeout(600)


_TRIED = ("swap", "SIGKILL of EngineCore", "SIGKILL of the API server", "SIGSTOP of EngineCore")


@pytest.mark.parametrize("name", _TRIED)
def test_change_under_load_fails_no_request(daemon: Daemon, name: str) -> None:
    daemon.wait_ready()
    with load(daemon) as asked:
        assert wait_for(lambda: len(asked.outcomes) > 4, 60)
        CHANGES[name](daemon)
        count = len(asked.outcomes)
        assert wait_for(lambda: len(asked.outcomes) > count + 4, 60)
    print(  # noqa: T201 (figures, not a log)
        f"\n    {name}: {asked.count(is_stream=False)} requests and {asked.count(is_stream=True)} "
        f"streams, {len(asked.broken_off)} broken off, the longest took {asked.longest_s:.1f} s"
    )
    assert asked.failed == []
    # Two clients stream, and one death breaks off what had begun.
    assert len(asked.broken_off) <= (0 if name == "swap" else 2)
