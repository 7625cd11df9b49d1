"""Weighs what a log says, how the process ended and what the host saw.

The first error of the innermost process is the cause: below it stand the same traceback again, the
outer processes' wrappers and the shutdown's noise. Where nobody says why, the way it ended does.
"""

from collections.abc import Sequence
from dataclasses import replace

from cahoots_vllm.core.diagnosis.case import (
    Case,
    counts,
    is_echo,
    make_case,
    normal_exit,
)
from cahoots_vllm.core.diagnosis.causes import Cause, Diagnosis, Exit, Trait
from cahoots_vllm.core.diagnosis.ending import from_the_end, host_oom
from cahoots_vllm.core.diagnosis.figures import read_figures
from cahoots_vllm.core.diagnosis.rule import Rule
from cahoots_vllm.core.diagnosis.rules_cache import CACHE_RULES
from cahoots_vllm.core.diagnosis.rules_host import HOST_RULES
from cahoots_vllm.core.diagnosis.rules_memory import ALLOCATION_REMEDIES, MEMORY_RULES
from cahoots_vllm.core.diagnosis.rules_model import CHECK_RULES, MODEL_RULES
from cahoots_vllm.core.diagnosis.starts import split_starts
from cahoots_vllm.core.diagnosis.transcript import Statement, number_lines
from cahoots_vllm.core.evidence import NO_EVIDENCE, HostEvidence

RULES: tuple[Rule, ...] = CACHE_RULES + MEMORY_RULES + MODEL_RULES + HOST_RULES + CHECK_RULES
_MAX_EVIDENCE = 500
_LEAST_SHARE = 0.5  # below it a model hardly has room: the card is somebody else's


def diagnose(
    exit_: Exit,
    lines: Sequence[str],
    *,
    was_ready: bool | None = None,
    seen: str | None = None,
    evidence: HostEvidence = NO_EVIDENCE,
    is_unasked: bool = False,
) -> Diagnosis:
    """Return the diagnosis of a worker that ended, or was found dead.

    `lines` is its log, of its last start if there are several. `was_ready` is read from the log
    where it is not known; `seen` is what was noticed from outside; `is_unasked` says that the
    daemon did not stop it, so that an orderly end is a failure all the same: a dead engine exits 0.
    """
    exit_ = normal_exit(exit_)
    numbered = number_lines(lines)
    # Who knows how far a worker came gives one worker's log: another banner is a user's paste.
    starts = split_starts(numbered) if was_ready is None else [numbered]
    is_only = len(starts) == 1
    found = _judge(
        make_case(exit_, starts[-1], evidence, was_ready=was_ready, seen=seen, is_only=is_only)
    )
    if found.cause is Cause.UNKNOWN and not is_only:
        # It was started again and that log is still short: what ended the start before counts.
        earlier = _judge(make_case(Exit(), starts[-2], NO_EVIDENCE, is_only=False))
        if earlier.cause is not Cause.NOT_A_FAILURE:
            found = earlier
    return _unasked(found) if is_unasked and found.cause is Cause.NOT_A_FAILURE else found


def _unasked(found: Diagnosis) -> Diagnosis:
    """Return an orderly end that the daemon did not ask for."""
    return replace(
        found,
        cause=Cause.ENGINE_DEAD_OTHER,
        evidence=f"somebody other than the daemon ended it: {found.evidence}",
        remedy="to end it for good use cahootsctl stop; else find out who ended it",
        is_retryable=True,
    )


def _judge(case: Case) -> Diagnosis:
    said = _said(case)
    found = _from_host(case, said)
    if found is None:
        found = said or from_the_end(case)
    return replace(found, evidence=found.evidence[:_MAX_EVIDENCE])


def _said(case: Case) -> Diagnosis | None:
    """Return what the first error of the innermost process means, None if none says a reason."""
    counting = [s for s in case.statements if counts(s, case) and not is_echo(s)]
    ordered = sorted(counting, key=lambda s: (-s.depth, s.number))
    weak: Diagnosis | None = None
    unknown: set[tuple[str, tuple[str, ...]]] = set()  # said a thousand times, looked up once
    for statement in ordered:
        if (said := (statement.text, statement.frames)) in unknown:
            continue
        row = next((row for row in RULES if row.matches(statement)), None)
        if row is None:
            unknown.add(said)
            continue
        found = _apply(row, statement, case)
        if not row.is_weak:
            return found
        weak = weak or found
    return weak


