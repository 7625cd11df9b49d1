"""Container networks of this host: the bridges of Docker and Podman, and Docker Desktop."""

import fcntl
import os
import re
import socket
import struct
from pathlib import Path

from cahoots_vllm.core.doctor.endpoint import Bridge, DockerFacts

_SYS = Path("/sys/class/net")
# Docker's default bridge and its own networks (br-, 12 hexadecimal digits); Podman's.
_NAME = re.compile(r"docker\d+|br-[0-9a-f]{12}|podman\d+|cni-podman\d+")
_SIOCGIFADDR = 0x8915  # netdevice(7)
_IFREQ = struct.Struct("16s16x")
_WSL_DESKTOP = Path("/mnt/wsl/docker-desktop")


def read_docker(sys: Path = _SYS, desktop: Path = _WSL_DESKTOP) -> DockerFacts:
    """Return the bridges, in order of their names. Raises OSError."""
    home = os.environ.get("HOME")
    places = [desktop, *([Path(home) / ".docker" / "desktop"] if home else [])]
    found = [path for path in sorted(sys.glob("*")) if _NAME.fullmatch(path.name)]
    return DockerFacts(
        bridges=tuple(Bridge(path.name, _address(path.name), _is_up(path)) for path in found),
        is_desktop=any(path.exists() for path in places),
    )


def _is_up(interface: Path) -> bool:
    """Whether something is attached: a bridge without containers has no carrier."""
    try:
        return (interface / "carrier").read_text().strip() == "1"
    except OSError:
        return False  # it is administratively down: EINVAL


def _address(name: str) -> str | None:
    """Return an interface's IPv4 address, None without one."""
    request = _IFREQ.pack(name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])
