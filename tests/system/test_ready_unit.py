"""cahoots-vllm-ready.service: what is ordered after it starts once the model answers."""

from collections.abc import Iterator

import pytest

from fake_vllm.script import Behaviour
from system.machine import wait_for
from system.service import UNIT
from system.stand_in import StandIn

READY, AFTER = "cahoots-vllm-ready.service", "after-model.service"
_AFTER = f"""\
[Unit]
Wants={READY}
After={READY}
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cahootsctl status --json >/run/new; mv /run/new /run/after-model.json'
"""

_CONSUMER = f"""\
[Unit]
Wants={READY}
After={READY}
[Service]
ExecStart=/bin/sleep infinity
"""


@pytest.fixture
def stopped(stand_in: StandIn) -> Iterator[StandIn]:
    """The stopped service, and a unit ordered after the ready one."""
    machine = stand_in.machine
    machine.write(f"/etc/systemd/system/{AFTER}", _AFTER)
    machine.systemctl("daemon-reload")
    machine.systemctl("stop", UNIT)
    machine.run(["rm", "-f", "/run/after-model.json"])
    yield stand_in
    machine.systemctl("stop", AFTER, READY)


def test_unit_ordered_after_it_starts_once_a_token_came_out(stopped: StandIn) -> None:
    machine = stopped.machine
    stopped.play(Behaviour(memory={}, delays_s={"load": 3}))

    machine.systemctl("start", "--no-block", AFTER)

    wait_for(lambda: stopped.status().get("state") == "starting", 10)
    assert machine.show(READY, "ActiveState") == "activating"
    assert machine.show(AFTER, "ActiveState") == "inactive"
    wait_for(lambda: machine.exists("/run/after-model.json"), 30)
    assert '"state": "ready"' in machine.read("/run/after-model.json")
    assert machine.show(READY, "ActiveState") == "active"


def test_it_waits_on_while_the_model_fails_and_may_yet_come(stopped: StandIn) -> None:
    machine = stopped.machine
    stopped.show_gpus()
    machine.systemctl("start", "--no-block", AFTER)
    wait_for(lambda: (stopped.status().get("last_failure") or {}).get("cause") == "cuda_driver")
    assert not machine.exists("/run/after-model.json")


def test_restart_of_the_daemon_is_over_in_moments_and_leaves_what_wants_it_alone(
    stand_in: StandIn,
) -> None:
    machine = stand_in.machine
    machine.write("/etc/systemd/system/consumer.service", _CONSUMER)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "consumer")
    before, worker, consumer = (
        machine.main_pid(), stand_in.worker_pid(), machine.main_pid("consumer"),
    )  # fmt: skip

    machine.run(["kill", "-KILL", str(before)])
    wait_for(lambda: machine.main_pid() not in (0, before), 10)
    wait_for(lambda: machine.show(READY, "ActiveState") == "active", 10)
    machine.systemctl("restart", UNIT)
    wait_for(lambda: machine.show(READY, "ActiveState") == "active", 10)

    assert stand_in.worker_pid() == worker
    assert machine.main_pid("consumer") == consumer
    machine.systemctl("stop", UNIT)
    assert machine.show(READY, "ActiveState") == "inactive"
    machine.systemctl("stop", "consumer")