def _apply(row: Rule, statement: Statement, case: Case) -> Diagnosis:
    figures = read_figures(statement.text, case.marks.kv_left_gib)
    number, text = statement.find(row.says)
    found = Diagnosis(
        row.cause,
        text.strip(),
        row.remedy,
        row.is_retryable,
        number,
        row.trait,
        figures,
    )
    return _refined(found, statement, case)


def _refined(found: Diagnosis, statement: Statement, case: Case) -> Diagnosis:
    """Take in what the rest of the log says about a memory failure."""
    marks = case.marks
    if found.trait is Trait.KV_NONE and marks.has_block_override:
        remedy = "drop num-gpu-blocks-override: it leaves no block, whatever the memory"
        return replace(found, trait=Trait.KV_OVERRIDE, remedy=remedy, is_retryable=False)
    if found.trait is Trait.KV_NONE and marks.has_kv_bytes:
        remedy = (
            "raise kv-cache-memory-bytes, or lower max-model-len: with it the fraction is ignored"
        )
        return replace(
            found, cause=Cause.KV_CACHE_TOO_SMALL, trait=Trait.KV_TOO_SMALL, remedy=remedy
        )
    if numbered := _with_numbers(found):
        return replace(found, remedy=numbered)
    is_allocation = found.cause in {Cause.GPU_OOM_STARTUP_ALLOC, Cause.GPU_OOM_SERVING}
    if is_allocation and (found.trait is Trait.NONE or found.trait is Trait.SERVING):
        return _placed(found, statement, case)
    return found


def _with_numbers(found: Diagnosis) -> str | None:
    """Return a remedy that names the values to set, None where the message gives none."""
    figures = found.figures
    if found.trait is Trait.KV_TOO_SMALL and figures.estimated_len:
        length = figures.estimated_len
        return f"raise gpu-memory-utilization if memory is free, else set max-model-len to {length}"
    if found.trait is Trait.FREE_TOO_SMALL and figures.free_gib and figures.total_gib:
        share = int(100 * figures.free_gib / figures.total_gib - 1) / 100
        if share >= _LEAST_SHARE:
            return f"free memory that others hold, or lower gpu-memory-utilization to {share:.2f}"
        return (
            f"free the memory that others hold: {figures.free_gib:g} of {figures.total_gib:g} GiB "
            "are free; or use another device"
        )
    return None


def _placed(found: Diagnosis, statement: Statement, case: Case) -> Diagnosis:
    """Say when an allocation failed whose stack does not: by how far the log had come."""
    marks = case.marks
    if found.trait is Trait.SERVING or statement.is_serving or (case.was_ready and marks.ready):
        found = replace(found, cause=Cause.GPU_OOM_SERVING)
        return _with_trait(found, Trait.SERVING)
    passed = ((marks.kv_sized, Trait.AFTER_KV), (marks.loaded, Trait.PROFILING))
    for at, trait in passed:
        if at is not None and at < statement.number:
            return _with_trait(found, trait)
    return _with_trait(found, Trait.LOADING if marks.engine_up else Trait.AFTER_KV)


def _with_trait(found: Diagnosis, trait: Trait) -> Diagnosis:
    return replace(found, trait=trait, remedy=ALLOCATION_REMEDIES[trait])


def _from_host(case: Case, said: Diagnosis | None) -> Diagnosis | None:
    """Return what the host knows better than the log: the kernel's kills, the driver's errors."""
    evidence = case.evidence
    is_kill = said is None or said.cause in {Cause.HOST_OOM, Cause.ENGINE_DEAD_OTHER}
    if evidence.oom_kill is not None and is_kill:
        return host_oom(evidence.oom_kill, said.line if said else None)
    if evidence.xid is not None and (
        said is None or said.cause in {Cause.ENGINE_DEAD_OTHER, Cause.CUDA_DRIVER}
    ):
        remedy = "look the Xid up in NVIDIA's catalogue; a GPU that fell off the bus needs a reboot"
        line = said.line if said else None
        return Diagnosis(Cause.CUDA_DRIVER, evidence.xid, remedy, is_retryable=True, line=line)
    is_guess = said is not None and said.trait is Trait.HOST_MEMORY and "-9" in said.evidence
    if evidence.has_kernels_word and is_guess and said is not None:
        why = f"{said.evidence} (SIGKILL from somewhere: the kernel killed nobody for memory)"
        remedy = "find out who killed it: no process of this host lacked memory"
        return replace(
            said, cause=Cause.ENGINE_DEAD_OTHER, trait=Trait.NONE, evidence=why, remedy=remedy
        )
    return None
