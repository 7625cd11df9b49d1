"""`cahootsctl diagnose`: classifies any vLLM log, without a daemon."""

import codecs
import dataclasses
import sys
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from cahoots_vllm.core.diagnosis import Diagnosis, Exit, diagnose
from cahoots_vllm.core.diagnosis.answers import answer_to
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.ctl.text import Json, Row, Tone

_MAX_CHARS = 16 * 1024 * 1024  # of the end: a root cause stands up to 600 lines above it
_CHUNK_BYTES = 1024 * 1024
_PACKED = {
    b"\x1f\x8b": "zcat",
    b"\xfd7zXZ": "xzcat",
    b"\x28\xb5\x2f\xfd": "zstdcat",
    b"BZh": "bzcat",
}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what PowerShell's > writes


@dataclasses.dataclass(frozen=True, slots=True)
class Log:
    """The end of a log: its lines, and how many stand before them."""

    lines: list[str]
    skipped: int = 0


def read_log(name: str) -> Log:
    """Return a file's lines, or standard input's for "-". Raises CahootsError."""
    try:
        if name == "-":
            return _read(sys.stdin.buffer, "standard input")
        with open(name, "rb") as file:  # noqa: PTH123 (pathlib would cost 10 ms at each start)
            return _read(file, name)
    except OSError as error:
        raise CahootsError(
            Kind.BAD_REQUEST, f"cannot read {name}: {error.strerror}", "give a log file, or -"
        ) from error


def _read(file: BinaryIO, name: str) -> Log:
    """Keep the end of a stream, however long; count the lines that go."""
    raw = file.read(_CHUNK_BYTES)
    if not raw:
        raise CahootsError(Kind.BAD_REQUEST, f"{name} is empty", "give a log that says something")
    for magic, tool in _PACKED.items():
        if raw.startswith(magic):
            raise CahootsError(
                Kind.BAD_REQUEST, f"{name} is compressed", f"{tool} {name} | cahootsctl diagnose -"
            )
    encoding = "utf-16" if raw.startswith(_UTF_16) else "utf-8-sig"
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    kept: deque[str] = deque()
    size = skipped = 0
    while raw:
        text = decoder.decode(raw)
        kept.append(text)
        size += len(text)
        while size > _MAX_CHARS and len(kept) > 1:
            gone = kept.popleft()
            size -= len(gone)
            skipped += gone.count("\n")
        raw = file.read(_CHUNK_BYTES)
    kept.append(decoder.decode(b"", final=True))
    return Log("".join(kept).replace("\r\n", "\n").split("\n"), skipped)


def find(log: Log, exit_code: int | None, signal: int | None) -> Diagnosis:
    """Return the diagnosis of a pasted log; its line is counted from the log's beginning."""
    found = diagnose(Exit(code=exit_code, signal=signal), log.lines)
    if found.line is None:
        return found
    return dataclasses.replace(found, line=found.line + log.skipped)


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
