"""What the hub, or the way to it, says no with, as sentences. Runs in the hub programs only."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cahoots_vllm.core.amounts import size_text
from cahoots_vllm.core.diagnosis import Cause

ATTEMPTS = 3  # beside the first
_LONGEST_WAIT_S = 120.0
_TOKENS = "https://huggingface.co/settings/tokens"
_FREE_SPACE = "free space: cahootsctl prune, or cahootsctl rm another model"
_KEY = "HUGGINGFACE_API_KEY in .env"
_UNAUTHORIZED, _FORBIDDEN, _TOO_MANY, _SERVER_ERROR = 401, 403, 429, 500


class HubProblemError(Exception):
    """Why a download cannot be done, with what to do; `retry`: it may be tried again later."""

    def __init__(self, cause: Cause, evidence: str, remedy: str, *, retry: bool = False) -> None:
        """Keep the parts apart: the daemon makes a diagnosis of them."""
        super().__init__(evidence)
        self._view = {
            "cause": cause.value, "evidence": evidence, "remedy": remedy, "retry": retry,
        }  # fmt: skip

    def view(self) -> dict[str, object]:
        """Return it as the line that the daemon reads."""
        return dict(self._view)


def disk_full(
    repo: str, missing: int, free: int, place: str, *, freed: int | None = None
) -> HubProblemError:
    """Say how much is missing. `freed`: what is free again, now that the part file is gone."""
    said = f"{repo} needs {size_text(missing)} more, {size_text(free)} are free in {place}"
    if freed is not None:
        said = (
            f"the disk got full: {repo} needed {size_text(missing)} more in {place}; "
            f"its part file was deleted, {size_text(freed)} are free again"
        )
    return HubProblemError(Cause.DISK_FULL, said, _FREE_SPACE)


def damaged(repo: str, name: str) -> HubProblemError:
    """Say that a file came wrong twice."""
    said = f"{name} of {repo} came twice with another content than the hub's hash says"
    return HubProblemError(
        Cause.CORRUPT_WEIGHTS,
        said,
        "look for a proxy that changes what it passes on, or bad memory",
    )


def no_hub(repo: str) -> HubProblemError:
    """Say that what answers gives names for content that are none."""
    said = f"what answers for {repo} names files as no hub does"
    return HubProblemError(Cause.HUB_NETWORK, said, "check HF_ENDPOINT in .env, and the proxy")


def nothing_to_load(repo: str) -> HubProblemError:
    """Say that a repo has no weights in a format that a download takes."""
    said = f"{repo} has no weights that can be downloaded (*.safetensors, *.bin)"
    remedy = "take another repo of the model; a GGUF file is served from a directory"
    return HubProblemError(Cause.HUB_NOT_FOUND, said, remedy)


def in_use(name: str) -> HubProblemError:
    """Say that another process writes the same file."""
    said = f"{name} is being downloaded by another process"
    return HubProblemError(Cause.HUB_NETWORK, said, "wait until that one has ended", retry=True)


def patience_s(error: Exception, attempt: int) -> float | None:
    """Return how long to wait before asking again; None: there is no point, or it is too long."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if status != _TOO_MANY and status < _SERVER_ERROR:
        return None
    wait_s = _retry_after_s(error)
    if wait_s is None:
        return min(0.5 * 2.0**attempt, 8.0)
    return wait_s if wait_s <= _LONGEST_WAIT_S else None


def explain(repo: str, revision: str | None, error: Exception) -> HubProblemError:
    """Say what an error of the client library means, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if (refused := _refused(repo, error, status)) is not None:
        return refused
    if isinstance(error, RevisionNotFoundError):
        said = f"{repo} has no revision {revision or 'main'}"
        remedy = f"check the revision, here or in the profile; they are listed at {_page(repo)}"
        return HubProblemError(Cause.HUB_NOT_FOUND, said, remedy)
    if isinstance(error, HFValidationError | RepositoryNotFoundError):
        return _not_found(repo)
    if isinstance(error, OSError) and (refused := _refused_by_disk(repo, error)) is not None:
        return refused
    return _unwell(int(status), error) if status is not None else _unreachable(error)


def _refused_by_disk(repo: str, error: OSError) -> HubProblemError | None:
    """Say what a file's error is; None where it is the network's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        said = f"the disk is full: {constants.HF_HUB_CACHE} has no room for {repo}"
        return HubProblemError(Cause.DISK_FULL, said, _FREE_SPACE)
    if error.filename is None:
        return None
    said = f"cannot use {error.filename}: {error.strerror}"
    remedy = "let the daemon's user read and write there, on a disk that can be written"
    return HubProblemError(Cause.UNKNOWN, said, remedy)


