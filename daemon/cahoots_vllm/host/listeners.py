"""The daemon's listening sockets over its restarts and over a change of addresses."""

import socket
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cahoots_vllm.core.addresses import UNIX_PREFIX, unix_path
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.sockets import be_patient, listen_tcp, listen_unix, shut

_GATEWAY_MODE = 0o660
# An address as core.addresses spells it, and its port; 0 for a Unix socket.
Place = tuple[str, int]


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

    def __init__(self, store: Store, group: str | None = None) -> None:
        """Take what an earlier daemon left there; Unix sockets are given to the group."""
        self._store = store
        self._group = group
        self._control = _sockets(store.take("control"))
        self._gateway = {_place(listener): listener for listener in _sockets(store.take("gateway"))}
        self._old: list[tuple[Place, socket.socket]] = []

    def control(self, path: Path, *, mode: int) -> socket.socket:
        """Return the control socket, listening; the caller's own copy. Raises CahootsError."""
        is_there = path.is_socket()
        kept = [s for s in self._control if s.getsockname() == str(path) and is_there][:1]
        shut(listener for listener in self._control if listener not in kept)
        listener = kept[0] if kept else listen_unix(path, mode=mode, group=self._group)
        self._keep("control", [listener])
        self._control = [listener]
        return listener.dup()

    def gateway(self, addresses: tuple[str, ...], port: int) -> list[socket.socket]:
        """Listen on these addresses (core.addresses); return the caller's own copies.

        The others are listened on until `retire`. An address whose family the host lacks is left
        out.
        Raises CahootsError (CONFLICT when a port or path is taken, BAD_SETTINGS when no address is
        left), and nothing has changed then.
        """
        places = [(each, 0 if unix_path(each) else port) for each in addresses]
        with _shared(self._gateway.values()):
            wanted = self._listen_on(places)
        self._old += [each for each in self._gateway.items() if each[1] not in wanted.values()]
        self._gateway = wanted
        self._keep("gateway", wanted.values())
        return [listener.dup() for listener in wanted.values()]

    def _listen_on(self, places: list[Place]) -> dict[Place, socket.socket]:
        found: dict[Place, socket.socket] = {}
        new: list[Place] = []
        try:
            for place in places:
                if (listener := self._open(place)) is not None:
                    found[place] = listener
                elif (listener := self._listen(place)) is not None:
                    found[place] = listener
                    new.append(place)
        except CahootsError:
            _end([(place, found[place]) for place in new])
            raise
        if not found:
            raise CahootsError(
                Kind.BAD_SETTINGS,
                f"cannot listen on {', '.join(place for place, _ in places)}: no such address on "
                "this host",
                "set gateway.listen to an address of this host",
            )
        return found

    def _open(self, place: Place) -> socket.socket | None:
        """Return the socket that is open there already."""
        path = unix_path(place[0])
        if path is not None and not Path(path).is_socket():
            return None  # somebody took its file away
        return self._gateway.get(place)

    def _listen(self, place: Place) -> socket.socket | None:
        address, port = place
        path = unix_path(address)
        if path is not None:
            return listen_unix(Path(path), mode=_GATEWAY_MODE, group=self._group)
        try:
            return listen_tcp(address, port, is_shared=bool(self._gateway))
        except OSError as error:
            raise CahootsError(
                Kind.CONFLICT,
                f"cannot listen on port {port}: {error.strerror}",
                f"see who has it: ss -ltnp 'sport = :{port}'; or set another port in LOCAL_LLM_URL",
            ) from error

    def retire(self) -> None:
        """Refuse connections to addresses that are no longer wanted; nobody may accept there."""
        _end(self._old, kept=self._gateway)
        self._old = []

    def _keep(self, name: str, listeners: Iterable[socket.socket]) -> None:
        self._store.drop(name)
        for listener in listeners:
            self._store.put(name, listener.fileno())

    def close(self) -> None:
        """Refuse connections from now on: the daemon will not be back."""
        for name in ("control", "gateway"):
            self._store.drop(name)
        shut(self._control)
        _end([*self._gateway.items(), *self._old])
        self._control, self._gateway, self._old = [], {}, []


@contextmanager
def _shared(listeners: Iterable[socket.socket]) -> Iterator[None]:
    """Let 0.0.0.0 be bound while 127.0.0.1 is still listened on, and the other way round.

    With SO_REUSEPORT on both (socket(7)); on neither afterwards, so that nobody shares with us.
    """
    ours = [listener for listener in listeners if listener.family != socket.AF_UNIX]
    try:
        for listener in ours:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield
    finally:
        for listener in ours:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _sockets(descriptors: Iterable[int]) -> list[socket.socket]:
    found = []
    for descriptor in descriptors:
        listener = socket.socket(fileno=descriptor)
        listener.settimeout(0)
        if listener.family != socket.AF_UNIX:
            be_patient(listener)  # it may be an older daemon's
        found.append(listener)
    return found


def _place(listener: socket.socket) -> Place:
    name = listener.getsockname()
    if isinstance(name, str):
        return f"{UNIX_PREFIX}{name}", 0
    return str(name[0]), int(name[1])


def _end(listeners: Iterable[tuple[Place, socket.socket]], kept: Container[Place] = ()) -> None:
    """Refuse connections, and take the files of Unix sockets away where none of ours is there."""
    for place, listener in listeners:
        path = unix_path(place[0])
        if path is not None and place not in kept:
            Path(path).unlink(missing_ok=True)
        shut([listener])
