"""Takes off what stands before every line alike: an indent, a log viewer's columns, a BOM."""

import re
from collections.abc import Sequence
from itertools import islice

_SAMPLE = 50
_FEW = 5  # lines of which a common beginning says nothing
_WIDTH = 120
_USUAL = 0.9
# Where vLLM's or Python's own words begin; columns end before them.
_OWN = re.compile(
    r"\([A-Z]\w*[^()]* pid=|\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|Traceback|File \"|vLLM"
    r"|(?:\w+\.)*[A-Z]\w*(?:Error|Exception)"
)
# Up to the last sign that ends a column, or up to three words before a bracket or a gap.
_COLUMNS = re.compile(r"\s*(?:.*[|:>\]-]\s+|(?:\S+\s+){1,3}(?=\(|$))?")
_DIGIT = re.compile(r"\d")


def bare(lines: Sequence[str]) -> Sequence[str]:
    """Return the lines without what is before all of them."""
    cleaned = [as_shown(text) for text in lines]
    spoken = (text for text in cleaned if text.strip())
    sample = [_DIGIT.sub("0", text[:_WIDTH]) for text in islice(spoken, _SAMPLE)]
    if len(sample) == 1:
        return [text.lstrip() for text in cleaned]
    size = _columns_size(_common(sample)) if len(sample) >= _FEW else 0
    if not size:
        return cleaned
    column = re.compile(re.escape(sample[0][:size]).replace("0", r"\d") + r"(?!\s*\|)")
    fits = [not text.strip() or column.match(text) is not None for text in cleaned]
    # An indent may be that of a paste's first lines only.
    needed = 1.0 if sample[0][:size].isspace() else _USUAL
    if sum(fits) < needed * len(cleaned):
        return cleaned
    return [text[size:] if fit else text for text, fit in zip(cleaned, fits, strict=True)]


def as_shown(text: str) -> str:
    """Return a line as a terminal would show it: what follows the last carriage return."""
    text = text.rstrip("\r\n")
    if "\r" in text:
        text = text.rpartition("\r")[2]
    return text.removeprefix("\ufeff")


def _columns_size(head: str) -> int:
    if head.startswith("{"):
        return 0  # JSON
    own = _OWN.search(head)
    columns = _COLUMNS.match(head[: own.start()] if own else head)
    return columns.end() if columns else 0


def _common(texts: Sequence[str]) -> str:
    """Return the beginning that all have."""
    first, last = min(texts), max(texts)
    return next(
        (first[:i] for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), first
    )
