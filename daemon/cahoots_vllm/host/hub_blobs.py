"""Large files of the hub, in its cache: gone on with after a kill, checked, then named.

huggingface_hub (2.4, file_download.py:_download_to_tmp_and_move) deletes a part file and begins
anew in each process; a blob that is already there it only links. So the blob is completed here, by
its own transfer functions, and everything else is left to it. Runs in `hub_fetch` only. Blocking.
"""

import errno
import fcntl
import hashlib
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import (  # type: ignore[attr-defined] # no public way resumes
    build_hf_headers,
    http_get,
    is_xet_available,
    xet_get,
)

from cahoots_vllm.host import hub_errors

_CHUNK_BYTES = 1 << 20
_SHA256, _SHA1 = re.compile(r"^[0-9a-f]{64}$"), re.compile(r"^[0-9a-f]{40}$")
_SMALL_BYTES = 64 << 20
_HOLD_ROUNDS = 30
_checked = [0]
# huggingface_hub gathers 10 MB before it writes any: a slow line would look like one that stalls,
# and a kill would lose as much.
constants.DOWNLOAD_CHUNK_SIZE = 1 << 18


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub describes it; `sha256` where its large file storage holds it."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str

    @property
    def blob(self) -> str:
        """The name of its blob in the cache."""
        return self.sha256 or self.git_sha1


def is_blob_name(name: str) -> bool:
    """Whether a hub's name for content is one: it becomes a file's name."""
    return bool(_SHA256.match(name) or _SHA1.match(name))


def checked_bytes() -> int:
    """Return how many bytes were hashed: the sign of life while nothing is transferred."""
    return _checked[0]


def on_disk(folder: Path, file: HubFile) -> int:
    """Return a file's bytes that are there, whole or in part."""
    for path in (_blob(folder, file), _part(folder, file), _fast_part(folder, file)):
        if path.exists():
            stat = path.stat()
            # A part file of the accelerated transfer may be allocated sparsely.
            return min(stat.st_size, stat.st_blocks * 512) if path.suffix else stat.st_size
    return 0


def check_room(repo: str, folder: Path, files: tuple[HubFile, ...]) -> None:
    """Raise HubProblemError (disk full) where what is missing cannot fit. Nothing is written."""
    missing = sum(max(0, file.size - on_disk(folder, file)) for file in files)
    place = Path(constants.HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if missing > free:
        raise hub_errors.disk_full(repo, missing, free, constants.HF_HUB_CACHE)


def complete(repo: str, commit: str, folder: Path, file: HubFile) -> None:
    """Transfer what is missing of a file and give it its name once its hash is right.

    One that is wrong is deleted and fetched once more. Raises HubProblemError, OSError, and what
    the client library raises; a part file stays for the next attempt, but not on a full disk.
    """
    blob = _blob(folder, file)
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        part = _transfer(repo, commit, folder, file)
        if part.stat().st_size == file.size and _sha256(part) == file.sha256:
            part.replace(blob)
            return
        part.unlink()
    raise hub_errors.damaged(repo, file.name)


def damaged_small_files(snapshot: Path) -> list[Path]:
    """Return files of a snapshot whose content is not what their blob's name says."""
    return [p for p in sorted(snapshot.rglob("*")) if p.is_symlink() and _is_damaged(p)]


def _is_damaged(path: Path) -> bool:
    name, size = path.resolve().name, path.stat().st_size
    if size > _SMALL_BYTES:
        return False  # checked before it got its name
    content = path.read_bytes()
    if _SHA256.match(name):
        return hashlib.sha256(content).hexdigest() != name
    if _SHA1.match(name):
        head = b"blob %d\0" % size
        return hashlib.sha1(head + content).hexdigest() != name  # noqa: S324 (git's own)
    return False


def _transfer(repo: str, commit: str, folder: Path, file: HubFile) -> Path:
    """Return the part file, all of it there."""
    url, headers = hf_hub_url(repo, file.name, revision=commit), build_hf_headers()
    meta = get_hf_file_metadata(url, timeout=20, headers=dict(headers), retry_on_errors=True)
    part, fast = _part(folder, file), _fast_part(folder, file)
    # Written out of order: what an attempt has left of it cannot be told from holes.
    fast.unlink(missing_ok=True)
    uses_xet = meta.xet_file_data is not None and is_xet_available() and not part.exists()
    try:
        with (fast if uses_xet else part).open("ab") as target:
            _hold(target.fileno(), file)
            if meta.xet_file_data is not None and uses_xet:
                xet_get(
                    incomplete_path=fast, xet_file_data=meta.xet_file_data, headers=headers,
                    expected_size=file.size, displayed_filename=file.name,
                )  # fmt: skip
                return fast
            if url != meta.location:  # a signed address elsewhere: it is shown no token
                headers.pop("authorization", None)
            done = part.stat().st_size
            if done > file.size:
                target.truncate(0)
                done = 0
            http_get(
                meta.location, target, resume_size=done, headers=headers,
                expected_size=file.size, displayed_filename=file.name,
            )  # fmt: skip
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        missing = file.size - on_disk(folder, file)
        _clear(part, fast)  # it holds the very space that others need now
        free, place = shutil.disk_usage(folder).free, constants.HF_HUB_CACHE
        raise hub_errors.disk_full(repo, missing, 0, place, freed=free) from error
    return part


def _hold(descriptor: int, file: HubFile) -> None:
    """Let two processes never write into one part file."""
    for _ in range(_HOLD_ROUNDS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)  # one that was killed is on its way out
        else:
            return
    raise hub_errors.in_use(file.name)


def _clear(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            _checked[0] += len(chunk)
    return digest.hexdigest()


def _blob(folder: Path, file: HubFile) -> Path:
    return folder / "blobs" / file.blob


def _part(folder: Path, file: HubFile) -> Path:
    return folder / "blobs" / f"{file.blob}.incomplete"


def _fast_part(folder: Path, file: HubFile) -> Path:
    return folder / "blobs" / f"{file.blob}.xet.incomplete"
