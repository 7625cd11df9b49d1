"""Worker lines in the journal: fields, and a flood that takes only its own share."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from cahoots_vllm.control.worker_log import Share, WorkerLog

AT = "11-22 22:33:35"


@dataclass
class Journald:
    """Takes entries, or for a while none."""

    entries: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    is_full: bool = False

    def send(self, message: str, priority: int, fields: Mapping[str, str]) -> bool:
        if not self.is_full:
            self.entries.append((message, priority, dict(fields)))
        return not self.is_full


async def test_entry_says_whose_it_is() -> None:
    journal = Journald()
    log = WorkerLog(journal)
    log.phase({"CAHOOTS_MODEL": "org/a", "CAHOOTS_PHASE": "starting"})
    log.line(3, f"(EngineCore pid=7) INFO {AT} [a.py:1] slow")
    ((text, priority, fields),) = journal.entries
    assert (text.endswith("slow"), priority) == (True, 6)
    assert fields == {
        "SYSLOG_IDENTIFIER": "cahoots-vllm-worker",
        "SYSLOG_PID": "7",
        "CAHOOTS_MODEL": "org/a",
        "CAHOOTS_PHASE": "starting",
        "CAHOOTS_GENERATION": "3",
    }


async def test_traceback_is_sent_without_waiting_for_another_line() -> None:
    journal = Journald()
    log = WorkerLog(journal)
    log.line(1, "Traceback (most recent call last):")
    log.line(1, "ValueError: x")
    assert journal.entries == []
    await asyncio.sleep(0.7)
    assert [text for text, _, _ in journal.entries] == [
        "Traceback (most recent call last):\nValueError: x"
    ]


async def test_end_of_the_daemon_loses_nothing_held_back() -> None:
    journal = Journald()
    log = WorkerLog(journal)
    log.line(1, f"ERROR {AT} [a.py:1] last words")
    log.close()
    assert len(journal.entries) == 1


async def test_traceback_keeps_the_phase_it_was_said_in() -> None:
    journal = Journald()
    log = WorkerLog(journal)
    log.phase({"CAHOOTS_PHASE": "starting"})
    log.line(1, "Traceback (most recent call last):")
    log.phase({"CAHOOTS_PHASE": "backoff"})
    log.line(1, "bye")
    assert [fields["CAHOOTS_PHASE"] for _, _, fields in journal.entries] == ["starting", "backoff"]


async def test_next_worker_does_not_go_on_with_the_last_ones_words() -> None:
    journal = Journald()
    log = WorkerLog(journal)
    log.line(1, "Traceback (most recent call last):")
    log.line(2, "ValueError: x")
    assert [
        (text, priority, fields["CAHOOTS_GENERATION"]) for text, priority, fields in journal.entries
    ] == [("Traceback (most recent call last):", 3, "1"), ("ValueError: x", 6, "2")]


async def test_flood_is_cut_to_its_share_and_counted_once() -> None:
    journal = Journald()
    log = WorkerLog(journal)
    for number in range(20_000):
        log.line(1, f"INFO {AT} [a.py:1] {number}")
    # Below what journald grants the whole service in 30 s, the daemon's own entries included.
    assert len(journal.entries) < 5_000
    # An error gets through all the same.
    log.line(1, f"ERROR {AT} [a.py:1] out of memory")
    await asyncio.sleep(1.4)
    assert "out of memory" in [text for text, _, _ in journal.entries][-2]
    text, priority, _ = journal.entries[-1]
    count, _, said = text.partition(" ")
    assert (said.split(",")[0], priority) == ("entries of the worker were left out", 4)
    assert int(count) + len(journal.entries) - 2 == 20_000


async def test_long_entries_take_more_of_the_share() -> None:
    journal = Journald()
    log = WorkerLog(journal)
    for _ in range(5000):
        log.line(1, "x" * 3999)
    log.close()
    assert 100 < len(journal.entries) < 500


async def test_journal_that_takes_nothing_is_no_matter() -> None:
    journal = Journald(is_full=True)
    log = WorkerLog(journal)
    log.line(1, f"INFO {AT} [a.py:1] one")
    journal.is_full = False
    log.line(1, f"INFO {AT} [a.py:1] two")
    log.close()
    texts = [text for text, _, _ in journal.entries]
    assert texts[0].endswith("two")
    assert texts[1].startswith("1 entries")


async def test_error_waits_for_a_full_journal_in_its_order_and_phase() -> None:
    journal = Journald(is_full=True)
    log = WorkerLog(journal)
    log.phase({"CAHOOTS_PHASE": "starting"})
    for text in ("one", "two"):
        log.line(1, f"ERROR {AT} [a.py:1] {text}")
        log.flush()
    log.phase({"CAHOOTS_PHASE": "failed"})
    journal.is_full = False
    log.line(1, f"ERROR {AT} [a.py:2] three")
    log.flush()
    said = [(text.split()[-1], fields["CAHOOTS_PHASE"]) for text, _, fields in journal.entries]
    assert said == [("one", "starting"), ("two", "starting"), ("three", "failed")]


async def test_error_waits_without_another_line() -> None:
    journal = Journald(is_full=True)
    log = WorkerLog(journal)
    log.line(1, f"ERROR {AT} [a.py:1] one")
    await asyncio.sleep(0.7)
    journal.is_full = False
    await asyncio.sleep(0.4)
    assert len(journal.entries) == 1


async def test_errors_that_wait_are_few() -> None:
    journal = Journald(is_full=True)
    log = WorkerLog(journal)
    for number in range(300):
        log.line(1, f"ERROR {AT} [a.py:{number}] one")
    log.flush()
    journal.is_full = False
    log.close()
    assert len(journal.entries) == 51
    assert journal.entries[-1][0].startswith("250 entries")


async def test_without_a_journal_nothing_is_sent() -> None:
    log = WorkerLog(None)
    log.line(1, "Traceback (most recent call last):")
    log.close()


def test_share_comes_back_with_time() -> None:
    share = Share(2, 1)
    assert [share.take(0), share.take(0), share.take(0)] == [True, True, False]
    assert [share.take(1.5), share.take(1.5)] == [True, False]
    assert [share.take(100), share.take(100), share.take(100)] == [True, True, False]
