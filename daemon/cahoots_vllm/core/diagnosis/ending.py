"""Judges by the way a worker ended, where no process says why."""

import re
from dataclasses import replace

from cahoots_vllm.core.diagnosis.case import Case, counts, is_echo, message_at
from cahoots_vllm.core.diagnosis.causes import Cause, Diagnosis, Trait
from cahoots_vllm.core.diagnosis.transcript import Statement
from cahoots_vllm.core.log_line import Depth

_KEYBOARD = re.compile(r"^KeyboardInterrupt|^asyncio\.exceptions\.CancelledError$")
_VANISHED = re.compile(r"died unexpectedly(?: \(exit code: None\))?[,.]")
_WRAPPER = re.compile(r"Engine core initialization failed|WorkerProc initialization failed")
_WORKERS_WRAPPER = re.compile(r"WorkerProc initialization failed")
_CORE_EXIT = re.compile(r"Failed core proc\(s\): \{[^}]*: (-?\d+)")
_USAGE_EXIT = 2
_SIGHUP, _SIGINT, _SIGILL, _SIGKILL, _SIGBUS, _SIGTERM = 1, 2, 4, 9, 7, 15
_ASKED = (_SIGHUP, _SIGINT, _SIGTERM)
_PATH = re.compile(r"^(?:/|\.{0,2}/|[A-Za-z]:)")


def host_oom(evidence: str, line: int | None) -> Diagnosis:
    """Return the diagnosis of a process that the kernel killed for memory."""
    remedy = (
        "free host memory or use a smaller model; who was killed stands in the kernel's log "
        "(journalctl -k)"
    )
    return Diagnosis(
        Cause.HOST_OOM, evidence, remedy, is_retryable=True, line=line, trait=Trait.HOST_MEMORY
    )


def from_the_end(case: Case) -> Diagnosis:
    """Judge by the way it ended: nobody said why."""
    unnamed = _first_unnamed(case)
    for judge in (_asked, _signalled, _refused, _killed, _silent_death, _hung):
        found = judge(case, unnamed)
        if found is not None:
            return found
    is_alive = case.marks.death is None and not case.exit.is_known and case.seen is None
    if case.was_ready and is_alive:
        return _no_failure("nothing died in this log")
    is_dead = case.was_ready or case.seen is not None
    cause = Cause.ENGINE_DEAD_OTHER if is_dead else Cause.UNKNOWN
    remedy = (
        "look at the worker's last lines (cahootsctl logs) and the kernel's log (journalctl -k)"
    )
    line, evidence = _last_resort(case, unnamed)
    return Diagnosis(cause, evidence, remedy, is_retryable=True, line=line)


def _last_resort(case: Case, unnamed: Statement | None) -> tuple[int | None, str]:
    """Return the best there is to show: an unknown error, what was seen, the death, the end."""
    if unnamed is not None:
        return unnamed.number, unnamed.head
    death = case.marks.death if case.was_ready else None
    if case.seen is not None or death is None:
        ended = f"the API server ended: {case.exit}"
        return death, case.seen or (ended if case.exit.is_known else "the log names no failure")
    said = message_at(case, death)
    has_kernels_word = case.evidence.has_kernels_word
    return death, said if has_kernels_word else f"{said} (no word of why: killed, or crashed)"


def _first_unnamed(case: Case) -> Statement | None:
    """Return the first error of the innermost process that no row knows."""
    counting = [
        s
        for s in case.statements
        if counts(s, case)
        and not is_echo(s)
        and not _KEYBOARD.match(s.text)
        and not _VANISHED.search(s.text)
    ]
    return min(counting, key=lambda s: (-s.depth, s.number), default=None)


def _line(statement: Statement | None) -> int | None:
    return statement.number if statement else None


def _no_failure(evidence: str, line: int | None = None) -> Diagnosis:
    return Diagnosis(Cause.NOT_A_FAILURE, evidence, "nothing to do", is_retryable=False, line=line)


def _asked(case: Case, unnamed: Statement | None) -> Diagnosis | None:
    marks = case.marks
    if marks.is_asked_to_stop and marks.stopped is not None:
        return _no_failure(f"asked to stop: {message_at(case, marks.stopped)}", marks.stopped)
    if case.exit.signal in _ASKED and case.seen is None:
        return _no_failure(f"asked to stop by signal {case.exit.signal}")
    interrupted = next((s for s in reversed(case.statements) if _KEYBOARD.match(s.text)), None)
    if interrupted is not None and unnamed is None:
        return _no_failure(f"asked to stop: {interrupted.text}", interrupted.number)
    return None


def _signalled(case: Case, unnamed: Statement | None) -> Diagnosis | None:
    """Judge an engine that was told to end, by somebody else than its API server.

    While it starts, the API server swallows the signal that a whole group gets; later it says so.
    """
    at = case.marks.signalled
    if not case.marks.is_engine_signalled or at is None or unnamed is not None:
        return None
    said = message_at(case, at)
    if not case.was_ready:
        return _no_failure(f"asked to stop: {said}", at)
    remedy = "find out who ends the engine alone; to stop the server use cahootsctl stop"
    why = f"{said} (the API server was not asked: somebody ended its engine)"
    return Diagnosis(Cause.ENGINE_DEAD_OTHER, why, remedy, is_retryable=True, line=at)


