"""`cahootsctl diagnose`: classifies any vLLM log, without a daemon."""

import dataclasses
import sys
from collections.abc import Iterator

from cahoots_vllm.core.diagnosis import Diagnosis, Exit, diagnose
from cahoots_vllm.core.diagnosis.answers import answer_to
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.ctl.text import Json, Row, Tone

_MAX_BYTES = 64 * 1024 * 1024  # of the end: a root cause stands up to 600 lines above it


def read_log(name: str) -> list[str]:
    """Return a file's lines, or standard input's for "-". Raises CahootsError."""
    try:
        if name == "-":
            raw = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:  # noqa: PTH123 (pathlib would cost 10 ms at each start)
                raw = file.read()
    except OSError as error:
        raise CahootsError(
            Kind.BAD_REQUEST, f"cannot read {name}: {error.strerror}", "give a log file, or -"
        ) from error
    text = raw[-_MAX_BYTES:].decode("utf-8", errors="replace")
    return text.replace("\r\n", "\n").split("\n")


def find(lines: list[str], exit_code: int | None, signal: int | None) -> Diagnosis:
    """Return the diagnosis of a pasted log."""
    return diagnose(Exit(code=exit_code, signal=signal), lines)


def diagnosis_view(found: Diagnosis) -> Json:
    """Return it as a JSON object; `figures` has memory in GiB and lengths in tokens."""
    figures = dataclasses.asdict(found.figures)
    return {
        "cause": found.cause.value,
        "evidence": found.evidence,
        "line": found.line,
        "remedy": found.remedy,
        "retryable": found.is_retryable,
        "action": answer_to(found),
        "trait": found.trait.value,
        "figures": {name: value for name, value in figures.items() if value is not None},
    }


def diagnosis_rows(view: Json) -> Iterator[Row]:
    """Show it to a person."""
    is_fine = view["cause"] == "not_a_failure"
    where = f" at line {view['line']}" if view["line"] is not None else ""
    yield Row("cause", f"{view['cause']}{where}", Tone.GOOD if is_fine else Tone.BAD)
    yield Row("evidence", str(view["evidence"]))
    yield Row("remedy", str(view["remedy"]))
    yield Row("the daemon", str(view["action"]))
    if view["figures"]:
        yield Row("figures", ", ".join(_figure(*item) for item in view["figures"].items()))


def _figure(name: str, value: float) -> str:
    words = name.removesuffix("_gib").replace("_", " ")
    return f"{words} {value:.2f} GiB" if name.endswith("_gib") else f"{words} {value}"
