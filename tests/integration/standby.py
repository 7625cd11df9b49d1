"""A standby and the daemon's end of its socket: worker/launcher.py says what goes over it."""

import json
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LAUNCHER = Path(__file__).resolve().parents[2] / "daemon/cahoots_vllm/worker/launcher.py"
# The slowest got warm in 12 s, with both cores busy.
_PATIENCE_S = 240.0


class Standby:
    """One standby, and the daemon's end of its socket."""

    def __init__(self, python: Path, env: Mapping[str, str], *arguments: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(_PATIENCE_S)
        self._heard = b""
        with theirs:
            self.process = subprocess.Popen(
                [str(python), str(LAUNCHER), "--fd", str(theirs.fileno()), *arguments],
                env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip

    def hear(self) -> dict[str, Any]:
        """Return the next thing it says, {} at the end."""
        while b"\n" not in self._heard:
            more = self.socket.recv(1 << 16)
            if not more:
                return {}
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return dict(json.loads(line))

    def send(self, spec: object, *fds: int) -> None:
        """Send one spec."""
        socket.send_fds(self.socket, [json.dumps(spec).encode() + b"\n"], fds)

    def close(self) -> None:
        """End it, whatever it does."""
        self.socket.close()
        self.process.kill()
        self.process.wait(20)
