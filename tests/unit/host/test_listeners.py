"""Listening sockets that outlive the daemon: taken over, kept, and let go of for good."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.host.sockets import Listeners


class Store:
    """A store over "restarts" of whoever uses it: it has copies, as systemd does."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int]] = []

    def take(self, name: str) -> list[int]:
        return [os.dup(fd) for kept, fd in self.kept if kept == name]

    def put(self, name: str, descriptor: int) -> None:
        self.kept.append((name, os.dup(descriptor)))

    def drop(self, name: str) -> None:
        for kept, descriptor in self.kept:
            if kept == name:
                os.close(descriptor)
        self.kept = [row for row in self.kept if row[0] != name]


@pytest.fixture
def store() -> Iterator[Store]:
    one = Store()
    yield one
    one.drop("gateway")
    one.drop("control")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def knock(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=1)


def close(*listeners: socket.socket) -> None:
    for listener in listeners:
        listener.close()


def test_connection_made_while_nobody_runs_is_accepted_by_the_next(store: Store) -> None:
    port = free_port()
    first = Listeners(store)
    close(*first.gateway(("127.0.0.1",), port))
    # As an end by SIGKILL: its own descriptors are closed, nothing else is done.
    close(*first._tcp.values())  # noqa: SLF001 (there is no other way to die)
    waiting = knock(port)
    second = Listeners(store)
    (listener,) = second.gateway(("127.0.0.1",), port)
    accepted, _ = listener.accept()
    close(waiting, accepted, listener)
    second.close()
    assert store.kept == []
    with pytest.raises(ConnectionRefusedError):
        knock(port)


def test_address_no_longer_wanted_is_listened_on_until_it_is_retired(store: Store) -> None:
    old, new = free_port(), free_port()
    listeners = Listeners(store)
    close(*listeners.gateway(("127.0.0.1",), old))
    close(*listeners.gateway(("127.0.0.1",), new))
    close(knock(old))
    listeners.retire()
    with pytest.raises(ConnectionRefusedError):
        knock(old)
    close(knock(new))
    # And the port is free at once, whatever copies the store still has.
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", old))
        other.listen()
    listeners.close()


def test_port_that_is_taken_changes_nothing(store: Store) -> None:
    port = free_port()
    listeners = Listeners(store)
    close(*listeners.gateway(("127.0.0.1",), port))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CahootsError):
            listeners.gateway(("127.0.0.1",), other.getsockname()[1])
        listeners.retire()
    close(knock(port))
    assert [name for name, _ in store.kept] == ["gateway"]
    listeners.close()


def test_control_socket_is_taken_over_with_its_path(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = Listeners(store)
    close(first.control(path, mode=0o600, group=None))
    inode = path.stat().st_ino
    second = Listeners(store)
    close(*first._control)  # noqa: SLF001 (there is no other way to die)
    close(second.control(path, mode=0o600, group=None))
    assert path.stat().st_ino == inode
    second.close()


def test_control_socket_whose_path_is_gone_is_made_anew(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = Listeners(store)
    close(first.control(path, mode=0o600, group=None), *first._control)  # noqa: SLF001 (as above)
    path.unlink()
    second = Listeners(store)
    close(second.control(path, mode=0o600, group=None))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    second.close()
