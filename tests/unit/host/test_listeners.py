"""Listening sockets that outlive the daemon: taken over, kept, and let go of for good."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host import sockets
from cahoots_vllm.host.listeners import Listeners


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
    close(*first._gateway.values())  # noqa: SLF001 (there is no other way to die)
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
    close(first.control(path, mode=0o600))
    inode = path.stat().st_ino
    second = Listeners(store)
    close(*first._control)  # noqa: SLF001 (there is no other way to die)
    close(second.control(path, mode=0o600))
    assert path.stat().st_ino == inode
    second.close()


def test_control_socket_whose_path_is_gone_is_made_anew(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = Listeners(store)
    close(first.control(path, mode=0o600), *first._control)  # noqa: SLF001 (as above)
    path.unlink()
    second = Listeners(store)
    close(second.control(path, mode=0o600))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    second.close()


def test_both_loopback_addresses_on_one_port(store: Store) -> None:
    port = free_port()
    listeners = Listeners(store)
    found = listeners.gateway(("127.0.0.1", "::1"), port)
    assert [each.getsockname()[:2] for each in found] == [("127.0.0.1", port), ("::1", port)]
    close(*found)
    with pytest.raises(CahootsError, match=f"cannot listen on port {port}") as raised:
        Listeners(Store()).gateway(("127.0.0.1",), port)
    assert raised.value.kind is Kind.CONFLICT
    listeners.close()


def test_address_whose_family_the_host_lacks_is_left_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_six(host: str, port: int, *, is_shared: bool) -> socket.socket | None:
        return None if ":" in host else sockets.listen_tcp(host, port, is_shared=is_shared)

    monkeypatch.setattr("cahoots_vllm.host.listeners.listen_tcp", without_six)
    listeners = Listeners(store)
    with pytest.raises(CahootsError, match="no such address"):
        listeners.gateway(("::1",), free_port())
    found = listeners.gateway(("::1", "127.0.0.1"), free_port())
    assert [each.getsockname()[0] for each in found] == ["127.0.0.1"]
    close(*found)
    listeners.close()


@pytest.mark.parametrize(
    ("one", "other", "host"),
    [("127.0.0.1", "0.0.0.0", "127.0.0.1"), ("::1", "::", "::1")],  # noqa: S104 (that is the case)
)
def test_address_that_covers_another_takes_over_without_a_gap(
    store: Store, one: str, other: str, host: str
) -> None:
    port = free_port()
    listeners = Listeners(store)
    close(*listeners.gateway((one,), port))
    for address in (other, one):
        (new,) = listeners.gateway((address,), port)
        waiting = socket.create_connection((host, port), timeout=1)
        listeners.retire()
        after = socket.create_connection((host, port), timeout=1)
        new.settimeout(5)
        accepted, _ = new.accept()
        close(waiting, after, accepted, new)
    listeners.close()


def knock_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_unix_socket_has_its_mode_and_outlives_the_daemon(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    first = Listeners(store)
    close(*first.gateway((f"unix:{path}", "127.0.0.1"), free_port()))
    inode, mode = path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)
    assert mode == 0o660
    close(*first._gateway.values())  # noqa: SLF001 (as above)
    knock_at(path)  # it waits
    second = Listeners(store)
    close(*second.gateway((f"unix:{path}",), free_port()))
    assert path.stat().st_ino == inode
    second.retire()
    second.close()
    assert not path.exists()
    assert store.kept == []


def test_unix_socket_whose_file_is_gone_is_made_anew(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    listeners = Listeners(store)
    close(*listeners.gateway((f"unix:{path}",), 1))
    path.unlink()
    close(*listeners.gateway((f"unix:{path}",), 1))
    listeners.retire()
    knock_at(path)
    listeners.close()


def test_unix_socket_no_longer_wanted_loses_its_file(store: Store, tmp_path: Path) -> None:
    path, port = tmp_path / "gateway.sock", free_port()
    listeners = Listeners(store)
    close(*listeners.gateway(("127.0.0.1", f"unix:{path}"), port))
    close(*listeners.gateway(("127.0.0.1",), port))
    knock_at(path)
    listeners.retire()
    assert not path.exists()
    listeners.close()


def test_unix_socket_of_somebody_else_is_refused_and_nothing_has_changed(
    store: Store, tmp_path: Path
) -> None:
    path, old, new = tmp_path / "theirs.sock", free_port(), free_port()
    listeners = Listeners(store)
    close(*listeners.gateway(("127.0.0.1",), old))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(CahootsError, match="another cahoots-vllmd answers there"):
            listeners.gateway(("127.0.0.1", f"unix:{path}"), new)
        knock_at(path)
    listeners.retire()
    close(knock(old))
    with pytest.raises(ConnectionRefusedError):
        knock(new)
    listeners.close()
