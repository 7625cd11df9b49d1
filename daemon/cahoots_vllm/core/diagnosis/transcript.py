"""Turns a log into what was said in it: exceptions with their frames and chains, and outcries.

Text counts only where vLLM or Python puts it: an exception's name at the start of a message. What
stands elsewhere in a line may be a user's (request logging prints prompts).
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cahoots_vllm.core.diagnosis.columns import as_shown, bare
from cahoots_vllm.core.log_line import Depth, LogLine, parse_line

MAX_MESSAGE = 2000
_MAX_TEXT = 8000
_MAX_MORE = 600  # of a line that belongs to an exception: a compiler's command has thousands
_LOUD = ("ERROR", "CRITICAL", None)
_TRACEBACK = re.compile(r"(?:.*[:\s])?Traceback \(most recent call last\):\s*$")
_FRAME = re.compile(r'\s*File "(?:.*/)?(?P<file>[^"/]+)", line \d+, in (?P<function>\S+)')
EXCEPTION = re.compile(
    r"(?P<name>(?:[A-Za-z_]\w*\.)*[A-Z]\w*"
    r"(?:Error|Exception|Interrupt|Killed|Exit|Timeout|OutOfResources))"
    r"(?:\s*\([A-Z]\w+\))?(?::\s?(?P<says>.*))?$"
)
# Inside a traceback whatever stands at the left margin like a class's name is the exception; the
# C library's and some modules' are written small: struct.error, socket.gaierror, zlib.error.
_ANY_EXCEPTION = re.compile(
    r"(?P<name>(?:[A-Za-z_]\w*\.)*[A-Z]\w*|(?:[A-Za-z_]\w*\.)+(?:[a-z]*error|timeout))"
    r"(?::\s(?P<says>.*))?$"
)
_CONNECTOR = re.compile(
    r"(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):"
)
_GROUP = re.compile(r"\s*[|+]\s?-*\s?")
# A pydantic error, NCCL's, and a message that ends with a colon go on in the next lines; a
# compiler's own words stand below its command.
_GOES_ON = re.compile(r"validation errors? for|NCCL error|gated repo|PTXAS error|:\s*$")
_COMPILED = re.compile(r"compile error|[Nn]inja output|[Cc]ompil\w+ failed|nvcc|NVCC")
_MORE_LINES, _COMPILERS_LINES = 6, 40


@dataclass(frozen=True, slots=True)
class Statement:
    """An exception, or a line that needs none to be meant (`name` is empty).

    `frames` are "file.py:function", outermost first. `chain` numbers the tracebacks that Python
    connected ("direct cause", "during handling"): the first of a chain is its root.
    """

    number: int
    depth: Depth
    level: str | None
    name: str
    says: str
    frames: tuple[str, ...] = ()
    chain: int = 0
    is_serving: bool = False
    pid: str | None = None
    process: str | None = None
    more: tuple[tuple[int, str], ...] = ()

    @property
    def head(self) -> str:
        """The exception as Python prints it."""
        if not self.name:
            return self.says
        return f"{self.name}: {self.says}" if self.says else self.name

    @property
    def text(self) -> str:
        """The exception with the lines that belong to it."""
        return "\n".join((self.head, *(line for _, line in self.more)))[:_MAX_TEXT]

    def find(self, pattern: re.Pattern[str]) -> tuple[int, str]:
        """Return number and text of the line in which the pattern is, the first by default."""
        found = next((part for part in self.more if pattern.search(part[1])), None)
        return (self.number, self.head) if found is None or pattern.search(self.head) else found


@dataclass(slots=True)
class _Stream:
    """What one process is in the middle of saying."""

    frames: list[str] = field(default_factory=list)
    is_in_traceback: bool = False
    is_connected: bool = False
    chain: int = 0
    last: int | None = None
    more: int = 0


@dataclass(frozen=True, slots=True)
class NumberedLine:
    """A parsed line and its number in the whole log, counted from 1."""

    number: int
    line: LogLine


def number_lines(lines: Sequence[str]) -> list[NumberedLine]:
    """Parse all lines; a JSON record (vLLM's --logging-config) becomes the lines it stands for."""
    found = []
    for number, text in enumerate(bare(lines), start=1):
        if text.startswith("{"):
            found += [NumberedLine(number, line) for line in _json_lines(text)]
        else:
            found.append(NumberedLine(number, parse_line(text)))
    return found


# The field that holds a whole line: docker's json-file, journalctl -o json, cahootsctl logs --json.
_LINE_FIELDS = ("log", "MESSAGE", "text")


def _json_lines(text: str) -> Iterator[LogLine]:
    """Yield a JSON record's lines (vllm/logging_utils: message, levelname, exc_info)."""
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        yield parse_line(text)
        return
    said = record.get("message", record.get("msg"))
    if said is None:
        yield from _stored_lines(text, record)
        return
    process = record.get("vllm_process_name") or record.get("processName")
    level, pid = record.get("levelname") or record.get("level"), record.get("process")
    for part in f"{said}\n{record.get('exc_info') or ''}".splitlines():
        yield LogLine(
            part,
            str(process) if process else None,
            str(level).upper() if level else None,
            str(pid) if pid else None,
        )


def _stored_lines(text: str, record: dict[str, object]) -> Iterator[LogLine]:
    whole = next((v for k in _LINE_FIELDS if isinstance(v := record.get(k), str)), text)
    if record.get("source") == "daemon":
        yield LogLine(whole, None, "INFO")
        return
    for part in as_shown(whole).split("\n"):
        yield parse_line(part)


def read_statements(
    lines: Iterable[NumberedLine], outcries: re.Pattern[str], ready_at: int | None
) -> list[Statement]:
    """Return what was said, in order; `outcries` match lines that count without an exception.

    `ready_at` is the line where serving began, None if it never did.
    """
    reader = _Reader(outcries, ready_at)
    for each in lines:
        reader.take(each.number, each.line)
    return reader.statements


class _Reader:
    def __init__(self, outcries: re.Pattern[str], ready_at: int | None) -> None:
        self.statements: list[Statement] = []
        self._outcries = outcries
        self._ready_at = ready_at
        self._streams: dict[tuple[str | None, str | None, str | None], _Stream] = {}
        self._chains = 0

    def take(self, number: int, line: LogLine) -> None:
        if line.level not in _LOUD:
            return
        key = (line.process, line.pid, line.level)
        stream = self._streams.setdefault(key, _Stream())
        message = _GROUP.sub("", line.message, count=1) if "|" in line.message else line.message
        if _TRACEBACK.match(message):
            self._begin(stream)
        elif stream.is_in_traceback or _FRAME.match(message):
            self._inside(stream, number, line, message)
        elif _CONNECTOR.match(message):
            stream.is_connected = True
            stream.more = 0
        elif stream.more > 0 and stream.last is not None and message.strip():
            self._go_on(stream, number, message)
        else:
            self._alone(stream, number, line, message)

    def _begin(self, stream: _Stream) -> None:
        if not stream.is_connected:
            self._chains += 1
            stream.chain = self._chains
        stream.is_in_traceback, stream.is_connected = True, False
        stream.frames, stream.more = [], 0

    def _inside(self, stream: _Stream, number: int, line: LogLine, message: str) -> None:
        frame = _FRAME.match(message)
        if frame:
            if not stream.is_in_traceback:  # a paste that begins in the middle of one
                self._begin(stream)
            stream.frames.append(f"{frame['file']}:{frame['function']}")
        elif match := EXCEPTION.match(message) or _ANY_EXCEPTION.match(message):
            stream.is_in_traceback = False
            self._add(stream, number, line, match["name"], match["says"] or "")
        # Else source code and its carets, or another process that speaks in between.

    def _alone(self, stream: _Stream, number: int, line: LogLine, message: str) -> None:
        said = message.strip()
        match = EXCEPTION.match(said)
        if match:
            self._chains += 1
            stream.chain, stream.frames = self._chains, []
            self._add(stream, number, line, match["name"], match["says"] or "")
        elif self._outcries.match(said):
            self._chains += 1
            stream.chain, stream.frames = self._chains, []
            self._add(stream, number, line, "", said)

    def _add(self, stream: _Stream, number: int, line: LogLine, name: str, says: str) -> None:
        statement = Statement(
            number=number,
            depth=line.depth,
            level=line.level,
            name=name,
            says=says[:MAX_MESSAGE],
            frames=tuple(stream.frames),
            chain=stream.chain,
            is_serving=self._ready_at is not None and number > self._ready_at,
            pid=line.pid,
            process=line.process,
        )
        stream.last = len(self.statements)
        stream.more = _more_lines(says)
        self.statements.append(statement)

    def _go_on(self, stream: _Stream, number: int, message: str) -> None:
        stream.more -= 1
        if stream.last is not None:
            before = self.statements[stream.last]
            more = (*before.more, (number, message[:_MAX_MORE]))
            self.statements[stream.last] = replace(before, more=more)


def _more_lines(says: str) -> int:
    if _COMPILED.search(says):
        return _COMPILERS_LINES
    return _MORE_LINES if _GOES_ON.search(says) else 0
