"""Where cahootsctl writes: results on stdout, notes and progress on stderr.

The only module that knows about terminals, colours and escaping.
"""

import io
import json
import os
from collections.abc import Iterable, Mapping
from typing import TextIO

from cahoots_vllm.ctl.text import Json, Line, Tone, duration, escape, wrap

_WIDTH = 100
_MIN_WIDTH = 40
_CLEAR_LINE = "\r\x1b[K"


class Console:
    """The two output streams; escapes all text, colours it only on a terminal."""

    def __init__(
        self, stdout: TextIO, stderr: TextIO, env: Mapping[str, str], *, as_json: bool
    ) -> None:
        """Write text, or JSON on stdout and text on stderr."""
        self.as_json = as_json
        self._stdout = stdout
        self._stderr = stderr
        self._has_colours = not env.get("NO_COLOR") and env.get("TERM") != "dumb"  # no-color.org
        self._term = env.get("TERM", "")
        self._progress: str | None = None
        for stream in (stdout, stderr):
            # A model name the locale cannot write must not end the program.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    @property
    def width(self) -> int:
        """Columns to wrap text at."""
        return max(min(_columns(self._stdout), _WIDTH), _MIN_WIDTH)

    @property
    def draws_blocks(self) -> bool:
        """Whether block characters can be shown; the kernel's own console has not all of them."""
        is_plain = self._term in ("dumb", "linux")
        return not is_plain and "utf" in (getattr(self._stdout, "encoding", None) or "").lower()

    def result(self, document: Json, lines: Iterable[Line]) -> None:
        """Write the one result of a verb."""
        if self.as_json:
            self._write_json(json.dumps(document, indent=2))
        else:
            self._write(self._stdout, lines)

    def record(self, document: Json, line: Line) -> None:
        """Write one entry of a stream: a line of text or of NDJSON."""
        if self.as_json:
            self._write_json(json.dumps(document))
        else:
            self._write(self._stdout, [line])

    def failure(self, problem: Json, lines: Iterable[Line]) -> None:
        """Tell a person what is wrong; with JSON the problem is the document, or its last line."""
        if self.as_json:
            self._write_json(json.dumps(problem))
        if self._stderr.isatty():  # programs read a line as a whole
            width = _columns(self._stderr)
            lines = [Line(text, tone) for said, tone in lines for text in wrap(said, width, 2)]
        self._write(self._stderr, lines)

    def note(self, lines: Iterable[Line]) -> None:
        """Tell a person something beside the result."""
        self._write(self._stderr, lines)

    def progress(self, text: str, elapsed_s: float) -> None:
        """Show what goes on: one updating line on a terminal, else a line per change."""
        if self._stderr.isatty():
            shown = escape(f"{text} ({duration(elapsed_s)})")
            self._stderr.write(_CLEAR_LINE + shown[: _columns(self._stderr) - 1])
        elif text != self._progress:
            self._stderr.write(escape(text) + "\n")
        self._stderr.flush()
        self._progress = text

    def waiting(self, text: str) -> None:
        """Say on a terminal what is waited for, until there is an answer."""
        if self._stderr.isatty():
            self._stderr.write(_CLEAR_LINE + escape(text)[: _columns(self._stderr) - 1])
            self._stderr.flush()
            self._progress = text

    def _write(self, stream: TextIO, lines: Iterable[Line]) -> None:
        self._end_progress()
        paints = self._has_colours and stream.isatty()
        for line in lines:
            text = escape(line.text)
            painted = paints and line.tone is not Tone.PLAIN
            stream.write(f"\x1b[{line.tone}m{text}\x1b[0m\n" if painted else f"{text}\n")
        stream.flush()

    def _write_json(self, text: str) -> None:
        self._end_progress()
        self._stdout.write(f"{text}\n")
        self._stdout.flush()

    def _end_progress(self) -> None:
        if self._progress is not None and self._stderr.isatty():
            self._stderr.write(_CLEAR_LINE)
            self._stderr.flush()
        self._progress = None


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH
    except OSError:  # not a terminal
        return _WIDTH
