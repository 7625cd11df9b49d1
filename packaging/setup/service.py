"""Runs the daemon in the foreground until it ends or a person ends it."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from .console import say

READY, FAILED, UNREACHABLE = 0, 1, 4  # exit statuses of `cahootsctl wait`
WAIT_S = 3600
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Foreground:
    """The daemon as a child, and the signals that end it."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the daemon; from here on its end and the signals are this object's."""
        self.asked_to_end = False
        for number in ENDING:
            signal.signal(number, self._end)
        # A process group of its own: a terminal sends Ctrl-C to the whole foreground group, and
        # the daemon is to get one signal, from here.
        self.daemon = subprocess.Popen(command, process_group=0)
        self.waiter: subprocess.Popen[str] | None = None

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        # First of all: a closed terminal takes no more words.
        self.daemon.send_signal(signal.SIGTERM)
        if not self.asked_to_end:
            with suppress(OSError):
                sys.stderr.write("\nstopping the model and the daemon; again: cut requests off\n")
        self.asked_to_end = True

    def wait(self) -> int:
        """Return this program's exit status once the daemon has ended."""
        code = self.daemon.wait()
        if self.waiter is not None:
            self.waiter.kill()
        if self.asked_to_end:
            with suppress(OSError):
                say("stopped" if code == 0 else f"the daemon ended with status {code}")
            return 0
        sys.stderr.write(f"error: the daemon ended by itself, with status {code}; see above\n")
        return 1


def announce(foreground: Foreground, ctl: Sequence[str], ready_text: str) -> None:
    """Wait beside the daemon until the model is ready or has failed, and say so."""
    # In a thread: the main one waits for the daemon, and Python runs signal handlers there only.
    waiting = (foreground, ctl, ready_text)
    threading.Thread(target=_announce, args=waiting, daemon=True).start()


def _announce(foreground: Foreground, ctl: Sequence[str], ready_text: str) -> None:
    started = time.monotonic()
    code, text = UNREACHABLE, ""
    while code == UNREACHABLE:
        if foreground.daemon.poll() is not None:
            return
        command = [*ctl, "wait", "--timeout", str(WAIT_S)]
        # Its progress is not shown: the daemon's own lines are on the terminal already.
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as foreground.waiter:
            text = foreground.waiter.communicate()[1].strip()
        code = foreground.waiter.returncode
        if code == UNREACHABLE:
            time.sleep(0.2)
    if foreground.asked_to_end or foreground.daemon.poll() is not None:
        return
    if code == READY:
        say(f"\nready after {time.monotonic() - started:.0f} s\n{ready_text}")
    else:
        program = ctl[0]
        word = "failed" if code == FAILED else "is not ready"
        say(
            f"\nthe model {word}\n{text}\n"
            f"  what happened:   {program} status\n"
            f"  its last lines:  {program} logs\n"
            f"  try again:       {program} start\n"
            "The daemon stays up until Ctrl-C; after correcting the .env, start this again."
        )
