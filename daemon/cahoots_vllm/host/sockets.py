"""Listening sockets, bound by hand: aiohttp's UnixSite never sets a socket's mode."""

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cahoots_vllm.core.addresses import is_exposed
from cahoots_vllm.core.errors import CahootsError, Kind

_BACKLOG = 1024
# tcp(7). A client that is gone without a word (its host lost power, a NAT forgot it): asked after
# a minute of silence. What counts then is the user timeout, in milliseconds: with it set, Linux
# does not count the probes. It also ends an answer that nobody takes any more; Cahoots' own client
# gives up after the same 600 s. Accepted sockets inherit all of it.
_PATIENCE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 600_000),
)
_IP_FREEBIND = 15  # ip(7), linux/in.h; for IPv6 too
_SUN_PATH_MAX = 107  # unix(7): 108 bytes with the final zero


def private_directory(path: Path, *, mode: int = 0o700) -> None:
    """Make a directory for sockets; one that belongs to another user is refused.

    Raises CahootsError (BAD_SETTINGS).
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot make the directory {path}: {error.strerror}",
            "set XDG_RUNTIME_DIR to a directory of your own",
        ) from error
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (os.geteuid(), 0):
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot use {path}: it belongs to uid {info.st_uid}",
            "remove it, or set XDG_RUNTIME_DIR to a directory of your own",
        )


def check_path_length(path: Path) -> None:
    """Refuse a socket path the kernel cannot take (unix(7)). Raises CahootsError."""
    if len(os.fsencode(path)) > _SUN_PATH_MAX:
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot use the socket path {path}: longer than {_SUN_PATH_MAX} bytes",
            "use a shorter directory: by XDG_RUNTIME_DIR, or in gateway.listen",
        )


def listen_unix(path: Path, *, mode: int, group: str | None) -> socket.socket:
    """Listen on a Unix socket with this mode, owned by the group where it exists.

    A stale socket file is replaced; one with a living listener is refused. Raises CahootsError.
    """
    check_path_length(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # Nobody may connect before mode and group are right. The file gets the socket's own mode
        # (unix_bind() in Linux' net/unix/af_unix.c); a umask would be that of all threads.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
    except CahootsError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot listen on {path}: {error.strerror}",
            "check its directory: it must be there, and the daemon's user must be allowed to "
            "write in it",
        ) from error
    if group is not None:
        _give_to_group(path, group)
    path.chmod(mode)
    listener.listen(_BACKLOG)
    listener.settimeout(0)
    return listener


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise CahootsError(
        Kind.CONFLICT,
        f"cannot listen on {path}: another cahoots-vllmd answers there",
        "stop it first: systemctl stop cahoots-vllm, or Ctrl-C where it runs; or set another path",
    )


def _give_to_group(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except (KeyError, PermissionError):
        return  # no such group, or not ours to give: only the owner and root may connect


def listen_tcp(host: str, port: int, *, is_shared: bool = False) -> socket.socket | None:
    """Listen on an address; None where this host lacks its family. Raises OSError.

    An address beyond loopback may come later, as docker0's does at boot: it is listened on then.
    `is_shared`: whoever listens on an address that covers it, or is covered by it, may be we
    ourselves, and allows it (SO_REUSEPORT).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, is_exposed(host))
        be_patient(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    listener.settimeout(0)
    return listener


def be_patient(listener: socket.socket) -> None:
    """Let connections it accepts notice a client that is gone without a word."""
    for level, option, value in _PATIENCE:
        listener.setsockopt(level, option, value)


def shut(listeners: Iterable[socket.socket]) -> None:
    """Refuse connections from now on, and close."""
    for listener in listeners:
        # The service manager's copy would go on listening until it has read our message.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def is_here(host: str) -> bool:
    """Whether an address is one of this host's now; it may come later, as a bridge of Docker's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
