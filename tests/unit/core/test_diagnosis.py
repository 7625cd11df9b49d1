"""What the diagnosis promises, on the stand-in engine's copies of real logs and on wordings."""

from pathlib import Path
from string import Template

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.diagnosis import Cause, Diagnosis, Exit, Trait, diagnose
from cahoots_vllm.core.evidence import HostEvidence

LOGS = Path(__file__).parents[2] / "fake_vllm" / "logs"
VALUES = {"main": 100, "engine": 101, "worker": 102, "now": "11-22 22:33:35"}
FAILED_START = Exit(code=1)
# vLLM's server goes down in good order when its engine is dead (VLLM.md section 3).
DEAD_ENGINE = Exit(code=0)


def _log(name: str) -> list[str]:
    text = (LOGS / f"{name}.log").read_text("utf-8")
    return Template(text).safe_substitute(VALUES).splitlines()


def _started(name: str) -> list[str]:
    """Return the log with its start; the long ones hold their own."""
    return _log(name) if name == "host_oom_serving" else [*_log("startup"), *_log(name)]


def _of_start(*lines: str) -> Diagnosis:
    return diagnose(FAILED_START, lines, was_ready=False)


def _of_serving(*lines: str, exit_: Exit = DEAD_ENGINE) -> Diagnosis:
    return diagnose(exit_, lines, was_ready=True)


@pytest.mark.parametrize(
    ("name", "cause", "evidence", "is_retryable"),
    [
        ("gpu_oom_startup_free", Cause.GPU_OOM_STARTUP_FREE, "less than desired CPU memory", True),
        ("kv_cache_none", Cause.KV_CACHE_NONE, "less than requested memory for kv (-", True),
        ("kv_cache_too_small", Cause.KV_CACHE_TOO_SMALL, "To serve at least one request", True),
        ("hub_auth", Cause.HUB_AUTH, "Client error '401 Unauthorized'", False),
        ("corrupt_weights", Cause.CORRUPT_WEIGHTS, "deserializing header", False),
        ("missing_dependency", Cause.MISSING_DEPENDENCY, "No module named 'tensorizer'", False),
        ("host_oom_startup", Cause.HOST_OOM, "died unexpectedly (exit code: -9)", True),
    ],
)
def test_failed_start_is_named_by_its_real_log(
    name: str, cause: Cause, evidence: str, *, is_retryable: bool
) -> None:
    lines = _log(name)
    found = diagnose(FAILED_START, lines, was_ready=False)
    assert found.cause is cause
    assert found.is_retryable is is_retryable
    assert evidence in found.evidence
    assert found.remedy
    assert found.line is not None
    assert found.evidence in lines[found.line - 1]


def test_evidence_is_the_first_error_not_the_echo_at_the_end() -> None:
    lines = _log("kv_cache_too_small")
    found = diagnose(FAILED_START, lines, was_ready=False)
    assert found.line is not None
    assert len(lines) - found.line > 50
    assert any("Engine core initialization failed" in line for line in lines[found.line :])


def test_refused_option_exits_2_and_is_never_retried() -> None:
    found = diagnose(Exit(code=2), _log("bad_arguments"), was_ready=False)
    assert found.cause is Cause.BAD_ARGUMENTS
    assert not found.is_retryable
    assert found.evidence == "vllm: error: unrecognized arguments: --gpu-mem-util 0.9"
    assert found.line == 5


def test_exit_2_without_a_word_is_bad_arguments_too() -> None:
    found = diagnose(Exit(code=2), [], was_ready=False)
    assert (found.cause, found.is_retryable, found.line) == (Cause.BAD_ARGUMENTS, False, None)
    assert "exit status 2" in found.evidence


def test_exit_2_with_an_unknown_error_shows_that_error() -> None:
    found = diagnose(Exit(code=2), ["usage: vllm", "vllm serve: error: what"], was_ready=False)
    assert (found.cause, found.evidence) == (Cause.BAD_ARGUMENTS, "vllm serve: error: what")


@pytest.mark.parametrize("name", ["engine_death", "engine_dead_other"])
def test_exit_0_of_a_dead_engine_is_a_failure_and_retried(name: str) -> None:
    found = _of_serving(*_log("startup"), *_log(name))
    assert (found.cause, found.is_retryable) == (Cause.ENGINE_DEAD_OTHER, True)


