"""Lines become entries: a traceback is one, nothing is lost, nobody's words are reordered."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cahoots_vllm.core.log_entries import DEBUG, ERROR, INFO, WARNING, Entry, LogEntries
from cahoots_vllm.core.log_line import parse_line

LOGS = sorted((Path(__file__).parents[2] / "failures" / "real").glob("*.log"))
AT = "11-22 22:33:35"


def entries(*lines: str) -> list[Entry]:
    """Return what becomes of lines that come at once, and then no more."""
    log = LogEntries()
    found = [entry for line in lines for entry in log.add(line, 0.0)]
    return [*found, *log.rest()]


@pytest.mark.parametrize(
    ("line", "priority"),
    [
        (f"(EngineCore pid=7) INFO {AT} [core.py:1] up", INFO),
        (f"(EngineCore pid=7) WARNING {AT} [core.py:1] slow", WARNING),
        (f"ERROR {AT} [core.py:1] broken", ERROR),
        (f"DEBUG {AT} [core.py:1] detail", DEBUG),
        (f"CRITICAL {AT} [core.py:1] broken", 2),
        ("INFO:     Started server process", INFO),
        ("Loading weights: 50%", INFO),
        ("Fatal Python error: Aborted", ERROR),
        ("terminate called after throwing an instance of 'c10::Error'", ERROR),
        ("Traceback (most recent call last):", ERROR),
        ("[rank0]:[E225 11:11:34.120387114 ProcessGroupNCCL.cpp:1595] watchdog", ERROR),
    ],
)
def test_priority_is_the_level_that_vllm_gave(line: str, priority: int) -> None:
    (entry,) = entries(line)
    assert (entry.text, entry.priority) == (line, priority)


def test_traceback_in_the_engines_log_is_one_entry() -> None:
    head = f"(EngineCore pid=7) ERROR {AT} [core.py:1510] "
    said = entries(
        head + "EngineCore failed to start.",
        head + "Traceback (most recent call last):",
        head + '  File "a.py", line 5, in step',
        head + "    raise ValueError(1)",
        head + "ValueError: 1",
        f"(EngineCore pid=7) INFO {AT} [core.py:9] bye",
    )
    assert [entry.text.count("\n") for entry in said] == [4, 0]
    # The header stands once: what follows reads as Python prints it.
    assert said[0].text.endswith("\n    raise ValueError(1)\nValueError: 1")
    assert (said[0].priority, said[0].pid) == (ERROR, "7")


def test_empty_line_of_a_record_stays_in_it() -> None:
    head = f"(EngineCore pid=7) ERROR {AT} [core.py:1510]"
    said = entries(f"{head} It failed:", head, f"{head} the end")
    assert [entry.text for entry in said] == [f"{head} It failed:\n\nthe end"]


@pytest.mark.parametrize("blank", [[""], []], ids=["blank lines", "as the pump gives them"])
def test_bare_traceback_with_its_chain_is_one_entry(blank: list[str]) -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in <module>',
        "KeyError: 'a'",
        *blank,
        "During handling of the above exception, another exception occurred:",
        *blank,
        "Traceback (most recent call last):",
        '  File "b.py", line 1, in <module>',
        "vllm.errors.EngineDeadError: it died",
    ]
    said = entries(*lines, "INFO:     Shutting down")
    assert [entry.text for entry in said] == ["\n".join(lines), "INFO:     Shutting down"]


def test_message_of_several_lines_stays_with_what_was_raised() -> None:
    raised = [
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in <module>',
        "OSError: You are trying to access a gated repo.",
        "Make sure to have access to it at https://huggingface.co/meta-llama/Llama-3.1-8B.",
        "401 Client Error. (Request ID: Root=1-6924)",
    ]
    (entry,) = entries(*raised)
    assert (entry.text, entry.priority) == ("\n".join(raised), ERROR)


@pytest.mark.parametrize(
    "line",
    [
        "Process EngineCore_DP0:",
        "/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: leaked",
        "[W1123 14:02:58.244881201 ProcessGroupNCCL.cpp:1575] Warning: not destroyed",
        "W1126 13:32:32.838000 181 torch/_library/triton.py:53] Triton not available",
        "Loading safetensors checkpoint shards:  50% Completed | 1/2",
    ],
)
def test_what_begins_after_a_traceback_is_none_of_it(line: str) -> None:
    said = entries("Traceback (most recent call last):", "KeyError: 'a'", line)
    assert [(entry.text, entry.priority) for entry in said[1:]] == [(line, INFO)]


def test_stream_of_bare_lines_is_not_taken_for_a_message() -> None:
    said = entries("Traceback (most recent call last):", "E: x", *["and so on"] * 100)
    assert said[0].text.count("\n") < 40
    assert {entry.priority for entry in said[1:]} == {INFO}


def test_second_traceback_is_another_entry() -> None:
    raised = ["Traceback (most recent call last):", "  File", "E: x"]
    assert [entry.text for entry in entries(*raised, *raised)] == ["\n".join(raised)] * 2


def test_uvicorns_error_and_what_was_raised_are_one_entry() -> None:
    lines = [
        "ERROR:    Exception in ASGI application",
        "Traceback (most recent call last):",
        "  File",
        "ValueError: x",
    ]
    said = entries(*lines, "ERROR:    another", "ERROR:    and another")
    assert [entry.text.count("\n") for entry in said] == [3, 0, 0]


def test_warning_of_several_lines_is_one_entry() -> None:
    head = f"(APIServer pid=7) WARNING {AT} [cpu.py:224] "
    said = entries(head + "one", head + "two", f"(APIServer pid=7) WARNING {AT} [b.py:1] three")
    assert [entry.text for entry in said] == [head + "one\ntwo", said[1].text]


def test_coloured_traceback_is_one_entry_without_colours() -> None:
    head = f"\x1b[1;36m(EngineCore pid=7)\x1b[0;0m ERROR {AT} [core.py:1] "
    (entry,) = entries(f"{head}\x1b[31mTraceback (most recent call last):", f"{head}E: x")
    assert entry.text == (
        f"(EngineCore pid=7) ERROR {AT} [core.py:1] Traceback (most recent call last):\nE: x"
    )


def test_characters_that_journalctl_would_hide_a_line_for_are_replaced() -> None:
    assert [entry.text for entry in entries("a\x00b\x07c\td\x1b[Ae")] == ["a?b?c\tde"]


def test_speakers_without_end_are_not_kept_without_end() -> None:
    log = LogEntries()
    said = [
        entry
        for pid in range(10_000)
        for entry in log.add(f"(W pid={pid}) Traceback (most recent call last):", 0.0)
    ]
    assert 10_000 - len(said) < 100
    assert len(said) + len(log.rest()) == 10_000


def test_two_processes_that_fail_at_once_have_an_entry_each() -> None:
    def line(pid: int, text: str) -> str:
        return f"(Worker pid={pid}) ERROR {AT} [w.py:1] {text}"

    words = ["Traceback (most recent call last):", "  File", "Error: x"]
    said = entries(*(line(pid, word) for word in words for pid in (1, 2)))
    assert [(entry.pid, entry.text.count("\n")) for entry in said] == [("1", 2), ("2", 2)]


def test_open_entry_is_given_once_its_speaker_is_quiet() -> None:
    log = LogEntries()
    assert log.add("Traceback (most recent call last):", 1.0) == []
    assert log.add("  File", 1.2) == []
    assert log.due(1.4) == []
    assert [entry.text.count("\n") for entry in log.due(1.6)] == [1]
    assert not log.is_waiting


def test_endless_traceback_comes_in_parts() -> None:
    said = entries("Traceback (most recent call last):", *["  deeper"] * 1000)
    assert len(said) > 1
    assert sum(entry.text.count("deeper") for entry in said) == 1000
    assert max(entry.text.count("\n") for entry in said) < 400


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem[:40])
def test_real_failure_keeps_its_words_and_its_errors(path: Path) -> None:
    lines = path.read_text(errors="replace").splitlines()
    said = entries(*lines)
    # Every word, in each speaker's own order.
    assert sum(entry.text.count("\n") + 1 for entry in said) == len(lines)
    wanted = sum(parse_line(line).message.startswith("Traceback (most") for line in lines)
    begun = sum(entry.text.count("Traceback (most recent call last):") for entry in said)
    assert begun >= wanted
    errors = [entry for entry in said if entry.priority <= ERROR]
    assert len(errors) <= max(1, len(lines) / 4)
    # What begins like a frame belongs to somebody.
    orphans = [entry for entry in said if entry.text.startswith("  File ")]
    assert not orphans


_WORDS = st.sampled_from(
    [
        "Traceback (most recent call last):", '  File "a.py", line 1', "ValueError: x", "hello", "",
        f"ERROR {AT} [a.py:1] broken", f"INFO {AT} [a.py:2] fine",
    ]
)  # fmt: skip
_LINES = st.lists(st.tuples(st.sampled_from(["", "(A pid=1) ", "(B pid=2) "]), _WORDS), max_size=60)


@given(_LINES, st.lists(st.floats(0, 1), min_size=60, max_size=60))
@settings(max_examples=300)
def test_no_line_is_lost_or_out_of_its_speakers_order(
    lines: list[tuple[str, str]], pauses: list[float]
) -> None:
    log, now, said = LogEntries(), 0.0, list[Entry]()
    for number, ((speaker, words), pause) in enumerate(zip(lines, pauses, strict=False)):
        now += pause
        said += log.due(now)
        said += log.add(f"{speaker}{words} #{number}", now)
    said += log.rest()
    told = [
        (entry.pid, int(line.rpartition("#")[2]))
        for entry in said
        for line in entry.text.split("\n")
    ]
    assert sorted(number for _, number in told) == list(range(len(lines)))
    for pid in ("1", "2", None):
        order = [number for speaker, number in told if speaker == pid]
        assert all(a < b for a, b in pairwise(order))
