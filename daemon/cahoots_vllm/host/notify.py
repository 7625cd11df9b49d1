"""What systemd is told (sd_notify(3)); nothing happens where it does not ask."""

import sdnotify


class Notifier:
    """READY, STATUS and STOPPING through sdnotify."""

    def __init__(self) -> None:
        """Connect to $NOTIFY_SOCKET, if any."""
        self._notifier = sdnotify.SystemdNotifier()

    def ready(self) -> None:
        """Settings are loaded, the control socket answers and the gateway listens."""
        self._notifier.notify("READY=1")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._notifier.notify(f"STATUS={text}")

    def stopping(self) -> None:
        """Say that the daemon really is on its way out."""
        self._notifier.notify("STOPPING=1")
