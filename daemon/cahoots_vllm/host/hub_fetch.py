"""Downloads one model; a program of its own, so that the daemon's loop never blocks.

Run as `python -m cahoots_vllm.host.hub_fetch REPO [REVISION]` with HF_TOKEN, HF_HOME and
HF_ENDPOINT in the environment. Prints one JSON object a line: {"total", "done", "checked"} while
it loads (bytes), {"waiting"} while the hub has asked for patience (seconds), at the end {"path"}
or {"cause", "evidence", "remedy", "retry"}. A second attempt goes on where the first one ended.
"""

import json
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    # The client library's own base error (httpx or its successor), which the hub's errors extend:
    # the one name for it that holds over huggingface_hub 1 and 2.
    HTTPError,
)
from huggingface_hub.hf_api import ModelInfo

from cahoots_vllm.host import hub_blobs, hub_errors
from cahoots_vllm.host.children import end_with_parent
from cahoots_vllm.host.model_store import PART_MARK

_SIDE_FILES = ["*.json", "*.txt", "*.model", "*.tiktoken", "*.py", "*.jinja"]
_T = TypeVar("_T")


def main() -> int:
    """Download and report; the exit status is 0 whenever the last line says how it went."""
    # Without the daemon nobody wants the model, and a silent hub may never make this program write.
    end_with_parent()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    repo = sys.argv[1]
    revision = sys.argv[2] if len(sys.argv) > 2 else None  # noqa: PLR2004 (optional second argument)
    try:
        path = _fetch(repo, revision)
    except hub_errors.HubProblemError as problem:
        _say(problem.view())
    except (HTTPError, HFValidationError, OSError, ValueError) as error:
        _say(hub_errors.explain(repo, revision, error).view())
    else:
        _say({"path": path})
    return 0


def _fetch(repo: str, revision: str | None) -> str:
    info = _patiently(
        lambda: HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=20)
    )
    names = [s.rfilename for s in info.siblings or []]
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    weights = "*.safetensors" if has_safetensors else "*.bin"
    if not any(Path(name).match(weights) for name in names):
        raise hub_errors.nothing_to_load(repo)
    patterns = [*_SIDE_FILES, weights]
    files = _wanted(info, patterns)
    folder = _folder(repo)
    hub_blobs.check_room(repo, folder, files)
    folder.mkdir(parents=True, exist_ok=True)
    # What a part on disk is a part of, for `cahootsctl models`.
    mark = folder / PART_MARK
    mark.write_text(json.dumps({"total": sum(file.size for file in files), "commit": info.sha}))
    with _reported(folder, files):
        for file in files:
            if file.sha256 is not None:  # the others are small
                _patiently(partial(hub_blobs.complete, repo, str(info.sha), folder, file))
        path = _link(repo, str(info.sha), patterns)
    # Only now: by this name a snapshot is found again and taken for whole.
    _remember_ref(folder, revision, info.sha)
    mark.unlink(missing_ok=True)
    return path


def _wanted(info: ModelInfo, patterns: list[str]) -> tuple[hub_blobs.HubFile, ...]:
    """Return the files to fetch. Raises HubProblemError where the hub's words are no hub's."""
    files = tuple(
        hub_blobs.HubFile(
            s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs is not None else None, s.blob_id or ""
        )
        for s in info.siblings or []
        if any(Path(s.rfilename).match(p) for p in patterns)
    )
    names = [file.blob for file in files if file.blob]
    if not all(map(hub_blobs.is_blob_name, [str(info.sha), *names])):
        raise hub_errors.no_hub(str(info.id))
    return files


def _link(repo: str, commit: str, patterns: list[str]) -> str:
    """Fetch the small files, check them, and make the snapshot; what is damaged, once more."""
    path = ""
    for _ in range(2):
        path = str(
            _patiently(lambda: snapshot_download(repo, revision=commit, allow_patterns=patterns))
        )
        if not (damaged := hub_blobs.damaged_small_files(Path(path))):
            return path
        for file in damaged:
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)
    raise hub_errors.damaged(repo, "a small file")


def _patiently(call: Callable[[], _T]) -> _T:
    """Ask again where the hub says "later" or fails by itself; as long as it asks, in bounds."""
    for attempt in range(hub_errors.ATTEMPTS):
        try:
            return call()
        except HTTPError as error:
            wait_s = hub_errors.patience_s(error, attempt)
            if wait_s is None:
                raise
            for _ in range(max(1, round(wait_s))):
                _say({"waiting": wait_s})
                threading.Event().wait(min(1.0, wait_s))
    return call()


def _folder(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _remember_ref(root: Path, revision: str | None, sha: str | None) -> None:
    """Point the revision's name at the commit, as a download by name would have done."""
    if sha and root.is_dir() and revision != sha:
        ref = root / "refs" / (revision or "main")
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(sha)


class _reported:  # noqa: N801 (a context manager, used like a function)
    """Says once a second how much is on disk and checked, and once more at the end."""

    def __init__(self, folder: Path, files: tuple[hub_blobs.HubFile, ...]) -> None:
        self._folder, self._files = folder, files
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    def __enter__(self) -> None:
        self._tell()
        self._thread.start()

    def __exit__(self, *_unused: object) -> None:
        self._done.set()
        self._thread.join()
        self._tell()

    def _report(self) -> None:
        while not self._done.wait(1.0):
            self._tell()

    def _tell(self) -> None:
        total = sum(file.size for file in self._files)
        with suppress(OSError):  # renamed between the look and the question: the next one says it
            done = sum(hub_blobs.on_disk(self._folder, file) for file in self._files)
            _say({"total": total, "done": done, "checked": hub_blobs.checked_bytes()})


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
