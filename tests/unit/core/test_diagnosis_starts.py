"""Whose words count: several starts in a log, an engine ended alone, errors that were survived."""

import json

import pytest

from cahoots_vllm.core.diagnosis import Cause, Exit, Trait, diagnose
from unit.core.test_diagnosis_wordings import OUT_OF_MEMORY, READY, STARTED, WRAPPER, raised

FAILED = [*STARTED, *raised(OUT_OF_MEMORY, "gpu_worker.py:load_model"), WRAPPER]
ANSWER = 'INFO:     127.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 200 OK'
STOPPED = "(APIServer pid=1) INFO 11-22 22:34:00 [launcher.py:254] [shutdown] API server: shutdown "
SIGNALLED = (
    "(EngineCore pid=2) INFO 11-22 22:34:00 [core.py:1454] [shutdown] EngineCore: trigger received "
    "signal=SIGTERM"
)
ENDS_ENGINE = (
    "(APIServer pid=1) INFO 11-22 22:34:00 [utils.py:628] [shutdown] Process manager: send sigterm "
    "to process EngineCore"
)
DEAD = (
    "(APIServer pid=1) ERROR 11-22 22:34:01 [async_llm.py:906] AsyncLLM output_handler failed.",
    "(APIServer pid=1) ERROR 11-22 22:34:01 [async_llm.py:906] EngineDeadError: EngineCore",
)
LORA = (
    "(EngineCore pid=2) ERROR 11-22 22:33:40 [core.py:800] Invocation of add_lora method failed",
    f"(EngineCore pid=2) ERROR 11-22 22:33:40 [core.py:800] {OUT_OF_MEMORY}",
)


def with_pids(lines: list[str], server: int, engine: int) -> list[str]:
    return [each.replace("=1)", f"={server})").replace("=2)", f"={engine})") for each in lines]


@pytest.mark.parametrize(
    "prefix",
    [
        "    ",
        "\t",
        "vllm-deploy-7d9f-abcde vllm ",
        "0|vllm     | ",
        "0: ",
        "[2025-11-22 10:00:00] ",
        "10:00:00.123 worker ",
        "2025-11-22T10:00:00+0100 gpu1 vllm[77]: ",
        "Nov 22 10:00:00.123456 gpu1 vllm[77]: ",
        "Nov 25 23:04:31 worker[3]: ",
        "Capturing CUDA graphs:  3%|3| 1/35\r",
        "\ufeff",
    ],
)
def test_columns_before_every_line_hide_nothing(prefix: str) -> None:
    found = diagnose(Exit(code=1), [prefix + line for line in FAILED])
    assert (found.cause, found.trait) == (Cause.GPU_OOM_STARTUP_ALLOC, Trait.LOADING)


def test_lines_that_all_say_the_same_error_keep_its_name() -> None:
    lines = ["OSError: [Errno 28] No space left on device: '/tmp/1'"] * 9
    assert diagnose(Exit(code=1), lines).cause is Cause.DISK_FULL


@pytest.mark.parametrize("key", ["log", "MESSAGE", "text"])
def test_lines_stored_as_json_objects_are_read(key: str) -> None:
    lines = [json.dumps({key: line + "\n", "time": "2025-11-22T10:00:00Z"}) for line in FAILED]
    assert diagnose(Exit(code=1), lines).trait is Trait.LOADING


def test_daemons_own_lines_in_cahootsctl_logs_are_not_the_engines() -> None:
    said = OUT_OF_MEMORY
    found = diagnose(Exit(code=1), [f"Nov 25 23:04:31 daemon: {said}"])
    assert found.cause is Cause.UNKNOWN
    line = json.dumps({"source": "daemon", "generation": 1, "text": said})
    assert diagnose(Exit(code=1), [line]).cause is Cause.UNKNOWN


