"""Finds the daemon's socket and connects to it."""

import os
import socket
from collections.abc import Sequence

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import SYSTEM_SOCKET
from cahoots_vllm.ctl.problems import WHO_MAY

_CONNECT_TIMEOUT_S = 10.0


def connect(places: Sequence[str], uid: int) -> socket.socket:
    """Connect to the first place where a daemon listens.

    Raises CahootsError: NOT_PERMITTED when one is there for others only, else UNREACHABLE.
    """
    denied: str | None = None
    # With one place, it was named by the caller and is taken as it is.
    found = places if len(places) == 1 else [p for p in places if not _is_foreign(p, uid)]
    for place in found:
        try:
            return _connect_one(place)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            continue
        except PermissionError:
            denied = denied or place
        except OSError as error:  # a path too long, a listener that accepts nobody
            raise _unreachable(reason=f"{place}: {error.strerror or error}") from error
    if denied:
        raise CahootsError(Kind.NOT_PERMITTED, f"cannot use {denied}: permission denied", WHO_MAY)
    raise _unreachable(reason=f"nothing listens on {' or '.join(places)}")


def _connect_one(place: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_CONNECT_TIMEOUT_S)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_foreign(place: str, uid: int) -> bool:
    """Say whether somebody else made the user-mode directory, which may stand in /tmp.

    Such a socket could be anyone's and must not receive our commands. A directory that is not
    there or cannot be seen is left to connect() to judge.
    """
    if place == SYSTEM_SOCKET:
        return False
    try:
        return os.lstat(place.rpartition("/")[0]).st_uid not in (uid, 0)
    except OSError:
        return False


def _unreachable(*, reason: str) -> CahootsError:
    return CahootsError(
        Kind.UNREACHABLE,
        f"cannot reach the daemon: {reason}",
        "start it with `systemctl start cahoots-vllm` or, in a checkout, `packaging/quickstart`; "
        "`--socket PATH` looks elsewhere",
    )