@pytest.mark.parametrize("name", ["worker_death", "host_oom_serving"])
def test_worker_killed_while_serving_is_host_memory_although_the_exit_is_0(name: str) -> None:
    found = _of_serving(*_started(name))
    assert (found.cause, found.is_retryable) == (Cause.HOST_OOM, True)


def test_main_killed_without_a_word_is_host_memory_only_while_it_starts() -> None:
    killed = Exit(signal=9)
    start = _log("startup")[:40]
    assert diagnose(killed, start, was_ready=False).cause is Cause.HOST_OOM
    found = diagnose(killed, _log("startup"), was_ready=True)
    assert (found.cause, found.is_retryable) == (Cause.ENGINE_DEAD_OTHER, True)
    assert found.evidence == "the API server ended: signal 9"
    assert found.line is None


@pytest.mark.parametrize("status", [Exit(code=137), Exit(code=-9), Exit(signal=9)])
def test_a_signal_is_known_however_it_is_written(status: Exit) -> None:
    assert diagnose(status, _log("startup")[:40]).cause is Cause.HOST_OOM


KILL = "Out of memory: Killed process 102 (VLLM::Worker) total-vm:9kB, anon-rss:9kB"


@pytest.mark.parametrize("name", ["worker_death", "engine_death", "host_oom_serving"])
def test_kernels_word_tells_its_own_kill_from_anybody_elses(name: str) -> None:
    lines = _started(name)
    asked = HostEvidence(has_kernels_word=True)
    killed = HostEvidence(oom_kill=KILL, has_kernels_word=True)
    plain = diagnose(DEAD_ENGINE, lines, was_ready=True, evidence=asked)
    assert (plain.cause, plain.trait) == (Cause.ENGINE_DEAD_OTHER, Trait.NONE)
    found = diagnose(DEAD_ENGINE, lines, was_ready=True, evidence=killed)
    assert (found.cause, found.evidence) == (Cause.HOST_OOM, KILL)


def test_kernels_kill_does_not_hide_what_the_log_names() -> None:
    killed = HostEvidence(oom_kill=KILL, has_kernels_word=True)
    found = diagnose(FAILED_START, _log("hub_auth"), evidence=killed)
    assert found.cause is Cause.HUB_AUTH


XID = "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus."


def test_drivers_error_explains_an_engine_that_just_died() -> None:
    lines = (*_log("startup"), *_log("engine_death"))
    found = diagnose(DEAD_ENGINE, lines, was_ready=True, evidence=HostEvidence(xid=XID))
    assert (found.cause, found.evidence) == (Cause.CUDA_DRIVER, XID)


def test_orderly_end_is_a_failure_only_where_nobody_of_ours_asked_for_it() -> None:
    lines = (*_log("startup"), *_log("sigterm"))
    assert diagnose(DEAD_ENGINE, lines).cause is Cause.NOT_A_FAILURE
    found = diagnose(DEAD_ENGINE, lines, was_ready=True, is_unasked=True)
    assert (found.cause, found.is_retryable) == (Cause.ENGINE_DEAD_OTHER, True)
    assert "somebody other than the daemon" in found.evidence


def test_log_of_a_restart_loop_is_judged_by_the_start_that_ended() -> None:
    again = _log("startup")[:20]
    found = diagnose(Exit(), [*_log("kv_cache_too_small"), *again])
    assert found.cause is Cause.KV_CACHE_TOO_SMALL


def test_echoes_of_another_process_are_no_evidence() -> None:
    found = _of_start(
        "(EngineCore pid=1) ERROR 11-22 22:33:35 [multiproc_executor.py:315] Worker proc "
        "VllmWorker-0 died unexpectedly (exit code: 0), shutting down executor.",
        "(EngineCore pid=1) ERROR 11-22 22:33:35 [core.py:1510] EngineCore failed to start.",
        "(EngineCore pid=1) ERROR 11-22 22:33:35 [core.py:1510] RuntimeError: cancelled",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {}",
    )
    assert (found.cause, found.line) == (Cause.UNKNOWN, None)


def test_unknown_error_is_shown_and_retried() -> None:
    found = _of_start("(Worker pid=1) ERROR 11-22 22:33:35 [a.py:1] KeyError: 'strange'")
    assert (found.cause, found.evidence, found.line) == (Cause.UNKNOWN, "KeyError: 'strange'", 1)
    assert found.is_retryable


