"""`cahootsctl diagnose` and `memory`: without a daemon, and with one that has learned."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from cahoots_vllm.core.log_line import parse_line
from cahoots_vllm.ctl import diagnose
from unit.ctl.conftest import Run
from unit.ctl.fake_daemon import FakeDaemon, answer, chunked

FAILURES = Path(__file__).parents[2] / "failures" / "real"
TOO_SMALL = FAILURES / "026-kv_cache_too_small-kv-too-small-2m.log"


def test_diagnosis_has_what_a_person_needs(ctl: Run) -> None:
    result = ctl("diagnose", str(TOO_SMALL))
    assert result.code == 0
    assert result.out.startswith(
        "cause       kv_cache_too_small at line 87\nevidence    ValueError"
    )
    assert "set max-model-len to 524160" in result.out.replace("\n            ", " ")
    assert "the daemon  raises gpu-memory-utilization as far as memory is free" in result.out
    assert "available 0.25 GiB, max model len 2000000, estimated len 524160" in result.out


def test_diagnosis_in_json_has_the_documented_fields(ctl: Run) -> None:
    found = json.loads(ctl("diagnose", "--json", str(TOO_SMALL)).out)
    assert {"cause", "evidence", "line", "remedy", "retryable", "action"} <= set(found)
    assert (found["cause"], found["line"], found["retryable"]) == ("kv_cache_too_small", 87, True)
    assert found["figures"]["estimated_len"] == 524160


def test_diagnosis_reads_standard_input(ctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TOO_SMALL.read_bytes())))
    assert "kv_cache_too_small" in ctl("diagnose", "-").out


@pytest.mark.parametrize("end", [("--signal", "9"), ("--exit-code", "137"), ("--exit-code", "-9")])
def test_diagnosis_takes_the_end_into_account(
    ctl: Run, tmp_path: Path, end: tuple[str, str]
) -> None:
    log = tmp_path / "log"
    log.write_text("(APIServer pid=1) INFO 11-22 22:17:39 [a.py:1] vLLM server version 0.32.0\n")
    assert "host_oom" in ctl("diagnose", str(log), *end).out


def test_diagnosis_of_a_binary_file_names_nothing(ctl: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\x00\xff\xfe" * 1000)
    assert json.loads(ctl("diagnose", "--json", str(log)).out)["cause"] == "unknown"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (gzip.compress(b"x" * 99), "is compressed"), (b"\xfd7zXZ\x00", "xzcat")],
    ids=["empty", "gzip", "xz"],
)
def test_file_without_a_readable_log_is_refused(
    ctl: Run, tmp_path: Path, content: bytes, words: str
) -> None:
    log = tmp_path / "log"
    log.write_bytes(content)
    result = ctl("diagnose", str(log))
    assert (result.code, result.out) == (1, "")
    assert words in result.err


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_byte_order_mark_tells_the_encoding(ctl: Run, tmp_path: Path, encoding: str) -> None:
    log = tmp_path / "log"
    log.write_bytes(TOO_SMALL.read_bytes().decode().replace("\n", "\r\n").encode(encoding))
    assert "kv_cache_too_small at line 87" in ctl("diagnose", str(log)).out


def test_line_of_a_huge_log_is_counted_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnose, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(diagnose, "_MAX_CHARS", 100_000)
    log = tmp_path / "log"
    log.write_bytes(b"a line of nobody\n" * 100_000 + TOO_SMALL.read_bytes())
    read = diagnose.read_log(str(log))
    assert sum(map(len, read.lines)) <= 101_000
    found = diagnose.find(read, 1, None)
    assert (found.cause.value, found.line) == ("kv_cache_too_small", 100_087)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_diagnosis_reads_what_logs_prints(
    daemon: FakeDaemon, ctl: Run, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    start = {"at": "2026-11-22T22:33:35+00:00", "generation": 3, "source": "worker"}
    lines = TOO_SMALL.read_text("utf-8").splitlines()
    entries = [start | {"level": parse_line(text).level, "text": text} for text in lines]
    daemon.on(
        "GET /v1/logs?n=999&follow=0", chunked(*(f"{json.dumps(e)}\n".encode() for e in entries))
    )
    printed = ctl("logs", "-n", "999", *flags).out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(printed.encode())))
    assert "kv_cache_too_small" in ctl("diagnose", "-").out


def test_diagnosis_of_a_missing_file_says_so(ctl: Run, tmp_path: Path) -> None:
    result = ctl("diagnose", str(tmp_path / "none"))
    assert (result.code, result.out) == (1, "")
    assert "No such file or directory" in result.err


CHANGE = {"option": "gpu-memory-utilization", "before": 0.9, "after": 0.85}
LESSON: dict[str, Any] = {
    "model": "org/A",
    "revision": "abc",
    "engine": "0.32.0",
    "devices": ["GPU-1"],
    "options": "",
    "adapted": [CHANGE],
    "has_worked": True,
    "steps": [
        {
            "at": "2026-10-01T00:13:05+00:00",
            "cause": "gpu_oom_startup_alloc",
            "reason": "torch.OutOfMemoryError",
            "changed": [CHANGE],
        }
    ],
    "failed": [
        {
            "at": "2026-10-01T00:13:05+00:00",
            "sizes": {"gpu-memory-utilization": 0.9},
            "problem": "too much memory",
        }
    ],
}


def test_memory_shows_what_was_learned_and_why(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/memory", answer({"memory": [LESSON]}))
    shown = ctl("memory").out
    assert "model       org/A with vLLM 0.32.0 on GPU-1" in shown
    assert "  sizes     gpu-memory-utilization from 0.9 to 0.85 (worked)" in shown
    assert "gpu_oom_startup_alloc: gpu-memory-utilization from 0.9 to 0.85" in shown
    assert "  fails     gpu-memory-utilization 0.9: too much memory" in shown


def test_memory_without_lessons_says_so(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/memory", answer({"memory": []}))
    assert "nothing learned yet" in ctl("memory", "show").out


def test_memory_reset_of_one_model_names_it_safely(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("DELETE /v1/memory?model=org%2FA%26b", answer({"forgotten": 1}))
    assert ctl("memory", "reset", "org/A&b").out.startswith("1 forgotten")
    daemon.on("DELETE /v1/memory", answer({"forgotten": 3}))
    assert ctl("memory", "reset").out.startswith("3 forgotten")
