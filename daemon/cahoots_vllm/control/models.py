"""The models on disk, as people see them: what is there, what is used, what may go."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cahoots_vllm.control.shared_hub import SharedHub
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import make_launch_spec
from cahoots_vllm.host import model_store, snapshots
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.model_card import read_card
from cahoots_vllm.host.model_store import Cached, Partial, Waste

_DISK_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """One revision of a repo, a download of one that is not whole, or a directory of the user's.

    A directory has the model's name for a repo, and no revision.
    `size_bytes` of `total_bytes` are there; `total_bytes` is None where it is whole or unknown.
    """

    repo: str
    revision: str | None
    refs: tuple[str, ...]
    path: str | None
    size_bytes: int
    total_bytes: int | None
    quantization: str | None
    context_length: int | None
    last_used: str | None
    is_whole: bool
    is_serving: bool
    is_downloading: bool


@dataclass(frozen=True, slots=True)
class Pruned:
    """What can go, or has gone."""

    what: str
    repo: str
    size_bytes: int


class Models:
    """Reads the cache; deletes what nothing needs."""

    def __init__(self, supervisor: Supervisor, hub: SharedHub, cache_dir: Path) -> None:
        """`cache_dir` holds the hub's cache below `huggingface/`."""
        self._supervisor = supervisor
        self._hub = hub
        self._cache_dir = cache_dir

    async def listed(self) -> list[ModelOnDisk]:
        """Return what is on disk. Raises TimeoutError where the disk hangs."""
        serving = self._serving()
        read = partial(_read, self._cache_dir, serving, self._hub.repos, self._directories())
        return await run_blocking(read, deadline_s=_DISK_DEADLINE_S)

    async def remove(self, repo: str, revision: str | None) -> int:
        """Delete a repo, or one revision (a commit, its beginning, or a name); return the bytes.

        Raises CahootsError: NOT_FOUND, CONFLICT for what is used.
        """
        found = await run_blocking(
            lambda: model_store.list_cached(self._cache_dir), deadline_s=_DISK_DEADLINE_S
        )
        folder = model_store.repo_folder(self._cache_dir, repo)
        chosen = [c for c in found if c.repo == repo and _is_named(c, revision)]
        if not chosen and (own := self._directories().get(repo)) is not None:
            raise CahootsError(
                Kind.CONFLICT,
                f"cannot remove {repo}: it is in a directory of yours, {own}",
                "delete that by hand, and its profile",
            )
        if not chosen and (revision is not None or not folder.is_dir() or "/" not in repo):
            raise _not_on_disk(repo, revision, sorted({c.repo for c in found}))
        self._refuse_used(repo, chosen, is_all=revision is None)
        if revision is None:
            delete = partial(model_store.remove_repo, self._cache_dir, repo)
        else:
            delete = partial(model_store.remove_revision, self._cache_dir, chosen[0])
        return await run_blocking(delete, deadline_s=_DISK_DEADLINE_S)

    async def prune(self, *, is_dry_run: bool) -> list[Pruned]:
        """Delete what nothing refers to; return what that is. Raises OSError."""
        kept = frozenset(self._kept())
        state = self._supervisor.state
        # A download of a swap is under way before the hub says so.
        checked = {state.checking.source} if state.checking is not None else set()
        busy = self._hub.repos | checked

        def work() -> list[Waste]:
            found = model_store.find_waste(self._cache_dir, kept, busy)
            for waste in found if not is_dry_run else ():
                model_store.discard(waste)
            if not is_dry_run:
                model_store.tidy(self._cache_dir, busy)
            return found

        found = await run_blocking(work, deadline_s=_DISK_DEADLINE_S)
        return [Pruned(waste.what, waste.repo, waste.size_bytes) for waste in found]

    def _directories(self) -> dict[str, Path]:
        """Return the models that are not the hub's, by name: wanted, served, or a profile's."""
        settings, state = self._supervisor.settings, self._supervisor.state
        names = (settings.wanted_model, *(profile.name for profile in settings.profiles))
        specs = [make_launch_spec(settings, name) for name in names]
        if state.live is not None:
            specs.append(state.live.plan.goal)
        return {s.model: Path(s.source) for s in specs if s.source.startswith("/")}

    def _serving(self) -> Path | None:
        live = self._supervisor.state.live
        return Path(live.plan.launch.source) if live is not None else None

    def _kept(self) -> dict[Path, str]:
        """Return the snapshots that are needed, each with what for."""
        state = self._supervisor.state
        plans = {"the one to go back to": state.last_good, "the one wanted": state.plan}
        kept = {Path(plan.launch.source): why for why, plan in plans.items() if plan is not None}
        if state.live is not None:
            kept[Path(state.live.plan.launch.source)] = "being served"
        return kept

    def _refuse_used(self, repo: str, chosen: list[Cached], *, is_all: bool) -> None:
        kept, state = self._kept(), self._supervisor.state
        why = next((kept[c.path] for c in chosen if c.path in kept), None)
        if repo in self._hub.repos:
            raise CahootsError(
                Kind.CONFLICT,
                f"cannot remove {repo}: it is being downloaded",
                "end that first: cahootsctl operations, then cahootsctl operations abort ID",
            )
        wanted = {spec.source for spec in (state.goal, state.checking) if spec is not None}
        if why is None and is_all and repo in wanted:
            why = "the one wanted"
        if why is not None:
            raise CahootsError(
                Kind.CONFLICT,
                f"cannot remove {repo}: it is {why}",
                "serve another model first (cahootsctl swap-model), or cahootsctl stop",
            )


