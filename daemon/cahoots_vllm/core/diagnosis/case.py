"""Everything a verdict is made of: one start's log, how it ended, what the host saw."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from cahoots_vllm.core.diagnosis.causes import Exit
from cahoots_vllm.core.diagnosis.frames import HUB_FRAMES
from cahoots_vllm.core.diagnosis.marks import DEATH, Marks, read_marks
from cahoots_vllm.core.diagnosis.speakers import is_quoted
from cahoots_vllm.core.diagnosis.transcript import NumberedLine, Statement, read_statements
from cahoots_vllm.core.evidence import HostEvidence
from cahoots_vllm.core.log_line import Depth

# Lines that count without an exception's name, at the start of a message.
_OUTCRIES = re.compile(
    r"Worker proc \S+ died|Worker \S+ pid \d+ died|!+ Segfault|Fatal Python error|terminate called"
    r"|what\(\): |Failed to load model - not|Unable to read the config file|\S*(?: serve)?: error: "
    r"|HTTP Error (?:429|5\d\d)|'.*' thrown while requesting|Rate limited|CUDA out of memory"
    r"|.*[Oo]ut of memory: Kill|.*oom-kill:|.*killed by the OOM killer|.*OOMKilled|.*NVRM: Xid"
    r"|.*result 'oom-kill'|(?:\S+: line \d+: +\d+ )?Killed\b|Bus error|Segmentation fault|Aborted"
    r"|nvidia-container-cli|docker: Error response|.*could not select device driver"
    r"|.*Watchdog caught collective|.*(?:core dumped)|Free memory on device .* less than"
    r"|(?:\S*sh: (?:line )?(?:\d+: )?)?\S+: (?:command )?not found|Error 80\d"
    r"|\[Errno \d+\] error while attempting to bind|Process \S+ \(PID: \d+\) died"
    r"|CUDA [Ee]rror: out of memory|.*NCCL WARN Cuda failure|.*symbol lookup error"
    r"|OpenBLAS blas_thread_init: pthread_create failed|libgomp: Thread creation failed"
    r"|!+ Illegal instruction|Illegal instruction"
    r"|Error while creating shared memory segment|The NVIDIA driver on your system"
    r"|Failed to infer device type"
)
# Another process's failure told again: v1/engine/core.py:1510, v1/engine/utils.py:1432,
# v1/executor/multiproc_executor.py:790, 316; and what survivors of a death say.
ECHO = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError"
    r"|Frontend process failed|Failed core proc|RuntimeError: cancelled|Executor failed"
    r"|(?:^|: )Worker failed with error|BrokenPipeError|^SystemExit"
    r"|died unexpectedly \(exit code: (?:0|1|None)\)"
    r"|Engine process failed to start|EngineCore (?:failed|encountered|hit)|leader process died"
    r"|^(?:\w+\.)*CancelledError|Background loop has errored|^GeneratorExit|^ray\.exceptions\."
    r"(?:RayActorError|ActorDiedError)|recvValue failed|Broken pipe|errored already|_error_callback"
)
# What a survivor says whose peer is gone, and a download whose server is.
_PEER_GONE = re.compile(r"ConnectionResetError|Connection (?:reset|closed) by peer")
_IN_HUB = re.compile(HUB_FRAMES)
_CRASH = re.compile(r"!+ Segfault|Fatal Python|terminate called|what\(\)|Bus error|Segmentation")
_DUMP_LINES = 300
_SHELL_SIGNAL = 128  # a shell, docker and systemd's wrappers say 137 for signal 9


@dataclass(frozen=True, slots=True)
class Case:
    """Everything a verdict is made of."""

    exit: Exit
    lines: Sequence[NumberedLine]
    marks: Marks
    statements: tuple[Statement, ...]
    evidence: HostEvidence
    was_ready: bool
    seen: str | None
    is_only_start: bool


def normal_exit(exit_: Exit) -> Exit:
    """Return the exit with a signal as a signal, however it was written."""
    code = exit_.code
    if code is None or exit_.signal is not None:
        return exit_
    if code < 0:
        return Exit(signal=-code)
    return Exit(signal=code - _SHELL_SIGNAL) if _SHELL_SIGNAL < code < 2 * _SHELL_SIGNAL else exit_


def make_case(
    exit_: Exit,
    lines: Sequence[NumberedLine],
    evidence: HostEvidence,
    *,
    was_ready: bool | None = None,
    seen: str | None = None,
    is_only: bool,
) -> Case:
    """Read one start's log; `is_only` says that the whole log holds no other."""
    marks = read_marks(lines)
    has_served = marks.ready is not None or marks.is_start_lost
    is_ready = has_served if was_ready is None else was_ready
    # A log is bounded: of a long-lived server the start may be gone.
    ready_at = 0 if is_ready and marks.ready is None else marks.ready
    statements = tuple(read_statements(lines, _OUTCRIES, ready_at))
    return Case(exit_, lines, marks, statements, evidence, is_ready, seen, is_only)


def counts(statement: Statement, case: Case) -> bool:
    """Whether it can be the cause: users write into the log of a server too."""
    marks = case.marks
    if marks.is_ending(statement.number):
        return False
    if not statement.is_serving:
        return marks.ready is None  # what was said before serving began was survived
    is_users = is_quoted(statement.pid, statement.level, marks.pids)
    if is_users or marks.survived(statement.number):
        return False
    if statement.depth is Depth.OUTER and statement.level is None:
        return _is_last_word(statement, case)
    # A line that names the API server is one of its requests'.
    is_api_servers = statement.depth is Depth.OUTER and statement.process is not None
    is_dead = marks.death is not None or case.seen is not None or case.exit.is_known
    return is_dead and (not is_api_servers or DEATH.match(statement.says) is not None)


def _is_last_word(statement: Statement, case: Case) -> bool:
    """Whether a bare line of a server may be the engine's: else it is a request's, or a prompt's.

    Its traceback stands again below vLLM's own word of the death; a crash's dump comes shortly
    before it.
    """
    death = case.marks.death
    if death is not None and statement.number >= death:
        return True
    end = death if death is not None else case.lines[-1].number
    is_over = death is not None or case.seen is not None or case.exit.is_known
    is_crash = not statement.name and _CRASH.match(statement.says) is not None
    return is_over and is_crash and end - statement.number <= _DUMP_LINES


def is_echo(statement: Statement) -> bool:
    """Whether it only tells another process's failure again."""
    if _PEER_GONE.search(statement.text) and not _IN_HUB.search(" ".join(statement.frames)):
        return True
    return ECHO.search(statement.text) is not None


def message_at(case: Case, number: int) -> str:
    """Return the message of a numbered line."""
    at = bisect_left(case.lines, number, key=lambda each: each.number)
    return case.lines[at].line.message
