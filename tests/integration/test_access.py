"""Who may use the control API: the kernel says who asks, and nothing in the request does."""

import json
import os
import subprocess
import sys

import pytest

from cahoots_vllm.core.wire import GROUP

from .harness import Daemon, Json

_NOBODY = 65534
# Everything is imported while it may still be read; then the process becomes somebody else.
_AS_ANOTHER = f"""
import os, sys
from cahoots_vllm.ctl import main, verbs, parser, client
os.setgroups([])
os.setgid({_NOBODY})
os.setuid({_NOBODY})
sys.exit(main.main(sys.argv[1:]))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def ctl_as_another(daemon: Daemon, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _AS_ANOTHER, "--socket", str(daemon.socket), *args],
        env=daemon.environment, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


def open_to_all(daemon: Daemon) -> None:
    """Open socket and directories, as an administrator could by mistake."""
    daemon.socket.chmod(0o666)
    daemon.runtime.chmod(0o755)
    daemon.runtime.parent.chmod(0o755)


@needs_root
def test_user_without_rights_cannot_connect(daemon: Daemon) -> None:
    daemon.start()
    for args in (("status",), ("stop",)):
        outcome = ctl_as_another(daemon, *args)
        assert outcome.returncode == 77, outcome.stderr
        assert "permission denied" in outcome.stderr
        assert f"usermod -aG {GROUP}" in outcome.stderr


@needs_root
def test_user_who_can_connect_may_look_but_not_change(daemon: Daemon) -> None:
    daemon.start_ready()
    open_to_all(daemon)
    outcome = ctl_as_another(daemon, "status", "--json")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["state"] == "ready"
    assert ctl_as_another(daemon, "logs", "-n", "1").returncode == 0
    for args in (("stop",), ("start",), ("restart",), ("swap-model", "org/b")):
        outcome = ctl_as_another(daemon, *args)
        assert outcome.returncode == 77, outcome.stderr
        assert f"uid {_NOBODY} may look but not change anything" in outcome.stderr
    refused = json.loads(ctl_as_another(daemon, "stop", "--json").stdout)
    assert (refused["status"], refused["type"].rpartition(":")[2]) == (403, "not-permitted")
    assert daemon.phase() == "ready"
    assert daemon.api("GET", "/v1/operations") == {"operations": []}


@needs_root
def test_user_without_rights_cannot_abort(daemon: Daemon) -> None:
    daemon.start_ready()
    open_to_all(daemon)
    operation: Json = daemon.change("restart")
    outcome = ctl_as_another(daemon, "operations", "abort", operation["id"])
    assert outcome.returncode == 77


def test_stopped_daemon_is_unreachable(daemon: Daemon) -> None:
    outcome = daemon.ctl("status")
    assert outcome.returncode == 4
    assert "nothing listens on" in outcome.stderr
    daemon.write_env(LLM_PROVIDER="mock")  # a killed daemon leaves its worker to the next one
    daemon.start()
    daemon.kill()
    assert daemon.ctl("status").returncode == 4
