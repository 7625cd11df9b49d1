"""Where the gateway listens, and who is known by name there: IP addresses and Unix sockets."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

UNIX_PREFIX: Final = "unix:"
_LOCALHOST: Final = ("127.0.0.1", "::1")
# Names that are in no public DNS, so that no web page can have them (RFC 6761; ICANN keeps
# "internal" for private use): host.docker.internal and host.containers.internal are among them.
_OWN_NAMES: Final = ("localhost", ".localhost", ".internal")


def read_addresses(written: Iterable[str]) -> tuple[str, ...]:
    """Return addresses in one spelling: IP addresses as the kernel says them, "unix:/path".

    One that another covers ("127.0.0.1" beside "0.0.0.0") is left out: they cannot both be bound.
    Raises ValueError.
    """
    found: list[str] = []
    for each in written:
        found += _LOCALHOST if each == "localhost" else (_read(each),)
    wildcards = {host for host in found if _is_wildcard(host)}
    kept = (h for h in found if h in wildcards or _wildcard_of(h) not in wildcards)
    return tuple(dict.fromkeys(kept))


def _read(written: str) -> str:
    path = written.removeprefix(UNIX_PREFIX)
    if path.startswith("/"):
        if "\0" in path or path.endswith("/"):
            message = f"{written!r} is no path of a socket"
            raise ValueError(message)
        return f"{UNIX_PREFIX}{path}"
    try:
        address = ip_address(written.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        message = (
            f"{written!r} is neither an IP address (without a port: that is LOCAL_LLM_URL's) nor "
            "the absolute path of a Unix socket"
        )
        raise ValueError(message) from error
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def unix_path(address: str) -> str | None:
    """Return the path of a Unix socket, None for an IP address."""
    return address.removeprefix(UNIX_PREFIX) if address.startswith(UNIX_PREFIX) else None


def is_exposed(address: str) -> bool:
    """Whether other hosts or containers may reach it without the leave of the file system."""
    return unix_path(address) is None and not ip_address(address).is_loopback


def _is_wildcard(address: str) -> bool:
    return unix_path(address) is None and ip_address(address).is_unspecified


def _wildcard_of(address: str) -> str | None:
    if unix_path(address) is not None:
        return None
    return "0.0.0.0" if isinstance(ip_address(address), IPv4Address) else "::"  # noqa: S104 (compared)


def host_of(netloc: str) -> str:
    """Return the host of "host:port" or "user@host:port", lower case, without brackets."""
    host = netloc.rpartition("@")[2]
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


@lru_cache(maxsize=256)  # asked of every request, nearly always of the same few
def is_own_name(host: str) -> bool:
    """Whether a host of a URL can only mean this host or its network: no web page has such a name.

    An IP address counts: what DNS rebinding abuses is a name.
    """
    name = host.removesuffix(".")
    if not name or any(name == n or (n[0] == "." and name.endswith(n)) for n in _OWN_NAMES):
        return True
    return is_ip(name)


def is_loopback_name(host: str) -> bool:
    """Whether a host of a URL is this very host's loopback."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return is_ip(host) and ip_address(host).is_loopback


def is_ip(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
