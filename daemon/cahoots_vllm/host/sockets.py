"""Listening sockets, bound by hand: aiohttp's UnixSite never sets a socket's mode."""

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from cahoots_vllm.core.errors import CahootsError, Kind

_BACKLOG = 1024
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
            "set XDG_RUNTIME_DIR to a shorter directory",
        )


def listen_unix(path: Path, *, mode: int, group: str | None) -> socket.socket:
    """Listen on a Unix socket with this mode, owned by the group where it exists.

    A stale socket file is replaced; one with a living listener is refused. Raises CahootsError.
    """
    check_path_length(path)
    if path.is_socket():
        _refuse_living(path)
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Nobody may connect before mode and group are right.
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot listen on {path}: {error.strerror}", "check the directory"
        ) from error
    finally:
        os.umask(previous)
    if group is not None:
        _give_to_group(path, group)
    path.chmod(mode)
    listener.listen(_BACKLOG)
    listener.settimeout(0)
    return listener


def _refuse_living(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise CahootsError(
        Kind.CONFLICT,
        f"cannot listen on {path}: another cahoots-vllmd answers there",
        "stop it first: systemctl stop cahoots-vllm, or Ctrl-C where it runs",
    )


def _give_to_group(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except (KeyError, PermissionError):
        return  # no such group, or not ours to give: only the owner and root may connect


class Store(Protocol):
    """What keeps descriptors beyond this process (host.fd_store)."""

    def take(self, name: str) -> list[int]:
        """Return what an earlier process kept."""
        ...

    def put(self, name: str, descriptor: int) -> None:
        """Keep one."""
        ...

    def drop(self, name: str) -> None:
        """Keep a name's no longer."""
        ...


class Listeners:
    """The daemon's listening sockets: connections made while no daemon runs wait in them."""

    def __init__(self, store: Store) -> None:
        """Take what an earlier daemon left there."""
        self._store = store
        self._control = _sockets(store.take("control"))
        self._tcp = {_place(listener): listener for listener in _sockets(store.take("gateway"))}
        self._old: list[socket.socket] = []

    def control(self, path: Path, *, mode: int, group: str | None) -> socket.socket:
        """Return the control socket, listening; the caller's own copy. Raises CahootsError."""
        is_there = path.is_socket()
        kept = [s for s in self._control if s.getsockname() == str(path) and is_there][:1]
        _shut(listener for listener in self._control if listener not in kept)
        listener = kept[0] if kept else listen_unix(path, mode=mode, group=group)
        self._keep("control", [listener])
        self._control = [listener]
        return listener.dup()

    def gateway(self, hosts: tuple[str, ...], port: int) -> list[socket.socket]:
        """Listen on these addresses; return the caller's own copies.

        The others are listened on until `retire`. An address family that the host lacks is left
        out. Raises CahootsError (CONFLICT when the port is taken, BAD_SETTINGS when no address is
        left), and nothing has changed then.
        """
        wanted = listen_tcp(hosts, port, self._tcp)
        self._old += [listener for listener in self._tcp.values() if listener not in wanted]
        self._tcp = {_place(listener): listener for listener in wanted}
        self._keep("gateway", wanted)
        return [listener.dup() for listener in wanted]

    def retire(self) -> None:
        """Refuse connections to addresses that are no longer wanted; nobody may accept there."""
        _shut(self._old)
        self._old = []

    def _keep(self, name: str, listeners: list[socket.socket]) -> None:
        self._store.drop(name)
        for listener in listeners:
            self._store.put(name, listener.fileno())

    def close(self) -> None:
        """Refuse connections from now on: the daemon will not be back."""
        for name in ("control", "gateway"):
            self._store.drop(name)
        _shut([*self._control, *self._tcp.values(), *self._old])
        self._control, self._tcp, self._old = [], {}, []


def _sockets(descriptors: Iterable[int]) -> list[socket.socket]:
    found = []
    for descriptor in descriptors:
        listener = socket.socket(fileno=descriptor)
        listener.settimeout(0)
        found.append(listener)
    return found


def _place(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return str(host), int(port)


def _shut(listeners: Iterable[socket.socket]) -> None:
    for listener in listeners:
        # The service manager's copy would go on listening until it has read our message.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def listen_tcp(
    hosts: tuple[str, ...],
    port: int,
    is_open: Mapping[tuple[str, int], socket.socket] = MappingProxyType({}),
) -> list[socket.socket]:
    """Listen on every address, or go on with the socket that is open on it.

    Raises CahootsError (CONFLICT) when the port is taken or no address is left.
    """
    listeners: list[socket.socket] = []
    new: list[socket.socket] = []
    try:
        for host in dict.fromkeys(hosts):
            listener = is_open.get((host, port))
            if listener is None and (listener := _listen_one(host, port)) is not None:
                new.append(listener)
            if listener is not None:
                listeners.append(listener)
    except OSError as error:
        for listener in new:
            listener.close()
        raise CahootsError(
            Kind.CONFLICT,
            f"cannot listen on port {port}: {error.strerror}",
            f"see who has it: ss -ltnp 'sport = :{port}'; or set another port in LOCAL_LLM_URL",
        ) from error
    if not listeners:
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot listen on {', '.join(hosts)}: no such address on this host",
            "set gateway.listen to an address of this host",
        )
    return listeners


def _listen_one(host: str, port: int) -> socket.socket | None:
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
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    listener.listen(_BACKLOG)
    listener.settimeout(0)
    return listener
