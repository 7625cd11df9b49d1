"""What a person sees: steps with their times, a moving line below, errors with a remedy."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

MB, GB = 10**6, 10**9


class SetupError(Exception):
    """Something a person must mend: what is wrong, and what to do about it."""

    def __init__(self, message: str, remedy: str) -> None:
        """Keep both for `complain`."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def say(text: str = "") -> None:
    """Print one line at once, piped or not."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(error: SetupError) -> None:
    """Print an error and its remedy to stderr."""
    sys.stdout.flush()
    sys.stderr.write(f"\nerror: {error.message}\n")
    for line in error.remedy.splitlines():
        sys.stderr.write(f"  {line}\n")


def size(count: float) -> str:
    """Return a number of bytes as people read it: 2.6 GB."""
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{max(count, 0) / MB:.0f} MB"


class MovingLine:
    """One line that is overwritten; without a terminal, a line every 15 s."""

    QUIET_S = 15.0
    QUIET_WIDTH = 100

    def __init__(self) -> None:
        """Start the clock of the line."""
        self._moves = sys.stdout.isatty()
        self._started = self._shown = time.monotonic()

    def show(self, text: str) -> None:
        """Show what goes on now, behind the seconds since the start."""
        now = time.monotonic()
        line = f"      {now - self._started:4.0f} s  {text}"
        if self._moves:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write(f"\r\x1b[K{line[:width]}")
            sys.stdout.flush()
        elif now - self._shown >= self.QUIET_S:
            self._shown = now
            say(line[: self.QUIET_WIDTH])

    def clear(self) -> None:
        """Remove the line, so that the next one starts at the left."""
        if self._moves:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


class Steps:
    """Numbers the steps of a run and says how long each took."""

    def __init__(self, total: int) -> None:
        """Begin a run of so many steps."""
        self._total = total
        self._done = 0

    def announce(self, name: str) -> None:
        """Announce the next step."""
        self._done += 1
        say(f"[{self._done}/{self._total}] {name}")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce a step, and its time once it is done."""
        self.announce(name)
        started = time.monotonic()
        yield
        if (seconds := time.monotonic() - started) >= 1:
            say(f"      done in {seconds:.0f} s")
