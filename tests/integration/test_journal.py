"""The journal under a daemon with the stand-in engine: fields, order, and a flood."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fake_vllm.script import LOGS, Behaviour, failure

from .harness import Daemon, wait_for
from .journald import Journald

DAEMON, WORKER = "cahoots-vllmd", "cahoots-vllm-worker"


@pytest.fixture
def journald(daemon: Daemon) -> Iterator[Journald]:
    """The journal that `daemon` writes to."""
    one = Journald(daemon.runtime.parent / "journald")
    daemon.environment |= one.environment(daemon.log, daemon.environment["PYTHONPATH"])
    yield one
    one.close()


def flood(path: Path, lines: int) -> Behaviour:
    """Return a start that writes so many lines as fast as it can, and then dies of a cause."""
    text = "".join(
        f"(APIServer pid=7) INFO 11-22 22:33:35 [a.py:{number}] line {number}\n"
        for number in range(lines)
    )
    path.write_text(text + (LOGS / "missing_dependency.log").read_text())
    return replace(failure("missing_dependency"), log=str(path.with_suffix("")))


def test_failure_is_told_after_the_words_that_led_to_it(daemon: Daemon, journald: Journald) -> None:
    daemon.play(failure("missing_dependency"))
    daemon.start()
    daemon.wait_phase("failed")
    (told,) = wait_for(lambda: journald.entries(CAHOOTS_CAUSE="missing_dependency"))
    assert (told["SYSLOG_IDENTIFIER"], told["PRIORITY"]) == (DAEMON, "3")
    assert (told["CAHOOTS_MODEL"], told["CAHOOTS_GENERATION"]) == ("org/a", "1")
    assert told["CAHOOTS_PHASE"] == "starting"

    entries = journald.entries()
    before = entries[: entries.index(told)]
    said = [entry for entry in before if entry["SYSLOG_IDENTIFIER"] == WORKER]
    assert {entry["CAHOOTS_PHASE"] for entry in said} == {"starting"}
    assert said[-1]["MESSAGE"].startswith("Traceback (most recent call last):\n")
    assert said[-1]["MESSAGE"].endswith("Failed core proc(s): {}")
    assert said[-1]["PRIORITY"] == "3"
    engine = [entry for entry in said if "EngineCore failed to start" in entry["MESSAGE"]]
    assert [entry["PRIORITY"] for entry in engine] == ["3"]
    assert engine[0]["MESSAGE"].count("\n") > 20
    assert f"(EngineCore pid={engine[0]['SYSLOG_PID']})" in engine[0]["MESSAGE"]


def test_good_life_has_no_warning_of_the_daemons(daemon: Daemon, journald: Journald) -> None:
    daemon.start_ready()
    daemon.says("hello")
    daemon.stop()
    mine = journald.entries(SYSLOG_IDENTIFIER=DAEMON)
    assert {"ready", "stopping"} <= {entry.get("CAHOOTS_PHASE") for entry in mine}
    assert {entry["PRIORITY"] for entry in mine} == {"6"}
    assert journald.entries(SYSLOG_IDENTIFIER=WORKER, CAHOOTS_GENERATION="1")
    # All of it is there, and nothing of it twice.
    assert daemon.log.read_text() == ""


def test_swap_names_who_asked_for_it(daemon: Daemon, journald: Journald) -> None:
    daemon.start_ready()
    daemon.ctl("swap-model", "org/b")
    asked = journald.entries(CAHOOTS_MODEL="org/b", CAHOOTS_UID=str(os.getuid()))
    assert f"(uid {os.getuid()}), pid {asked[0]['CAHOOTS_PID']}, model org/b" in asked[0]["MESSAGE"]


def test_flood_of_the_worker_costs_the_daemon_nothing(
    daemon: Daemon, journald: Journald, tmp_path: Path
) -> None:
    daemon.play(flood(tmp_path / "flood.log", 100_000))
    journald.seconds_an_entry = 0.02
    daemon.start()
    answers = 0
    while daemon.phase() != "failed":
        # It has much to write meanwhile, and answers all the same.
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        answers += 1
        time.sleep(0.05)
    assert answers > 10

    # What mattered in the flood is there, and how much is not.
    def left_out() -> int:
        theirs = journald.entries(SYSLOG_IDENTIFIER=WORKER, PRIORITY="4")
        told = (one["MESSAGE"].partition(" entries of the worker were left out") for one in theirs)
        return sum(int(count) for count, said, _ in told if said)

    wait_for(lambda: left_out() > 50_000)  # the pump itself leaves out some at the end
    theirs = journald.entries(SYSLOG_IDENTIFIER=WORKER)
    assert 20 < len(theirs) < 5_000
    assert any("EngineCore failed to start" in entry["MESSAGE"] for entry in theirs)
    mine = journald.entries(SYSLOG_IDENTIFIER=DAEMON)
    assert len(journald.entries(CAHOOTS_CAUSE="missing_dependency")) == 1
    assert sum("settings read again" in entry["MESSAGE"] for entry in mine) > 3
    # Nothing had to go the plain way, without fields.
    assert daemon.log.read_text() == ""
