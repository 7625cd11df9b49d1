"""Listening sockets: mode before anyone can connect, stale files, living owners, taken ports."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.sockets import listen_tcp, listen_unix, private_directory


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cahoots-") as directory:
        yield Path(directory)


def test_socket_has_its_mode_and_accepts(short: Path) -> None:
    path = short / "control.sock"
    with listen_unix(path, mode=0o660, group=None), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client.connect(str(path))


def test_group_that_is_not_there_is_no_error(short: Path) -> None:
    with listen_unix(short / "s", mode=0o660, group="no-such-group-here"):
        assert (short / "s").stat().st_gid == os.getegid()


def test_stale_socket_is_replaced_and_a_living_one_refused(short: Path) -> None:
    path = short / "s"
    listen_unix(path, mode=0o600, group=None).close()
    with listen_unix(path, mode=0o600, group=None):
        with pytest.raises(CahootsError, match="another cahoots-vllmd answers there") as raised:
            listen_unix(path, mode=0o600, group=None)
        assert raised.value.kind is Kind.CONFLICT


def test_file_in_the_way_is_not_removed(short: Path) -> None:
    (short / "s").write_text("precious")
    with pytest.raises(CahootsError, match="Address already in use"):
        listen_unix(short / "s", mode=0o600, group=None)
    assert (short / "s").read_text() == "precious"


def test_too_long_a_path_is_refused(short: Path) -> None:
    with pytest.raises(CahootsError, match="longer than 107 bytes"):
        listen_unix(short / ("x" * 100), mode=0o600, group=None)


def test_private_directory_is_made_and_a_foreign_one_refused(short: Path) -> None:
    private_directory(short / "a" / "b")
    assert stat.S_IMODE((short / "a" / "b").stat().st_mode) == 0o700
    (short / "link").symlink_to(short)
    with pytest.raises(CahootsError, match="cannot use"):
        private_directory(short / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_somebody_else_is_refused(short: Path) -> None:
    (short / "theirs").mkdir()
    os.chown(short / "theirs", 65534, 65534)
    with pytest.raises(CahootsError, match="belongs to uid 65534"):
        private_directory(short / "theirs")


def test_both_loopback_addresses_on_one_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listeners = listen_tcp(("127.0.0.1", "::1"), port)
    assert {listener.getsockname()[0] for listener in listeners} == {"127.0.0.1", "::1"}
    with pytest.raises(CahootsError, match=f"cannot listen on port {port}") as raised:
        listen_tcp(("127.0.0.1",), port)
    assert raised.value.kind is Kind.CONFLICT
    for listener in listeners:
        listener.close()


def test_address_the_host_lacks_is_left_out() -> None:
    with pytest.raises(CahootsError, match="no such address"):
        listen_tcp(("192.0.2.1",), 18999)
    listeners = listen_tcp(("192.0.2.1", "127.0.0.1"), 0)
    assert len(listeners) == 1
    listeners[0].close()
