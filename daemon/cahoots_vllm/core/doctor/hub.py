"""The hub, the token, and the clock that TLS and tokens depend on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cahoots_vllm.core.doctor.finding import Finding, Findings, Group, Judge

_HUB: Final = Judge("hub", Group.HUB)
_TOKEN: Final = Judge("token", Group.HUB)
_MODEL: Final = Judge("model", Group.HUB)
_CLOCK: Final = Judge("clock", Group.HUB)
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _RATE_LIMIT, _SERVER_ERROR = 401, 403, 404, 429, 500
_SKEW_S: Final = 60.0
# Certificates are valid for weeks at least; a day off is refused by some servers.
_MUCH_SKEW_S: Final = 86400.0


class Reach(StrEnum):
    """How far a request to the hub came."""

    ANSWERED = "answered"
    DNS = "dns"
    PROXY = "proxy"
    TLS = "tls"
    REFUSED = "refused"
    NO_ROUTE = "no route"
    TIMEOUT = "timeout"
    BROKEN = "broken"
    BAD_URL = "bad url"


@dataclass(frozen=True, slots=True)
class HubFacts:
    """One request for `whoami-v2`: where to, by which proxy (without its password), what came.

    `detail` is the system's own word for what went wrong. `has_token`: one was sent.
    `skew_s`: the hub's clock less ours, by the Date header; None without one.
    """

    endpoint: str
    reach: Reach
    detail: str = ""
    proxy: str | None = None
    status: int | None = None
    has_token: bool = False
    user: str | None = None
    skew_s: float | None = None
    is_offline: bool = False


@dataclass(frozen=True, slots=True)
class RepoFacts:
    """A model's page on the hub; `status` None where it was not asked for."""

    repo: str
    status: int | None = None
    is_gated: bool = False


def judge_hub(facts: HubFacts, *, is_needed: bool) -> Findings:
    """Say whether the hub is reached; `is_needed`: the model to serve is not on disk."""
    if facts.is_offline:
        return (_offline(is_needed=is_needed),)
    where = facts.endpoint + (f" through the proxy {facts.proxy}" if facts.proxy else "")
    if facts.reach is Reach.ANSWERED:
        if facts.status is not None and facts.status >= _SERVER_ERROR:
            remedy = "wait: the hub or the proxy has trouble"
            return (_HUB.warn(f"{where} answers {facts.status}", remedy),)
        return (_HUB.ok(f"{where} answers"),)
    return (_unreached(facts, where, is_needed=is_needed),)


def _offline(*, is_needed: bool) -> Finding:
    if not is_needed:
        return _HUB.ok("not asked: HF_HUB_OFFLINE is set, and the model is on disk")
    said = "HF_HUB_OFFLINE is set, and the model is not on disk"
    return _HUB.fail(said, "take HF_HUB_OFFLINE out of .env, or fetch the model")


def _unreached(facts: HubFacts, where: str, *, is_needed: bool) -> Finding:
    why, remedy = _explain(facts)
    said = f"{where} cannot be reached: {why}"
    if is_needed:
        return _HUB.fail(f"{said}; the model is not on disk", remedy)
    if facts.reach is Reach.BAD_URL or (facts.proxy and facts.reach is not Reach.TIMEOUT):
        return _HUB.warn(said, remedy)  # set by somebody, and wrong
    return _HUB.ok(f"{said}; not needed, the model is on disk")


