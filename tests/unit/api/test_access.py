"""Who may do what, for every kind of peer."""

import grp
import os
import socket
from types import SimpleNamespace

import pytest

from cahoots_vllm.api.access import Access, Peer, check, read_peer
from cahoots_vllm.core.errors import CahootsError, Kind

_GROUP = 4711
_STRANGER = Peer(pid=1, uid=65534, gid=65534, groups=frozenset({65534}))


@pytest.fixture
def _group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grp, "getgrnam", lambda _: SimpleNamespace(gr_gid=_GROUP))


@pytest.fixture
def _no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(grp, "getgrnam", missing)


def may(peer: Peer, access: Access) -> bool:
    try:
        check(peer, access)
    except CahootsError as error:
        is_told = error.kind is Kind.NOT_PERMITTED and "usermod -aG cahoots-vllm" in error.remedy
        return not is_told
    return True


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize(
    ("peer", "may_change"),
    [
        (Peer(1, 0, 0, frozenset()), True),
        (Peer(1, os.geteuid(), 5, frozenset()), True),
        (Peer(1, 65534, _GROUP, frozenset()), True),
        (Peer(1, 65534, 65534, frozenset({100, _GROUP})), True),
        (_STRANGER, False),
        (Peer(1, _GROUP, 65534, frozenset()), False),  # the group's number as a uid
        (Peer(0, 65534, 0, frozenset({0})), False),  # root's group is not root
    ],
)
def test_root_the_daemons_user_and_the_group_may_change(peer: Peer, may_change: bool) -> None:  # noqa: FBT001 (a column of the table)
    assert may(peer, Access.LOOK)
    assert may(peer, Access.CHANGE) is may_change


@pytest.mark.usefixtures("_no_group")
def test_without_the_group_only_root_and_the_daemons_user_may_change() -> None:
    assert may(_STRANGER, Access.LOOK)
    assert not may(_STRANGER, Access.CHANGE)
    assert may(Peer(1, 0, 0, frozenset()), Access.CHANGE)


def test_peer_is_read_from_the_kernel() -> None:
    one, two = socket.socketpair(socket.AF_UNIX)
    with one, two:
        peer = read_peer(one)
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert peer.groups == frozenset(os.getgroups())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take supplementary groups")
def test_supplementary_groups_are_read_from_the_kernel() -> None:
    """The group a user was added to is hardly ever the primary one."""
    before = os.getgroups()
    try:
        os.setgroups([*before, 54321])
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs:
            assert 54321 in read_peer(ours).groups
    finally:
        os.setgroups(before)
