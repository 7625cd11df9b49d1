"""Sets one key of a `.env` and leaves every other byte of it alone.

The grammar is python-dotenv's: a line is found by its own parser, and what was written is read back
with it before the file is replaced. What would read otherwise is refused.
"""

import io
import pwd
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.file_swap import CannotSwapError, SwapFile

_BOM = "\ufeff"
# The parts of a binding, as dotenv.parser reads them.
_KEY = re.compile(r"\s*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=#\s]+)")
_EQUALS = re.compile(r"[^\S\r\n]*=[^\S\r\n]*")
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_AFTER_PLAIN = re.compile(r"\s+#|\s*[\r\n]|\s*\Z")
_LINE_END = re.compile(r"\r\n|\n|\r")
# What every reader of a `.env` takes without quotes: shells and compose files too.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=^-]+")
_EXPANDED_IN_DOUBLE = re.compile(r"[$`]")  # by a shell that sources the file

_Said = tuple[str | None, str | None, bool]


def set_value(path: Path, key: str, value: str, *, is_rehearsal: bool = False) -> None:
    """Make `key` mean `value` in this `.env`: on its last line, else on a new one. Blocking.

    Nothing is written when it means that already. A link stays and its target is replaced. Raises
    CahootsError: BAD_REQUEST for a value that no line can hold, CONFLICT when the file cannot be
    written; it is then as it was. A rehearsal raises the same and changes nothing.
    """
    _check(path, key, value)
    try:
        file = SwapFile.open(path)
        changed = _edit(file.content.decode("utf-8", "surrogateescape"), key, value)
        content = changed.encode("utf-8", "surrogateescape")
        if content != file.content:
            file.replace(content, is_rehearsal=is_rehearsal)
    except CannotSwapError as error:
        line = f"{key}={next(_words(value, ''))}"
        who = "" if error.forbidden is None else f"as {_owner(error.forbidden)}, "
        raise CahootsError(
            Kind.CONFLICT,
            f"cannot write {path}: {error.reason}",
            f"{who}put this line into it by hand: {line}",
        ) from error


def _check(path: Path, key: str, value: str) -> None:
    """Refuse a value that is not one line, not text, or that reading would expand."""
    try:
        value.encode()
    except UnicodeEncodeError:
        is_text = False
    else:
        is_text = not any(part in value for part in ("\n", "\r", "\0", "${"))
    if not is_text:
        raise CahootsError(
            Kind.BAD_REQUEST,
            f"cannot write {key} to {path}: a line end, a zero byte, ${{ or no text in the value",
            "use another name",
        )


def _owner(path: Path) -> str:
    """Say who may write here."""
    try:
        uid = path.stat().st_uid
    except OSError:
        return "root"
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        owner = f"uid {uid}"
    return owner if uid == 0 else f"{owner} or root"


def _edit(text: str, key: str, value: str) -> str:
    """Return the text with the value set. Raises CannotSwapError when none would read back."""
    if "\0" in text:
        reason = "it has a zero byte in it"
        raise CannotSwapError(reason)
    bom = _BOM if text.startswith(_BOM) else ""
    bindings = _parse(text.removeprefix(_BOM))
    places = [place for place, binding in enumerate(bindings) if binding.key == key]
    place = places[-1] if places else len(bindings)
    if places and bindings[place].value == value:
        return text
    head, tail = bindings[:place], bindings[place + 1 :]
    wanted = [*_said(head), (key, value, False), *_said(tail)]
    for line in _ways(bindings, place, key, value):
        changed = _join(head) + line + _join(tail)
        if _said(_parse(changed)) == wanted:
            return bom + changed
    reason = "the lines around it would read otherwise"
    raise CannotSwapError(reason)


def _parse(text: str) -> list[Binding]:
    return list(parse_stream(io.StringIO(text)))


def _join(bindings: Sequence[Binding]) -> str:
    return "".join(binding.original.string for binding in bindings)


def _said(bindings: Sequence[Binding]) -> list[_Said]:
    """Return what the lines say; comments and blank ones say nothing."""
    saying = (b for b in bindings if b.key is not None or b.error)
    return [(b.key, b.original.string.strip() if b.error else b.value, b.error) for b in saying]


def _ways(bindings: Sequence[Binding], place: int, key: str, value: str) -> Iterator[str]:
    """Yield what may stand at this place, the most faithful first."""
    if place == len(bindings):
        before, after = _line_ends(_join(bindings))
        yield from (f"{before}{key}={word}{after}" for word in _words(value, ""))
        return
    head, old, rest = _split(bindings[place].original.string)
    gap = " " if rest.startswith("#") and not _QUOTED.fullmatch(old) else ""
    yield from (f"{head}{word}{gap}{rest}" for word in _words(value, old[:1]))


def _line_ends(text: str) -> tuple[str, str]:
    """Return what goes before and behind a new last line: as the file has it, none at its end."""
    ends = _LINE_END.findall(text)
    end = ends[-1] if ends else "\n"
    return ("", end) if not text or text.endswith(("\n", "\r")) else (end, "")


def _split(original: str) -> tuple[str, str, str]:
    """Return a binding's text up to its value, the value as written, and what comes behind."""
    key = _KEY.match(original)
    if key is None:
        return original, "", ""  # not what we take for a key: it will not read back
    equals = _EQUALS.match(original, key.end())
    if equals is None:
        return f"{key[0]}=", "", original[key.end() :]  # a key alone
    start = equals.end()
    quoted = _QUOTED.match(original, start)
    if quoted is not None:
        return original[:start], quoted[0], original[quoted.end() :]
    if original.startswith("#", start) and not equals[0].endswith("="):
        return original[:start], "", original[start:]  # no value, a comment
    after = _AFTER_PLAIN.search(original, start)
    end = after.start() if after else len(original)
    return original[:start], original[start:end], original[end:]


def _words(value: str, quote: str) -> Iterator[str]:
    """Yield the value as it may be written, first in the quotes that were there."""
    single = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    double = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if quote == '"' and not _EXPANDED_IN_DOUBLE.search(value):
        yield double
    if quote not in ("'", '"') and _PLAIN.fullmatch(value):
        yield value
    yield from (single, double, value)
