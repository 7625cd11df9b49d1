"""Downloads one model; a program of its own, so that the daemon's loop never blocks.

Run as `python -m cahoots_vllm.host.hub_fetch REPO [REVISION]` with HF_TOKEN, HF_HOME and
HF_ENDPOINT in the environment. Prints one JSON object a line: {"total", "done"} while it loads
(bytes), at the end {"path"} or {"cause", "evidence", "remedy", "retry"}.
"""

import errno
import json
import signal
import sys
import threading
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HFValidationError,
    # The client library's own base error (httpx or its successor), which the hub's errors extend:
    # the one name for it that holds over huggingface_hub 1 and 2.
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cahoots_vllm.core.diagnosis import Cause
from cahoots_vllm.host.children import end_with_parent

_SIDE_FILES = ["*.json", "*.txt", "*.model", "*.tiktoken", "*.py", "*.jinja"]
_UNAUTHORIZED = frozenset({401, 403})


def main() -> int:
    """Download and report; the exit status is 0 whenever the last line says how it went."""
    # Without the daemon nobody wants the model, and a silent hub may never make this program write.
    end_with_parent()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    repo = sys.argv[1]
    revision = sys.argv[2] if len(sys.argv) > 2 else None  # noqa: PLR2004 (optional second argument)
    try:
        path = _fetch(repo, revision)
    except (HTTPError, HFValidationError, OSError, ValueError) as error:
        _say(_explain(repo, error))
    else:
        _say({"path": path})
    return 0


def _fetch(repo: str, revision: str | None) -> str:
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=20)
    files = {s.rfilename: s.size or 0 for s in info.siblings or []}
    has_safetensors = any(name.endswith(".safetensors") for name in files)
    patterns = [*_SIDE_FILES, "*.safetensors" if has_safetensors else "*.bin"]
    total = sum(size for name, size in files.items() if any(Path(name).match(p) for p in patterns))
    done = threading.Event()
    watcher = threading.Thread(target=_report, args=(repo, total, done), daemon=True)
    watcher.start()
    try:
        path = str(snapshot_download(repo, revision=info.sha, allow_patterns=patterns))
    finally:
        done.set()
        watcher.join()
    # Only now: by this name a snapshot is found again and taken for whole.
    _remember_ref(repo, revision, info.sha)
    return path


def _remember_ref(repo: str, revision: str | None, sha: str | None) -> None:
    """Point the revision's name at the commit, as a download by name would have done."""
    root = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    ref = root / "refs" / (revision or "main")
    if sha and root.is_dir():
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(sha)


def _report(repo: str, total: int, done: threading.Event) -> None:
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "blobs"
    while not done.wait(1.0):
        _say({"total": total, "done": _size(blobs)})


def _size(directory: Path) -> int:
    """Return the bytes really on disk: a part file may be allocated sparsely."""
    size = 0
    for path in directory.glob("*"):
        try:
            size += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # renamed between the look and the question
    return size


def _explain(repo: str, error: Exception) -> dict[str, object]:
    status = getattr(getattr(error, "response", None), "status_code", None)
    evidence = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, GatedRepoError):
        remedy = f"accept the licence on the page of {repo}, with the account of the token"
        return _problem(Cause.HUB_AUTH, evidence, remedy)
    if isinstance(error, RevisionNotFoundError):
        return _problem(Cause.HUB_NOT_FOUND, evidence, "check the revision in the profile")
    if isinstance(error, HFValidationError | RepositoryNotFoundError):
        remedy = (
            f"check the name {repo}; a private or mistyped repo looks the same without a token "
            "that may read it (HUGGINGFACE_API_KEY)"
        )
        return _problem(Cause.HUB_NOT_FOUND, evidence, remedy)
    if status in _UNAUTHORIZED:
        return _problem(Cause.HUB_AUTH, evidence, "check HUGGINGFACE_API_KEY in .env")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _problem(Cause.DISK_FULL, evidence, f"free space in {constants.HF_HUB_CACHE}")
    remedy = "check the network and the proxy, or give a directory that holds the model"
    if isinstance(error, LocalEntryNotFoundError) or status is None:
        evidence = f"the hub cannot be reached: {evidence}"
    return _problem(Cause.HUB_NETWORK, evidence, remedy, retry=True)


def _problem(cause: Cause, evidence: str, remedy: str, *, retry: bool = False) -> dict[str, object]:
    return {"cause": cause.value, "evidence": evidence, "remedy": remedy, "retry": retry}


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