def test_engine_that_somebody_ends_alone_is_a_failure() -> None:
    found = diagnose(Exit(code=0), [*STARTED, READY, ANSWER, SIGNALLED, *DEAD])
    assert (found.cause, found.line) == (Cause.ENGINE_DEAD_OTHER, 5)


def test_api_server_that_fails_ends_its_engine_and_is_the_cause() -> None:
    traceback = [
        "Traceback (most recent call last):",
        '  File "/opt/venv/uvicorn/config.py", line 131, in create_ssl_context',
        "FileNotFoundError: [Errno 2] No such file or directory",
    ]
    found = diagnose(Exit(code=1), [*STARTED, ENDS_ENGINE, SIGNALLED, *traceback])
    assert (found.cause, found.line) == (Cause.BAD_ARGUMENTS, 7)


def test_signal_to_the_whole_group_while_it_starts_is_a_stop() -> None:
    assert diagnose(Exit(), [*STARTED, SIGNALLED, WRAPPER]).cause is Cause.NOT_A_FAILURE


def test_error_survived_by_500_requests_does_not_name_a_later_death() -> None:
    found = diagnose(Exit(code=0), [*STARTED, READY, *LORA, *[ANSWER] * 500, *DEAD])
    assert found.cause is Cause.ENGINE_DEAD_OTHER
    near = diagnose(Exit(code=0), [*STARTED, READY, *[ANSWER] * 500, *LORA, *DEAD])
    assert near.cause is Cause.GPU_OOM_SERVING


def test_second_start_is_cut_off_where_the_first_came_to_its_end() -> None:
    again = with_pids([*STARTED, *raised("OSError: [Errno 28] No space left on device")], 8, 9)
    found = diagnose(Exit(code=1), [*STARTED, READY, STOPPED + "triggered", *again])
    assert found.cause is Cause.DISK_FULL
    # In a container the pids are those of the first.
    busy = "(APIServer pid=1) OSError: [Errno 98] Address already in use"
    found = diagnose(Exit(code=1), [*FAILED, STARTED[0], busy])
    assert found.cause is Cause.PORT_IN_USE


def test_banner_in_a_prompt_is_no_start() -> None:
    paste = with_pids(FAILED, 812, 813)
    asked = "(APIServer pid=1) INFO 11-22 22:33:50 [logger.py:39] Received request 1: prompt: 'Why?"
    after = "(APIServer pid=1) INFO 11-22 22:33:51 [a.py:1] hello"
    for tail in ([after], [ANSWER], []):
        lines = [*STARTED, READY, asked, *paste, *tail]
        assert diagnose(Exit(), lines).cause is Cause.NOT_A_FAILURE
    bare = "INFO 11-22 22:33:50 [api_server.py:1] vLLM API server version 0.6.6"
    assert diagnose(Exit(), [*STARTED, READY, bare, OUT_OF_MEMORY]).cause is Cause.NOT_A_FAILURE


def test_killed_child_is_told_by_the_api_servers_word() -> None:
    said = "(APIServer pid=1) RuntimeError: Process EngineCore (PID: 99) died with exit code -9"
    assert diagnose(Exit(code=1), [*STARTED, said]).cause is Cause.HOST_OOM


@pytest.mark.parametrize(("share", "words"), [(0.9, "lower"), (0.4, "free the memory")])
def test_remedy_never_goes_below_half_a_card(share: float, words: str) -> None:
    said = (
        f"ValueError: Free memory on device cuda:0 ({share * 80:.1f}/80.0 GiB) on startup is less "
        "than desired GPU memory utilization (0.95, 76.0 GiB)."
    )
    remedy = diagnose(Exit(code=1), [*STARTED, *raised(said)]).remedy
    assert words in remedy
    assert "0.3" not in remedy


def test_remedies_are_for_a_person() -> None:
    found = diagnose(Exit(code=0), [*STARTED, READY, *DEAD], was_ready=True, is_unasked=True)
    assert "by itself" not in found.remedy
