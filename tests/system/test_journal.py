"""The journal: fields to search by, priorities, and the line of each failure."""

from fake_vllm.script import failure
from system.machine import wait_for
from system.service import UNIT
from system.stand_in import StandIn


def test_failure_is_found_by_its_cause_and_says_what_to_do(stand_in: StandIn) -> None:
    machine = stand_in.machine
    since = machine.say("date", "+%s.%N")
    stand_in.play(failure("missing_dependency"))
    stand_in.ctl("restart", "--no-wait")
    wait_for(lambda: stand_in.status()["state"] == "failed", 30)

    found = machine.journal(f"--since=@{since}", "CAHOOTS_CAUSE=missing_dependency")

    entry = found[0]
    assert entry["CAHOOTS_MODEL"] == "org/a"
    assert entry["CAHOOTS_REMEDY"]
    assert entry["PRIORITY"] == "3"
    assert entry["_SYSTEMD_UNIT"] == UNIT
    assert entry["SYSLOG_IDENTIFIER"] == "cahoots-vllmd"
    assert entry["MESSAGE"] in machine.messages(f"--since=@{since}", f"--unit={UNIT}", "-p", "err")


def test_a_good_start_is_no_warning(stand_in: StandIn) -> None:
    machine = stand_in.machine
    since = machine.say("date", "+%s.%N")
    stand_in.ctl("restart", check=True)
    assert machine.journal(f"--since=@{since}", f"--unit={UNIT}", "-p", "warning") == []
