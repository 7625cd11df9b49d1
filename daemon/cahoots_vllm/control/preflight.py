"""Looks before anything is stopped: is the model there, or can it be fetched; what fits it.

Runs while the old worker serves.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cahoots_vllm.control.near_names import nearest, with_near_names
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.host import snapshots
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.hub import Fetched, FetchProgress, Hub

_DISK_DEADLINE_S = 30.0
_HASH_DEADLINE_S = 1800.0  # 60 GB from a slow disk
ProgressSink = Callable[[str, float | None], None]


class Preflight:
    """Turns a goal into a launch spec that can be started offline, or says why not."""

    def __init__(self, hub: Hub, cache_dir: Path) -> None:
        """`cache_dir` holds the hub's cache below `huggingface/`."""
        self._hub = hub
        self._cache_dir = cache_dir

    async def check(
        self,
        goal: LaunchSpec,
        env: Mapping[str, str],
        known_names: tuple[str, ...],
        progress: ProgressSink,
        *,
        repairs: bool = False,
    ) -> LaunchSpec | Diagnosis:
        """Return what to start, or the diagnosis. `env` is the downloader's, with the token.

        `repairs`: the engine called the weights damaged: find the file, and fetch it again.
        """
        if goal.source.startswith("/"):
            found: Path | Diagnosis = await self._local(goal, known_names)
            if repairs and isinstance(found, Path):
                found = await self._find_damage(found)
        elif goal.is_repo:
            if repairs:
                progress("looking for the damaged file", None)
                whole = await self._take_damage_away(goal)
                if whole is not None:
                    return whole
            found = await self._from_hub(goal, env, known_names, progress, repairs=repairs)
        else:
            found = _unknown(goal, known_names)
        if isinstance(found, Diagnosis):
            return found
        directory = found
        launch = replace(goal, source=str(directory), is_local=True)
        limit = await run_blocking(
            lambda: snapshots.context_limit(directory), deadline_s=_DISK_DEADLINE_S
        )
        return _fit_context(launch, limit)

    async def _local(self, goal: LaunchSpec, known: tuple[str, ...]) -> Path | Diagnosis:
        directory = Path(goal.source)
        missing = await run_blocking(
            lambda: snapshots.find_missing(directory), deadline_s=_DISK_DEADLINE_S
        )
        if missing is None:
            cut = await self._find_cut(directory)
            return _damaged(directory, cut) if cut else directory
        evidence = f"{directory} is no complete model: it has no {missing}"
        return Diagnosis(
            Cause.HUB_NOT_FOUND, evidence, _name_remedy(goal, known), is_retryable=False
        )

    async def _find_damage(self, directory: Path) -> Diagnosis:
        """Name the damaged files of a person's own directory: nothing of theirs is deleted."""
        damaged = await run_blocking(
            lambda: snapshots.find_damaged(directory), deadline_s=_HASH_DEADLINE_S
        )
        if not damaged:
            return _no_damage(directory)
        return _damaged(directory, damaged)

    async def _find_snapshot(self, goal: LaunchSpec) -> Path | None:
        return await run_blocking(
            lambda: snapshots.find_snapshot(self._cache_dir, goal.source, goal.revision),
            deadline_s=_DISK_DEADLINE_S,
        )

    async def _find_cut(self, directory: Path) -> dict[Path, str]:
        return await run_blocking(
            lambda: snapshots.find_cut(directory), deadline_s=_DISK_DEADLINE_S
        )

    async def _find_whole(self, goal: LaunchSpec, progress: ProgressSink) -> Path | None:
        """Return the snapshot; None: it is not there, or its files that were cut short are gone."""
        snapshot = await self._find_snapshot(goal)
        cut = await self._find_cut(snapshot) if snapshot is not None else {}
        if not cut:
            return snapshot
        progress(f"fetching damaged files again: {_named(cut)}", None)
        await run_blocking(lambda: snapshots.discard(cut), deadline_s=_DISK_DEADLINE_S)
        return None

    async def _take_damage_away(self, goal: LaunchSpec) -> Diagnosis | None:
        """Delete the damaged files of a snapshot; return the diagnosis if there is none."""
        snapshot = await self._find_snapshot(goal)
        if snapshot is None:
            return None  # not whole: the download completes it
        damaged = await run_blocking(
            lambda: snapshots.find_damaged(snapshot), deadline_s=_HASH_DEADLINE_S
        )
        if not damaged:
            return _no_damage(goal.source)
        await run_blocking(lambda: snapshots.discard(damaged), deadline_s=_DISK_DEADLINE_S)
        return None

    async def _from_hub(
        self,
        goal: LaunchSpec,
        env: Mapping[str, str],
        known: tuple[str, ...],
        progress: ProgressSink,
        *,
        repairs: bool,
    ) -> Path | Diagnosis:
        snapshot = None if repairs else await self._find_whole(goal, progress)
        if snapshot is not None:
            return snapshot
        progress(f"asking the hub for {goal.source}", None)
        async for report in self._hub.fetch(goal.source, goal.revision, env):
            match report:
                case Fetched(path):
                    cut = await self._find_cut(Path(path))
                    return _damaged_there(goal.source, cut) if cut else Path(path)
                case FetchProgress(done, total):
                    share = done / total if total else None
                    progress(f"downloading {goal.source}", share)
                case Diagnosis():
                    return await with_near_names(report, goal.model, known, self._cache_dir)
        return _unknown(goal, known)


def _named(damaged: Mapping[Path, str]) -> str:
    return ", ".join(f"{path.name}: {why}" for path, why in damaged.items())


def _damaged(directory: Path, damaged: Mapping[Path, str]) -> Diagnosis:
    remedy = f"get the file again and put it into {directory}"
    return Diagnosis(Cause.CORRUPT_WEIGHTS, _named(damaged), remedy, is_retryable=False)


def _damaged_there(repo: str, damaged: Mapping[Path, str]) -> Diagnosis:
    evidence = f"the hub's own files of {repo} are damaged: {_named(damaged)}"
    remedy = "take another revision or another repo of the model"
    return Diagnosis(Cause.CORRUPT_WEIGHTS, evidence, remedy, is_retryable=False)


def _no_damage(where: Path | str) -> Diagnosis:
    evidence = f"no file of {where} is damaged, by its size and hash"
    remedy = "the weights do not fit the configuration: get the model whole, of one revision"
    return Diagnosis(Cause.CORRUPT_WEIGHTS, evidence, remedy, is_retryable=False)


def _fit_context(launch: LaunchSpec, limit: int | None) -> LaunchSpec:
    """Keep the default context length within the model's own: vLLM refuses a longer one."""
    wanted = launch.option("max-model-len")
    if limit is None or "max-model-len" not in launch.fitted or not isinstance(wanted, int):
        return launch
    return launch.with_option("max-model-len", min(wanted, limit))


def _unknown(goal: LaunchSpec, known: tuple[str, ...]) -> Diagnosis:
    evidence = f"{goal.model} is neither a profile, nor a repo (ORG/NAME), nor an absolute path"
    return Diagnosis(Cause.HUB_NOT_FOUND, evidence, _name_remedy(goal, known), is_retryable=False)


def _name_remedy(goal: LaunchSpec, known: tuple[str, ...]) -> str:
    return f"give ORG/NAME or the absolute path of a model directory{nearest(goal.model, known)}"
