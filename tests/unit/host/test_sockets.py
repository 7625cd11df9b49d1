"""Listening sockets: mode before anyone can connect, stale files, living owners, taken ports."""

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.sockets import is_here, listen_tcp, listen_unix, private_directory


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


def test_nobody_else_may_connect_before_mode_and_group_are_right(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    chmod = Path.chmod

    def noted(path: Path, mode: int) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", noted)
    listen_unix(short / "s", mode=0o666, group=None).close()
    assert modes == [0o600]
    assert stat.S_IMODE((short / "s").stat().st_mode) == 0o666


def test_directory_that_is_not_there_is_named(short: Path) -> None:
    with pytest.raises(CahootsError, match="No such file") as raised:
        listen_unix(short / "no" / "s", mode=0o600, group=None)
    assert "its directory" in raised.value.remedy


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_accepted_connection_notices_a_client_that_is_gone_without_a_word(host: str) -> None:
    listener = listen_tcp(host, 0)
    assert listener is not None
    listener.settimeout(5)
    with listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            options = (getattr(socket, name) for name in names)
            found = [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in options]
    assert found == [60, 10, 6, 600_000]


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_address_that_comes_later_is_listened_on_now(host: str) -> None:
    """As docker0's, which is made after the daemon has started."""
    listener = listen_tcp(host, 0)
    assert listener is not None
    with listener:
        assert listener.getsockname()[0] == host


def test_family_that_the_host_lacks_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "no such family")

    monkeypatch.setattr(socket, "socket", refuse)
    assert listen_tcp("::1", 1) is None


def test_nobody_shares_the_port_afterwards() -> None:
    listener = listen_tcp("127.0.0.1", 0, is_shared=True)
    assert listener is not None
    with listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
        with pytest.raises(OSError, match="Address already in use"):
            listen_tcp("127.0.0.1", listener.getsockname()[1])


def test_address_of_another_host_is_not_here() -> None:
    assert is_here("127.0.0.1")
    assert is_here("::1")
    assert not is_here("192.0.2.1")