def test_known_error_comes_before_an_earlier_unknown_one() -> None:
    found = _of_start(
        "(Worker pid=1) ERROR 11-22 22:33:35 [a.py:1] KeyError: 'strange'",
        "(Worker pid=1) ERROR 11-22 22:33:35 [a.py:1] OSError: [Errno 28] No space left on device",
    )
    assert (found.cause, found.line) == (Cause.DISK_FULL, 2)


OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"


@pytest.mark.parametrize("process", ["EngineCore", "EngineCore_DP0", "Worker_TP1", "VllmWorker-0"])
def test_memory_error_is_told_apart_by_whether_requests_were_served(process: str) -> None:
    line = f"({process} pid=1) ERROR 11-22 22:33:35 [core.py:1512] {OOM}"
    assert _of_start(line).cause is Cause.GPU_OOM_STARTUP_ALLOC
    assert _of_serving(line).cause is Cause.GPU_OOM_SERVING


# A prompt may say anything: these are a healthy worker's lines, some as captured from 0.32.
PROMPTS = (
    (
        "(APIServer pid=1) DEBUG 11-22 23:04:31 [entrypoints/.../utils/request_logger.py:74] "
        'Request a69b JSON body: {"messages":[{"content":"Traceback (most recent call last): '
        'torch.OutOfMemoryError: CUDA out of memory. No space left on device","role":"user"}]}'
    ),
    (
        "(APIServer pid=1) DEBUG 11-22 23:04:31 [entrypoints/.../utils/request_logger.py:55] "
        "Request chatcmpl-a69b details: prompt: 'torch.OutOfMemoryError: CUDA out of memory. Tried'"
    ),
    f"(APIServer pid=1) INFO 11-22 23:04:31 [logger.py:39] {OOM}",
    f"(APIServer pid=1) DEBUG 11-22 23:04:31 [logger.py:39] {OOM}",
    f"(EngineCore pid=1) DEBUG 11-22 23:04:31 [core.py:1] {OOM}",
    f"(EngineCore pid=1) INFO 11-22 23:04:31 [core.py:1] {OOM}",
    f"(APIServer pid=1) ERROR 11-22 23:04:31 [serving.py:1] Error in request: prompt {OOM}",
    (
        "(APIServer pid=1) ERROR 11-22 23:04:31 [serving.py:1] pydantic_core._pydantic_core."
        "ValidationError: 2 validation errors for ChatCompletionRequest"
    ),
    f"(APIServer pid=1) {OOM}",
    "ERROR:    Exception in ASGI application",
    OOM,
    "Worker proc VllmWorker-0 died unexpectedly (exit code: -9)",
    (
        "(APIServer pid=1) INFO 11-22 23:04:31 [logger.py:39] Worker proc VllmWorker-0 died "
        "unexpectedly (exit code: -9)"
    ),
)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_of_users_is_never_classified(prompt: str) -> None:
    found = _of_serving(*_log("startup"), prompt, *_log("engine_death"))
    assert (found.cause, found.is_retryable) == (Cause.ENGINE_DEAD_OTHER, True)
    assert found.evidence not in prompt


@given(st.lists(st.text(max_size=80) | st.sampled_from(PROMPTS), max_size=6), st.booleans())
def test_any_log_has_a_diagnosis_whose_line_is_in_it(
    lines: list[str],
    was_ready: bool,  # noqa: FBT001 (drawn by Hypothesis)
) -> None:
    found = diagnose(FAILED_START, lines, was_ready=was_ready)
    assert found.evidence
    assert found.remedy
    assert found.line is None or 1 <= found.line <= len(lines)


def test_healthy_start_has_no_evidence_in_it() -> None:
    assert _of_start(*_log("startup")).line is None


def test_long_evidence_is_cut() -> None:
    assert len(_of_start("ValueError: " + "x" * 10_000).evidence) == 500


def test_continuation_lines_of_one_record_end_in_a_carriage_return() -> None:
    found = _of_start("(Worker pid=1) ERROR 11-22 22:33:35 [a.py:1] MemoryError\r")
    assert (found.cause, found.evidence) == (Cause.CORRUPT_WEIGHTS, "MemoryError")
