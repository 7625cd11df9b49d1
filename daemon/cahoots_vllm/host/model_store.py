"""What is in the hub's cache, and what can go. Blocking; no network.

Layout: huggingface_hub's `hub/models--ORG--NAME/{refs,snapshots,blobs,trees}`.
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Beside a download that is not whole: its bytes in all, and its commit.
PART_MARK = "cahoots-download.json"
_PREFIX = "models--"
# What is deleted is renamed first, so that it is there or not; a daemon that is killed leaves it.
_ASIDE = "gone-"


@dataclass(frozen=True, slots=True)
class Cached:
    """One revision on disk. `refs`: the names that point at it; `came_at`: seconds since 1970."""

    repo: str
    revision: str
    refs: tuple[str, ...]
    path: Path
    size_bytes: int
    came_at: float


@dataclass(frozen=True, slots=True)
class Partial:
    """A download that is not whole; `total_bytes` is 0 where nobody wrote it down."""

    repo: str
    size_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Waste:
    """Something that can go, and what that frees."""

    what: str
    repo: str
    size_bytes: int
    paths: tuple[Path, ...]


def hub_folder(cache_dir: Path) -> Path:
    """Return where the repos are."""
    return cache_dir / "huggingface" / "hub"


def repo_folder(cache_dir: Path, repo: str) -> Path:
    """Return where a repo is, if it is there."""
    return hub_folder(cache_dir) / f"{_PREFIX}{repo.replace('/', '--')}"


def list_repos(cache_dir: Path) -> list[str]:
    """Return the repos of which anything is on disk."""
    return [_repo(folder) for folder in _folders(cache_dir)]


def list_cached(cache_dir: Path) -> list[Cached]:
    """Return every revision on disk, whole or not, by repo."""
    found = []
    for folder in _folders(cache_dir):
        refs = _refs(folder)
        for path in sorted((folder / "snapshots").glob("*")):
            names = tuple(sorted(name for name, commit in refs.items() if commit == path.name))
            size = sum(_size(blob) for blob in _blobs_of(path))
            found.append(Cached(_repo(folder), path.name, names, path, size, _came_at(path)))
    return found


def list_partial(cache_dir: Path) -> list[Partial]:
    """Return the downloads that are not whole."""
    found = []
    for folder in _folders(cache_dir):
        parts = list((folder / "blobs").glob("*.incomplete"))
        mark = folder / PART_MARK
        if not parts and not mark.exists():
            continue
        done = sum(_size(path) for path in (folder / "blobs").glob("*"))
        found.append(Partial(_repo(folder), done, _total(mark)))
    return found


def find_waste(cache_dir: Path, kept: frozenset[Path], busy: frozenset[str]) -> list[Waste]:
    """Return what nothing refers to; `kept` snapshots and `busy` repos are left alone."""
    found: list[Waste] = []
    for folder in _folders(cache_dir):
        repo = _repo(folder)
        if repo in busy:
            continue
        snapshots = list((folder / "snapshots").glob("*"))
        commits = set(_refs(folder).values())
        own = _own_blobs(folder)
        old = [p for p in snapshots if p.name not in commits and p not in kept]
        used = {blob for path in snapshots if path not in old for blob in _blobs_of(path)}
        for path in old:
            blobs = tuple(sorted((_blobs_of(path) & own) - used))
            used |= set(blobs)  # counted once
            what = f"revision {path.name[:8]}, which no name points at"
            found.append(Waste(what, repo, sum(map(_size, blobs)), (path, *blobs)))
        parts = tuple(sorted((folder / "blobs").glob("*.incomplete")))
        if (mark := folder / PART_MARK).exists() or parts:
            size = sum(map(_size, parts))
            found.append(Waste("partial download", repo, size, (*parts, mark)))
        lost = {p for p in own - used if not p.name.endswith(".incomplete")}
        found += [Waste("file of no revision", repo, _size(p), (p,)) for p in sorted(lost)]
        found += half_deleted(folder, repo)
    return [*found, *half_deleted(hub_folder(cache_dir), "-")]


def half_deleted(place: Path, repo: str) -> Iterator[Waste]:
    """Return what deletions in this directory have left that were broken off."""
    for path in sorted(place.glob(f"{_ASIDE}*")):
        size = sum(_size(file) for file in path.rglob("*") if not file.is_symlink())
        yield Waste("rest of a removal that was broken off", repo, size, (path,))


def _own_blobs(folder: Path) -> set[Path]:
    """Return the files that may be deleted, by their true paths: the cache may be a link itself.

    A snapshot may also link to files elsewhere, which are somebody's.
    """
    blobs = (folder / "blobs").resolve()
    return {blobs / path.name for path in blobs.glob("*")}


def discard(waste: Waste) -> None:
    """Delete it, a snapshot in one step: it is there or not. Raises OSError."""
    for path in waste.paths:
        if path.name.startswith(_ASIDE):
            shutil.rmtree(path)
        elif path.is_dir() and not path.is_symlink():
            _delete(path, path.parents[1])
        else:
            path.unlink(missing_ok=True)


def tidy(cache_dir: Path, busy: frozenset[str]) -> None:
    """Delete the folders of repos of which nothing is left. Raises OSError."""
    for folder in _folders(cache_dir):
        is_left = any(any((folder / part).glob("*")) for part in ("blobs", "snapshots"))
        if not is_left and _repo(folder) not in busy:
            shutil.rmtree(folder)


def remove_repo(cache_dir: Path, repo: str) -> int:
    """Delete a repo with all its revisions; return the bytes that frees. Raises OSError."""
    folder = repo_folder(cache_dir, repo)
    if folder.is_symlink():  # what it points at is somebody's
        folder.unlink()
        return 0
    size = sum(_size(path) for path in (folder / "blobs").glob("*"))
    _delete(folder, folder.parent)
    return size


def _delete(directory: Path, place: Path) -> None:
    aside = place / f"{_ASIDE}{uuid.uuid4().hex}"
    directory.rename(aside)
    shutil.rmtree(aside)


def remove_revision(cache_dir: Path, revision: Cached) -> int:
    """Delete one revision, and the names and files that are its alone. Raises OSError."""
    folder = repo_folder(cache_dir, revision.repo)
    others = (p for p in (folder / "snapshots").glob("*") if p != revision.path)
    used = {blob for path in others for blob in _blobs_of(path)}
    own = tuple(sorted((_blobs_of(revision.path) & _own_blobs(folder)) - used))
    size = sum(map(_size, own))
    for name in revision.refs:
        (folder / "refs" / name).unlink(missing_ok=True)
    discard(Waste("", revision.repo, size, (revision.path, *own)))
    return size


def _folders(cache_dir: Path) -> Iterator[Path]:
    return (p for p in sorted(hub_folder(cache_dir).glob(f"{_PREFIX}*")) if p.is_dir())


def _repo(folder: Path) -> str:
    return folder.name.removeprefix(_PREFIX).replace("--", "/")


def _refs(folder: Path) -> dict[str, str]:
    refs = {}
    for path in (folder / "refs").rglob("*"):
        with suppress(OSError):  # a directory: a name with a slash
            refs[str(path.relative_to(folder / "refs"))] = path.read_text().strip()
    return refs


def _blobs_of(snapshot: Path) -> set[Path]:
    return {path.resolve() for path in snapshot.rglob("*") if path.is_file()}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # gone between the look and the question


def _came_at(snapshot: Path) -> float:
    """Return when it came; who reads it, also to list it, changes its access time."""
    try:
        return (snapshot / "config.json").stat().st_mtime
    except OSError:
        return 0.0


def _total(mark: Path) -> int:
    try:
        total = json.loads(mark.read_text())["total"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return total if isinstance(total, int) else 0
