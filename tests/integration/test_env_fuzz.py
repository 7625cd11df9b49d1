"""Random `.env` files that cannot be used, on a daemon with a worker: nothing that runs changes."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings

from cahoots_vllm.core.errors import Kind
from cahoots_vllm.ctl.problems import ProblemError
from unit.control.test_settings_fuzz import CONTENTS, SECRET, read

from .harness import Daemon

CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


@pytest.mark.timeout(300)
def test_file_that_cannot_be_used_never_changes_what_runs(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start_ready()
    before = daemon.status()["worker"]["pid"]
    refused = 0

    @settings(max_examples=300, deadline=None, suppress_health_check=CHECKS)
    @given(content=CONTENTS)
    def save(content: bytes) -> None:
        nonlocal refused
        copy = tmp_path / "copy.env"
        copy.write_bytes(content)
        assume(read(copy)[0] is None)
        (daemon.root / ".env").write_bytes(content)
        with pytest.raises(ProblemError) as problem:
            daemon.api("POST", "/v1/reload", {})
        assert problem.value.kind == Kind.BAD_SETTINGS
        status = daemon.status()
        assert (status["state"], status["worker"]["pid"]) == ("ready", before)
        refused += 1

    save()
    assert refused > 100
    assert daemon.says("still here") == "fake: still here"
    assert daemon.started() == 1
    assert SECRET not in daemon.log.read_text()