def _refused(case: Case, unnamed: Statement | None) -> Diagnosis | None:
    if case.exit.code != _USAGE_EXIT or case.was_ready:
        return None
    evidence = unnamed.text if unnamed else f"the API server ended: {case.exit}"
    remedy = "correct the option in .env or the profile"
    return Diagnosis(Cause.BAD_ARGUMENTS, evidence, remedy, is_retryable=False, line=_line(unnamed))


def _killed(case: Case, unnamed: Statement | None) -> Diagnosis | None:
    """Judge a main process killed without a word, while memory grows.

    Later the kernel would take the worker, which is larger.
    """
    if case.exit.signal == _SIGBUS:
        return replace(
            host_oom(f"the API server ended: {case.exit} (SIGBUS)", None),
            trait=Trait.SHARED_MEMORY,
            remedy="enlarge /dev/shm, and look at the disk below mapped files",
        )
    if case.exit.signal == _SIGILL and not case.was_ready:
        why = f"the API server ended: {case.exit} (SIGILL)"
        remedy = "this CPU lacks what the engine was built for: use a build for it, or another host"
        return Diagnosis(Cause.BAD_ARGUMENTS, why, remedy, is_retryable=False)
    if case.exit.signal != _SIGKILL or unnamed is not None or case.was_ready:
        return None
    if case.evidence.has_kernels_word:
        return None
    why = f"the API server ended: {case.exit} while it started, without a word"
    return host_oom(f"{why} (by the kernel for memory, or by somebody's hand)", None)


def _silent_death(case: Case, unnamed: Statement | None) -> Diagnosis | None:
    """Judge a worker or engine that vanished: no exception, no dump, nothing tidied up."""
    if unnamed is not None or case.evidence.has_kernels_word:
        return None
    vanished = next(
        (s for s in case.statements if counts(s, case) and _VANISHED.search(s.text)), None
    )
    if case.was_ready:
        # A worker that ends by itself, or on SIGTERM, takes its semaphores along.
        if vanished is not None and case.marks.has_leaked_semaphore:
            why = f"{vanished.text} (no word of why: killed, or crashed)"
            return host_oom(why, vanished.number)
        return None
    wrapper = next((s for s in case.statements if _WRAPPER.search(s.text)), None)
    if wrapper is None or case.marks.is_asked_to_stop or case.marks.engine_up is None:
        return None
    return _failed_start(case, wrapper, vanished)


def _failed_start(case: Case, wrapper: Statement, vanished: Statement | None) -> Diagnosis | None:
    """Judge by the engine's exit status; where a worker went, the engine or another one says so."""
    codes = [match for s in case.statements if (match := _CORE_EXIT.search(s.text))]
    code = int(codes[-1][1]) if codes else 0
    if code == -_SIGKILL:
        return host_oom(f"{codes[-1].string} (SIGKILL)", wrapper.number)
    if code == -_SIGBUS:
        found = host_oom(f"{codes[-1].string} (SIGBUS)", wrapper.number)
        remedy = "enlarge /dev/shm, and look at the disk below mapped files"
        return replace(found, trait=Trait.SHARED_MEMORY, remedy=remedy)
    if code < 0:
        remedy = "restart it; if it stays, report it with the worker's log (cahootsctl logs)"
        why, at = f"{codes[-1].string} (signal {-code})", wrapper.number
        return Diagnosis(Cause.ENGINE_DEAD_OTHER, why, remedy, is_retryable=True, line=at)
    has_survivor = any(s.depth is Depth.WORKER for s in case.statements)
    is_told = vanished is not None or _WORKERS_WRAPPER.search(wrapper.text) or has_survivor
    if not is_told:
        return None  # the log is cut: who failed would have said why
    return host_oom(f"{wrapper.text} (and no process says why: one was killed)", wrapper.number)


def _hung(case: Case, unnamed: Statement | None) -> Diagnosis | None:
    """Judge a start that neither failed nor came to an end."""
    marks = case.marks
    is_over = case.was_ready or unnamed is not None or case.exit.is_known
    # A later start in a log of several may just have begun.
    is_young = marks.banner is None or not (case.is_only_start or case.seen)
    if is_over or is_young:
        return None
    last = next(each for each in reversed(case.lines) if each.line.message.strip())
    text = case.seen or f"the start stands still after: {last.line.message[:200]}"
    is_remote = marks.model is not None and not _PATH.match(marks.model)
    if marks.resolved is None and marks.engine_up is None and is_remote:
        remedy = "the hub does not answer: check network and proxy, or download the model first"
        return Diagnosis(Cause.HUB_NETWORK, text, remedy, is_retryable=True, line=last.number)
    remedy = (
        "if it is over: look at the limits of the service (TasksMax=, LimitNOFILE=) and the disk"
    )
    return Diagnosis(Cause.ENGINE_DEAD_OTHER, text, remedy, is_retryable=True, line=last.number)
