"""Who may do what: decided by the kernel's word on the peer, never by what a request says.

Root, the daemon's own user and the group `cahoots-vllm` may change things; whoever can connect to
the socket may look. `PrivateUsers=yes` would turn every peer into 65534: the unit leaves it off.
"""

import grp
import logging
import os
import socket
import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from aiohttp import web

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import GROUP
from cahoots_vllm.host.process_info import user_name

_SO_PEERGROUPS = getattr(socket, "SO_PEERGROUPS", 59)  # asm-generic/socket.h
_UCRED = struct.Struct("3i")
_MAX_GROUPS_BYTES = 1024  # the most CPython's getsockopt takes: 256 groups
_LOG = logging.getLogger(__name__)


class Access(Enum):
    """The right a route asks for."""

    LOOK = auto()
    CHANGE = auto()


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end (unix(7): SO_PEERCRED, SO_PEERGROUPS)."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]


# What a request carries its peer under, once its access was checked.
PEER: Final = web.RequestKey("peer", Peer)


def read_peer(connection: socket.socket) -> Peer:
    """Return the peer of a connected Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS_BYTES)
    except OSError:
        groups = b""  # before Linux 4.13
    members = struct.unpack(f"{len(groups) // 4}I", groups)
    return Peer(pid, uid, gid, frozenset(members))


def check(peer: Peer, access: Access) -> None:
    """Raise CahootsError (NOT_PERMITTED) when the peer may not."""
    if access is Access.LOOK or peer.uid in (0, os.geteuid()):
        return
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        group = None
    if group is not None and (peer.gid == group or group in peer.groups):
        return
    raise CahootsError(
        Kind.NOT_PERMITTED,
        f"uid {peer.uid} may look but not change anything",
        f"ask root to add the user to the group: usermod -aG {GROUP} NAME, then log in again",
    )


def tell_change(request: web.Request, what: str) -> None:
    """Write into the journal what was changed and by whom, as `story` does for operations."""
    peer = request[PEER]
    who = f"{user_name(peer.uid)} (uid {peer.uid}), pid {peer.pid}"
    fields = {"CAHOOTS_UID": str(peer.uid), "CAHOOTS_PID": str(peer.pid)}
    _LOG.info("%s, asked for by %s", what, who, extra={"fields": fields})