def _explain(facts: HubFacts) -> tuple[str, str]:
    detail = f" ({facts.detail})" if facts.detail else ""
    proxy = "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the service's environment"
    match facts.reach:
        case Reach.DNS:
            what = "the proxy's name" if facts.proxy else "its name"
            return f"{what} does not resolve{detail}", (
                proxy if facts.proxy else "check DNS: resolvectl status, /etc/resolv.conf"
            )
        case Reach.PROXY:
            return f"the proxy refuses{detail}", proxy
        case Reach.TLS:
            return f"TLS fails{detail}", (
                "behind a proxy that opens TLS, set SSL_CERT_FILE to its certificate; and check "
                "the clock"
            )
        case Reach.TIMEOUT:
            return f"no answer{detail}", "check the network, a firewall, or a proxy that is needed"
        case Reach.BAD_URL:
            return f"it is no usable URL{detail}", "mend HF_ENDPOINT in .env, or the proxy's URL"
        case Reach.REFUSED | Reach.NO_ROUTE | Reach.BROKEN | Reach.ANSWERED:
            return f"{facts.reach}{detail}", proxy if facts.proxy else "check the network"


def judge_token(facts: HubFacts) -> Findings:
    """Say whether the hub takes the token."""
    if not facts.has_token:
        return (_TOKEN.ok("none; only gated and private models need one"),)
    if facts.is_offline or facts.reach is not Reach.ANSWERED:
        return (_TOKEN.ok("there, but the hub could not be asked about it"),)
    if facts.status == _UNAUTHORIZED:
        return (
            _TOKEN.fail(
                f"{facts.endpoint} refuses the token (401): wrong, expired or revoked",
                "make one at https://huggingface.co/settings/tokens (read is enough) and put it "
                "into .env as HUGGINGFACE_API_KEY",
            ),
        )
    if facts.status == _FORBIDDEN:
        said = f"{facts.endpoint} answers 403 to the token: it may not be used for this"
        return (_TOKEN.warn(said, "give it the right to read the repos that you use"),)
    if facts.status != 200:  # noqa: PLR2004 (OK)
        return (_TOKEN.ok(f"there; the hub answers {facts.status} when asked about it"),)
    return (_TOKEN.ok(f"accepted{f', user {facts.user}' if facts.user else ''}"),)


def judge_repo(facts: RepoFacts, *, has_token: bool) -> Findings:
    """Say whether the model can be had, where it is not on disk."""
    page = f"https://huggingface.co/{facts.repo}"
    if facts.status in (_UNAUTHORIZED, _NOT_FOUND):
        said = f"{facts.repo} is not on disk, and no such model is on the hub, or it is private"
        return (_MODEL.fail(said, f"check LOCAL_LLM_MODEL: {page}"),)
    if facts.is_gated and (not has_token or facts.status == _FORBIDDEN):
        said = f"{facts.repo} is not on disk, is gated, and "
        said += "the token may not read it" if has_token else "there is no token"
        remedy = f"accept its licence at {page}, and set HUGGINGFACE_API_KEY in .env"
        return (_MODEL.fail(said, remedy),)
    if facts.status is None:
        return ()
    if facts.status >= 400:  # noqa: PLR2004 (the first error status)
        return (_MODEL.warn(f"the hub answers {facts.status} about {facts.repo}", "try later"),)
    return (_MODEL.ok(f"{facts.repo} is not on disk yet, and can be fetched"),)


def judge_clock(skew_s: float | None, *, is_synchronised: bool | None) -> Findings:
    """Say whether the time of day is right; `is_synchronised` is the kernel's word on NTP."""
    ntp = {True: "NTP keeps it", False: "NTP does not keep it", None: "nothing known of NTP"}
    if skew_s is not None and abs(skew_s) > _SKEW_S:
        side = "behind" if skew_s > 0 else "ahead"
        said = f"the clock is {_span(abs(skew_s))} {side} of the hub's; {ntp[is_synchronised]}"
        remedy = "sudo timedatectl set-ntp true, or start chrony: TLS and tokens need the time"
        return (_CLOCK.bad(said, remedy, is_fatal=abs(skew_s) > _MUCH_SKEW_S),)
    if skew_s is None:
        return (_CLOCK.ok(ntp[is_synchronised]),)
    return (
        _CLOCK.ok(f"within {max(1, round(abs(skew_s)))} s of the hub's; {ntp[is_synchronised]}"),
    )


def _span(seconds: float) -> str:
    if seconds < 7200:  # noqa: PLR2004 (two hours)
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"
