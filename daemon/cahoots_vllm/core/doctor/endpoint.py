"""The endpoint: LOCAL_LLM_URL, the port and who holds it, and whether containers reach it."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cahoots_vllm.core.addresses import is_exposed, is_ip, is_loopback_name, unix_path
from cahoots_vllm.core.doctor.finding import Findings, Group, Judge, or_ok

_URL: Final = Judge("url", Group.ENDPOINT)
_PORT: Final = Judge("port", Group.ENDPOINT)
_DOCKER: Final = Judge("docker", Group.ENDPOINT)
_VLLMS_OWN: Final = 8000
_EXAMPLE: Final = "http://localhost:8001/v1"


@dataclass(frozen=True, slots=True)
class PortHolder:
    """Who listens on a port; `pid` None where it is not visible to this user."""

    address: str
    user: str
    pid: int | None = None
    command: str = ""

    def __str__(self) -> str:
        """Name it for people."""
        who = f"{self.command or 'a process'} (pid {self.pid}" if self.pid else "a process ("
        return f"{who}{', ' if self.pid else ''}user {self.user}) on {self.address}"


@dataclass(frozen=True, slots=True)
class UrlFacts:
    """`is_here`: the URL's host is an address of this host; None: a name, or not known."""

    url: str
    gateway_port: int
    is_here: bool | None = None


@dataclass(frozen=True, slots=True)
class Bridge:
    """A container network's interface; `is_up`: a container is on it."""

    name: str
    address: str | None
    is_up: bool


@dataclass(frozen=True, slots=True)
class DockerFacts:
    """`is_desktop`: Docker Desktop, whose containers reach this host's loopback."""

    bridges: tuple[Bridge, ...] = ()
    is_desktop: bool = False


def judge_url(facts: UrlFacts) -> Findings:
    """Say whether LOCAL_LLM_URL makes sense for clients of this host."""
    parts = urlsplit(facts.url)
    host, port, path = parts.hostname or "", parts.port, parts.path.rstrip("/")
    found = []
    if path != "/v1":
        has = f"has the path {path}" if path else "has no path"
        said = f"LOCAL_LLM_URL {has}: OpenAI clients expect /v1 at its end"
        found.append(
            _URL.warn(said, f"set it to {parts.scheme}://{parts.netloc.rpartition('@')[2]}/v1")
        )
    if port is None:
        said = "LOCAL_LLM_URL names no port: that is port 80, which needs privileges"
        found.append(_URL.warn(said, f"set it to {_EXAMPLE}"))
    elif port != facts.gateway_port:
        said = f"LOCAL_LLM_URL says port {port}, the gateway listens on {facts.gateway_port}"
        found.append(_URL.fail(said, "start the daemon without --port, or change LOCAL_LLM_URL"))
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared)
        said = f"LOCAL_LLM_URL names {host}, which is no address to connect to"
        found.append(_URL.warn(said, f"set it to {_EXAMPLE}; gateway.listen is where to listen"))
    elif is_ip(host) and facts.is_here is False:
        said = f"LOCAL_LLM_URL names {host}, which is another host: clients do not come here"
        found.append(_URL.fail(said, f"set it to {_EXAMPLE} for the model of this host"))
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return or_ok(found, _URL.ok(shown))


def judge_port(
    port: int, holders: tuple[PortHolder, ...], ours: frozenset[int], *, is_running: bool
) -> Findings:
    """Say who listens on the gateway's port; `ours` are the daemon's pids."""
    strangers = [holder for holder in holders if holder.pid is None or holder.pid not in ours]
    mine = [holder for holder in holders if holder not in strangers]
    if strangers and not mine:
        which = f"port {port} is held by {strangers[0]}"
        if port == _VLLMS_OWN:
            which += "; it is also what a bare `vllm serve` listens on"
        ends = f"stop it (kill {strangers[0].pid})" if strangers[0].pid else "stop it"
        return (_PORT.fail(which, f"{ends}, or set another port in LOCAL_LLM_URL"),)
    if mine:
        also = f"; also {strangers[0]}" if strangers else ""
        return (_PORT.ok(f"port {port} is the gateway's{also}"),)
    if is_running:
        said = f"nothing listens on port {port}"
        return (_PORT.fail(said, "see gateway.listen, and why: cahootsctl status"),)
    return (_PORT.ok(f"port {port} is free"),)


def judge_docker(url: str, listen: tuple[str, ...], facts: DockerFacts) -> Findings:
    """Say whether containers can reach the gateway, where there are any."""
    host = (urlsplit(url).hostname or "").lower()
    wants = not is_loopback_name(host) and not is_ip(host)
    reached = [address for address in listen if is_exposed(address) or unix_path(address)]
    busy = [bridge for bridge in facts.bridges if bridge.is_up]
    if reached:
        return (_DOCKER.ok(f"containers reach {', '.join(reached)}"),)
    if facts.is_desktop:
        return (_DOCKER.ok("Docker Desktop: containers reach loopback by host.docker.internal"),)
    if not busy and not (wants and facts.bridges):
        return (_DOCKER.ok("no containers run" if facts.bridges else "no container network"),)
    bridge = (busy or list(facts.bridges))[0]
    address = bridge.address or "172.17.0.1"
    said = (
        f"containers are on {bridge.name}, and the gateway listens on loopback alone: they cannot "
        "reach it"
    )
    remedy = (
        f'if they shall: gateway.listen = ["127.0.0.1", "::1", "{address}"] and a key (cahootsctl '
        'config key), or "unix:/run/cahoots-vllm-gateway/gateway.sock", mounted into them; a '
        "firewall may need a rule, too"
    )
    return (_DOCKER.warn(said, remedy),)
