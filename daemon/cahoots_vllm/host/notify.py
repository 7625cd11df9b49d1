"""What systemd is told (sd_notify(3)); nothing happens where it does not ask."""

import os
import socket
import time
from collections.abc import Mapping, Sequence

import sdnotify

_MICROSECONDS = 1_000_000


class Notifier:
    """Messages to the service manager through sdnotify's socket."""

    def __init__(self) -> None:
        """Connect to $NOTIFY_SOCKET, if any."""
        self._notifier = sdnotify.SystemdNotifier()

    @property
    def is_heard(self) -> bool:
        """Whether a service manager listens."""
        return bool(os.environ.get("NOTIFY_SOCKET")) and self._notifier.socket is not None

    def ready(self) -> None:
        """Settings are loaded, the control socket answers and the gateway listens."""
        self._notifier.notify("READY=1")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._notifier.notify(f"STATUS={text}")

    def reloading(self) -> None:
        """Settings are being read again; `reloaded` must follow (both forms of Type=notify)."""
        # systemd compares it with when it asked: CLOCK_MONOTONIC, as its own.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._notifier.notify("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the daemon really is on its way out."""
        self._notifier.notify("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for at least so many more seconds before the stop is taken for hung."""
        self._notifier.notify(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def store(self, message: str, descriptors: Sequence[int] = ()) -> None:
        """Send an FDSTORE or FDSTOREREMOVE message with its descriptors."""
        if not self.is_heard:
            return
        if not descriptors:
            self._notifier.notify(message)
            return
        try:
            socket.send_fds(self._notifier.socket, [message.encode()], descriptors)
        except OSError:
            return  # as sdnotify does: a manager that is gone changes nothing for us


def watchdog_period_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often systemd wants a sign of life, None when it does not.

    As sd_watchdog_enabled(3). After an exec in place WATCHDOG_PID is still ours: same pid.
    """
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    try:
        period = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return period / _MICROSECONDS if period > 0 else None
