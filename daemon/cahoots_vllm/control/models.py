"""The models on disk, as people see them: what is there, what is used, what may go."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from cahoots_vllm.control.last_used import LastUsed
from cahoots_vllm.control.shared_hub import SharedHub
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import LaunchSpec, engine_cache
from cahoots_vllm.core.settings import make_launch_spec
from cahoots_vllm.host import model_store, snapshots
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.engine_caches import find_unused
from cahoots_vllm.host.model_card import read_card
from cahoots_vllm.host.model_store import Cached, Partial, Waste

_DISK_DEADLINE_S = 60.0
_T = TypeVar("_T")


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

    def __init__(
        self, supervisor: Supervisor, hub: SharedHub, used: LastUsed, cache_dir: Path
    ) -> None:
        """`cache_dir` holds the hub's cache below `huggingface/`."""
        self._used = used
        # What one deletes is no rest of a removal for the other, nor half a model in a list.
        self._turn = asyncio.Lock()
        self._supervisor = supervisor
        self._hub = hub
        self._cache_dir = cache_dir

    async def listed(self) -> list[ModelOnDisk]:
        """Return what is on disk. Raises CahootsError (INTERNAL) where it cannot be read."""
        serving = self._serving()
        read = partial(_read, self._cache_dir, serving, self._hub.repos, self._directories())
        async with self._turn:
            found = await _on_disk("read the cache", read)
        return [self._with_use(one) for one in found]

    def _with_use(self, model: ModelOnDisk) -> ModelOnDisk:
        """Return it with the time at which it was served last; else when it came."""
        if model.path is None:
            return model
        at = time.time() if model.is_serving else self._used.find(Path(model.path))
        return model if at is None else replace(model, last_used=_iso(at))

    async def remove(self, repo: str, revision: str | None) -> int:
        """Delete a repo, or one revision (a commit, its beginning, or a name); return the bytes.

        Raises CahootsError: NOT_FOUND, CONFLICT for what is used, INTERNAL.
        """
        async with self._turn:
            return await self._remove(repo, revision)

    async def _remove(self, repo: str, revision: str | None) -> int:
        found = await _on_disk("read the cache", lambda: model_store.list_cached(self._cache_dir))
        repos = await _on_disk("read the cache", lambda: model_store.list_repos(self._cache_dir))
        chosen = _named([c for c in found if c.repo == repo], revision)
        if not chosen and (own := self._directories().get(repo)) is not None:
            raise CahootsError(
                Kind.CONFLICT,
                f"cannot remove {repo}: it is in a directory of yours, {own}",
                "delete that by hand, and its profile",
            )
        if not chosen and (revision is not None or repo not in repos):
            raise _not_on_disk(repo, revision, sorted({c.repo for c in found}))
        self._refuse_used(repo, chosen, is_all=revision is None)
        if revision is None:
            delete = partial(model_store.remove_repo, self._cache_dir, repo)
        else:
            delete = partial(model_store.remove_revision, self._cache_dir, chosen[0])
        return await _on_disk(f"remove {repo}", delete)

    async def prune(self, *, is_dry_run: bool) -> list[Pruned]:
        """Delete what nothing refers to; return what that is. Raises CahootsError (INTERNAL)."""
        kept = frozenset(self._kept())
        state = self._supervisor.state
        # A download of a swap is under way before the hub says so.
        checked = {state.checking.source} if state.checking is not None else set()
        busy = self._hub.repos | checked
        specs = [spec for spec in self._specs() if spec.is_repo]
        engine = self._supervisor.settings.engine
        caches = Path(engine_cache(str(self._cache_dir), engine.version))

        def work() -> list[Waste]:
            # No name of the hub's may point at a commit that a profile asks for.
            pinned = (
                snapshots.find_snapshot(self._cache_dir, spec.source, spec.revision)
                for spec in specs
            )
            needed = kept | {path for path in pinned if path is not None}
            found = model_store.find_waste(self._cache_dir, needed, busy)
            found += find_unused(caches)
            for waste in found if not is_dry_run else ():
                model_store.discard(waste)
            if not is_dry_run:
                model_store.tidy(self._cache_dir, busy)
            return found

        async with self._turn:
            found = await _on_disk("prune", work)
        return [Pruned(waste.what, waste.repo, waste.size_bytes) for waste in found]

    def _directories(self) -> dict[str, Path]:
        """Return the models that are not the hub's, by name: wanted, served, or a profile's."""
        return {s.model: Path(s.source) for s in self._specs() if s.source.startswith("/")}

    def _specs(self) -> list[LaunchSpec]:
        settings, state = self._supervisor.settings, self._supervisor.state
        names = (settings.wanted_model, *(profile.name for profile in settings.profiles))
        specs = [make_launch_spec(settings, name) for name in names]
        if state.live is not None:
            specs.append(state.live.plan.goal)
        return specs

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


async def _on_disk(what: str, call: Callable[[], _T]) -> _T:
    """Do something slow. Raises CahootsError (INTERNAL) where the disk does not do it."""
    try:
        return await run_blocking(call, deadline_s=_DISK_DEADLINE_S)
    except TimeoutError as error:
        why = error.strerror or f"no answer in {_DISK_DEADLINE_S:.0f} s, it goes on"
        said = f"cannot {what}: {why}"
        raise CahootsError(Kind.INTERNAL, said, "look at the disk of the cache") from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        said = f"cannot {what}: {error.strerror or error}{where}"
        remedy = "let the daemon's user read and write there, on a disk that can be written"
        raise CahootsError(Kind.INTERNAL, said, remedy) from error


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
        last_used=_iso(cached.came_at),
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


def _named(found: list[Cached], revision: str | None) -> list[Cached]:
    """Return all, or the one that is meant. Raises CahootsError (CONFLICT): several may be."""
    if revision is None:
        return found
    named = [c for c in found if revision in (*c.refs, c.revision)]
    named = named or [c for c in found if revision and c.revision.startswith(revision)]
    if len(named) > 1:
        raise CahootsError(
            Kind.CONFLICT,
            f"{revision} may be any of {', '.join(c.revision[:12] for c in named)}",
            "give more of the commit that is meant: cahootsctl models",
        )
    return named


def _not_on_disk(repo: str, revision: str | None, others: list[str]) -> CahootsError:
    what = f"{repo}@{revision}" if revision else repo
    there = f"on disk are: {', '.join(others)}" if others else "no model is on disk"
    return CahootsError(Kind.NOT_FOUND, f"cannot remove {what}: it is not on disk", there)


def _iso(at: float) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else None
