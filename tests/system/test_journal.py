"""The journal: fields to search by, priorities, and a worker's words apart from the daemon's."""

from collections.abc import Mapping
from typing import Any

import pytest

from fake_vllm.script import LOGS, failure
from system.machine import wait_for
from system.service import UNIT
from system.stand_in import StandIn

_DAEMON, _WORKER = "cahoots-vllmd", "cahoots-vllm-worker"


@pytest.fixture
def failed(stand_in: StandIn) -> tuple[StandIn, str]:
    """The service after a start that failed, and when that began."""
    since = stand_in.machine.say("date", "+--since=@%s.%N")
    stand_in.play(failure("missing_dependency"))
    stand_in.ctl("restart", "--no-wait")
    wait_for(lambda: stand_in.status()["state"] == "failed", 30)
    return stand_in, since


def test_failure_is_found_by_its_cause_and_says_what_to_do(failed: tuple[StandIn, str]) -> None:
    machine, since = failed[0].machine, failed[1]

    entry = machine.journal(since, "CAHOOTS_CAUSE=missing_dependency")[0]

    assert entry["CAHOOTS_MODEL"] == "org/a"
    assert entry["CAHOOTS_REMEDY"]
    assert entry["PRIORITY"] == "3"
    assert (entry["_SYSTEMD_UNIT"], entry["SYSLOG_IDENTIFIER"]) == (UNIT, _DAEMON)
    assert entry["MESSAGE"] in machine.messages(since, f"--unit={UNIT}", "--priority=err")


def test_traceback_of_the_worker_is_one_entry_with_its_priority(
    failed: tuple[StandIn, str],
) -> None:
    found = failed[0].machine.journal(failed[1], f"--identifier={_WORKER}", "--priority=err")
    tracebacks = [entry for entry in found if "Traceback" in str(entry["MESSAGE"])]
    assert tracebacks
    for entry in tracebacks:
        assert str(entry["MESSAGE"]).splitlines()[-1].strip()[0].isalpha(), entry["MESSAGE"]
        assert entry["CAHOOTS_MODEL"] == "org/a"
        assert int(entry["CAHOOTS_GENERATION"]) > 0


def test_good_start_is_told_by_both_and_the_daemon_warns_of_nothing(stand_in: StandIn) -> None:
    machine = stand_in.machine
    since = machine.say("date", "+--since=@%s.%N")
    stand_in.ctl("restart", check=True)

    found = machine.journal(since, f"--unit={UNIT}")

    assert {_DAEMON, _WORKER} <= {_identifier(entry) for entry in found}
    warnings = [entry for entry in found if int(entry["PRIORITY"]) <= 4]
    assert _DAEMON not in {_identifier(entry) for entry in warnings}
    generation = str(stand_in.status()["worker"]["generation"])
    said = machine.journal(since, f"CAHOOTS_GENERATION={generation}")
    assert {_identifier(entry) for entry in said} == {_DAEMON, _WORKER}


def test_flood_of_the_worker_is_cut_and_the_daemons_entries_keep_their_fields(
    stand_in: StandIn,
) -> None:
    machine = stand_in.machine
    since = machine.say("date", "+--since=@%s.%N")
    head = "(APIServer pid=7) INFO 11-22 22:33:35"
    flood = "".join(f"{head} [a.py:{number}] line {number}\n" for number in range(50_000))
    words = f"{flood}{(LOGS / 'missing_dependency.log').read_text()}"
    start = stand_in.play_log("flood", words, failure("missing_dependency"))
    stand_in.play(start)
    stand_in.ctl("restart", "--no-wait")
    wait_for(lambda: stand_in.status()["state"] == "failed", 60)
    wait_for(lambda: "were left out" in machine.messages(since, f"--identifier={_WORKER}"), 30)

    mine = machine.journal(since, f"--identifier={_DAEMON}")
    assert {entry["_TRANSPORT"] for entry in mine} == {"journal"}
    assert len([entry for entry in mine if "CAHOOTS_CAUSE" in entry]) == 1
    theirs = machine.journal(since, f"--identifier={_WORKER}")
    assert 1_000 < len(theirs) < 5_000
    assert any("EngineCore failed to start" in str(entry["MESSAGE"]) for entry in theirs)
    # journald had no reason to drop any: it would say so.
    said = machine.messages(since, "--unit=systemd-journald.service")
    assert "Suppressed" not in said


def _identifier(entry: Mapping[str, Any]) -> str:
    return str(entry.get("SYSLOG_IDENTIFIER"))