def _refused(repo: str, error: Exception, status: int | None) -> HubProblemError | None:
    """Say which right is missing; None where it is not a matter of rights."""
    if isinstance(error, GatedRepoError):
        return _gated(repo)
    if status == _UNAUTHORIZED and not _is_missing(error):
        if _has_token():
            said, what = "the hub refuses the token (401)", "put a valid one into"
        else:
            said, what = f"the hub asks for a token for {repo} (401)", "put one into"
        return HubProblemError(Cause.HUB_AUTH, said, f"{what} {_KEY}: {_TOKENS}")
    if status == _FORBIDDEN:
        said = f"the hub forbids access to {repo} (403)"
        remedy = f"use a token that may read it, {_KEY}: {_TOKENS}"
        return HubProblemError(Cause.HUB_AUTH, said, remedy)
    return None


def _gated(repo: str) -> HubProblemError:
    page = _page(repo)
    if _has_token():
        remedy = f"accept the licence at {page} with the account of the token"
    else:
        remedy = f"accept the licence at {page}, then put a token of that account into {_KEY}"
    return HubProblemError(Cause.HUB_AUTH, f"{repo} is gated: its licence must be accepted", remedy)


def _not_found(repo: str) -> HubProblemError:
    if _has_token():
        said = f"the hub has no repo {repo} that this token may read"
        remedy = f"check the name {repo}; for a private one, that the token may read it ({_KEY})"
    else:
        said = f"the hub has no public repo {repo}"
        remedy = f"check the name {repo}; a private one needs a token, {_KEY}: {_TOKENS}"
    return HubProblemError(Cause.HUB_NOT_FOUND, said, remedy)


def _unwell(status: int, error: Exception) -> HubProblemError:
    wait_s = _retry_after_s(error)
    if status == _TOO_MANY:
        when = f" in {wait_s:.0f} s" if wait_s is not None else ""
        said = "the hub answers that it is asked too often (429)"
        return HubProblemError(
            Cause.HUB_NETWORK, said, f"try again{when}; with a token it allows more", retry=True
        )
    said = f"the hub answers {status} again and again"
    remedy = "a fault of the hub, or of a proxy in the network between: try again later"
    return HubProblemError(Cause.HUB_NETWORK, said, remedy, retry=True)


def _unreachable(error: Exception) -> HubProblemError:
    chain = list(_chain(error))
    names = {type(e).__name__ for e in chain}
    host = urlsplit(constants.ENDPOINT).hostname
    proxy = next((n for n in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY") if os.environ.get(n)), "")
    if constants.is_offline_mode():
        why, remedy = "HF_HUB_OFFLINE is set", "take HF_HUB_OFFLINE out of .env to download"
    elif "ProxyError" in names:
        why, remedy = "the proxy refuses", f"check the proxy, {proxy or 'HTTPS_PROXY'}"
    elif any(isinstance(e, socket.gaierror) or "Name or service" in str(e) for e in chain) or any(
        "name resolution" in str(e) for e in chain
    ):
        why, remedy = f"the name {host} cannot be resolved", "check the network and its DNS"
    elif names & {"ConnectTimeout", "ReadTimeout", "TimeoutError"}:
        why, remedy = f"{host} does not answer", "check the network, the firewall and the proxy"
    else:
        first = str(error).strip().splitlines()
        why = first[0] if first else type(error).__name__
        remedy = "check the network and the proxy, or give a directory that holds the model"
    return HubProblemError(
        Cause.HUB_NETWORK, f"the hub cannot be reached: {why}", remedy, retry=True
    )


def _is_missing(error: Exception) -> bool:
    headers = getattr(getattr(error, "response", None), "headers", {})
    return headers.get("X-Error-Code") == "RepoNotFound"


def _retry_after_s(error: Exception) -> float | None:
    """Return the seconds of Retry-After, given as a number or a date (RFC 9110 section 10.2.3)."""
    text = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After")
    if text is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _page(repo: str) -> str:
    return f"https://huggingface.co/{repo}"


def _has_token() -> bool:
    return bool(os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"))