def _read(
    cache_dir: Path, serving: Path | None, busy: frozenset[str], own: Mapping[str, Path]
) -> list[ModelOnDisk]:
    parts = {part.repo: part for part in model_store.list_partial(cache_dir)}
    listed = [
        _whole(cached, serving)
        for cached in model_store.list_cached(cache_dir)
        # Else told as the partial download that it is.
        if cached.repo not in parts or (cached.refs and not snapshots.find_missing(cached.path))
    ]
    listed += [_partial(part, is_downloading=part.repo in busy) for part in parts.values()]
    listed += [_own(name, path, serving) for name, path in own.items() if path.is_dir()]
    return sorted(listed, key=lambda one: (one.repo, not one.is_whole))


def _whole(cached: Cached, serving: Path | None) -> ModelOnDisk:
    card = read_card(cached.path)
    return ModelOnDisk(
        repo=cached.repo,
        revision=cached.revision,
        refs=cached.refs,
        path=str(cached.path),
        size_bytes=cached.size_bytes,
        total_bytes=None,
        quantization=card.quantization,
        context_length=card.context_length,
        last_used=_iso(cached.used_at),
        is_whole=snapshots.find_missing(cached.path) is None,
        is_serving=cached.path == serving,
        is_downloading=False,
    )


def _partial(part: Partial, *, is_downloading: bool) -> ModelOnDisk:
    return ModelOnDisk(
        repo=part.repo,
        revision=None,
        refs=(),
        path=None,
        size_bytes=part.size_bytes,
        total_bytes=part.total_bytes or None,
        quantization=None,
        context_length=None,
        last_used=None,
        is_whole=False,
        is_serving=False,
        is_downloading=is_downloading,
    )


def _own(name: str, path: Path, serving: Path | None) -> ModelOnDisk:
    card = read_card(path)
    return ModelOnDisk(
        repo=name,
        revision=None,
        refs=(),
        path=str(path),
        size_bytes=card.size_bytes,
        total_bytes=None,
        quantization=card.quantization,
        context_length=card.context_length,
        last_used=None,
        is_whole=snapshots.find_missing(path) is None,
        is_serving=path == serving,
        is_downloading=False,
    )


def _is_named(cached: Cached, revision: str | None) -> bool:
    return revision is None or revision in cached.refs or cached.revision.startswith(revision)


def _not_on_disk(repo: str, revision: str | None, others: list[str]) -> CahootsError:
    what = f"{repo}@{revision}" if revision else repo
    there = f"on disk are: {', '.join(others)}" if others else "no model is on disk"
    return CahootsError(Kind.NOT_FOUND, f"cannot remove {what}: it is not on disk", there)


def _iso(at: float) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else None
