"""One line of output, alone or behind the prefixes of whoever stored it."""

import pytest

from cahoots_vllm.core.log_line import Depth, LogLine, parse_line

FAILED = LogLine("EngineCore failed to start.", "EngineCore", "ERROR", "7")
PLAIN = "(EngineCore pid=7) ERROR 11-22 22:33:35 [core.py:1510] EngineCore failed to start."
FRAME = '  File "/opt/venv/vllm/v1/engine/core.py", line 5, in step'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (PLAIN, FAILED),
        (
            "x (VllmWorker-0 pid=7) INFO 11-22 22:33:35 [model_executor/layers/a.py:1] hello\r",
            LogLine("hello", "VllmWorker-0", "INFO", "7"),
        ),
        ("(APIServer pid=7) Traceback (most", LogLine("Traceback (most", "APIServer", None, "7")),
        ("INFO 11-22 22:33:35 [a.py:1] hello", LogLine("hello", None, "INFO")),
        ("ERROR 07-12 10:21:11 async_llm_engine.py:56] hello", LogLine("hello", None, "ERROR")),
        ("INFO:     hello", LogLine("hello", None, "INFO")),
        (
            "(VllmWorker rank=1 pid=9) ERROR 05-10 16:00:15 [multiproc_executor.py:470] hello",
            LogLine("hello", "VllmWorker", "ERROR", "9"),
        ),
        (
            "(RayWorkerWrapper pid=1, ip=10.0.0.1) ERROR 03-27 10:29:13 [worker_base.py:620] hello",
            LogLine("hello", "RayWorkerWrapper", "ERROR", "1"),
        ),
        (
            "(Worker_TP1 pid=5) (Worker_TP3 pid=6) ERROR 11-22 22:33:35 [a.py:1] hello",
            LogLine("hello", "Worker_TP3", "ERROR", "6"),
        ),
        ("no prefix at all\r", LogLine("no prefix at all")),
        ("", LogLine("")),
    ],
)
def test_line_is_taken_apart(text: str, line: LogLine) -> None:
    assert parse_line(text) == line


@pytest.mark.parametrize(
    "prefix",
    [
        "vllm-1  | ",
        "Nov 22 22:33:35 host vllm[77]: ",
        "Nov 22 22:33:35.123456 host vllm[77]: ",
        "2025-11-22T10:00:00+0100 host vllm[77]: ",
        "Nov 22 22:33:35 worker[3]: ",  # cahootsctl logs
        "[pod/vllm-0/vllm] ",
        "0|vllm     | ",
        "[2025-11-22 10:00:00] ",
        "2025-05-10T16:00:15.123456789Z ",
        "2025-05-10T16:00:15.123Z stderr F ",
        "> - 2024-06-22T20:16:34.700+00:00 ",
        "INFO 2025-11-19T20:16:36.096Z [resource.labels.containerName: vllm] ",
        "2024-04-27 10:13:05 | ERROR | stderr | ",
        "1234:",
        "[rank0]: ",
        "\x1b[1;36m",
        "^[[0;0m",
        "cahoots-vllm-1  | 2025-05-10T16:00:15Z ",
    ],
)
@pytest.mark.parametrize("text", [PLAIN, FRAME])
def test_prefixes_of_others_are_taken_off(prefix: str, text: str) -> None:
    assert parse_line(prefix + text) == parse_line(text)


def test_indentation_stays_behind_the_prefix() -> None:
    line = parse_line(f"(EngineCore pid=7) ERROR 11-22 22:33:35 [core.py:1510] {FRAME}")
    assert line.message == FRAME


@pytest.mark.parametrize(
    ("process", "depth"),
    [
        ("Worker_TP0", Depth.WORKER),
        ("VllmWorkerProcess", Depth.WORKER),
        ("EngineCore_DP0", Depth.ENGINE),
        ("APIServer", Depth.OUTER),
        (None, Depth.OUTER),
    ],
)
def test_workers_are_the_innermost(process: str | None, depth: Depth) -> None:
    assert LogLine("x", process).depth is depth


def test_name_of_an_exception_is_no_syslog_program() -> None:
    line = parse_line("Nov 22 22:33:35 worker[3]: ValueError: x")
    assert line.message == "ValueError: x"


def test_daemons_line_in_cahootsctl_logs_is_loud_for_nobody() -> None:
    assert parse_line("Nov 22 22:33:35 daemon: OSError: x") == LogLine("OSError: x", None, "INFO")
