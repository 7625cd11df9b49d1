"""`cahootsctl check MODEL`: everything that can be said of a model before it is served."""

import asyncio
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cahoots_vllm.control.examine import child_environment
from cahoots_vllm.control.fit_check import FitCheck
from cahoots_vllm.control.near_names import with_near_names
from cahoots_vllm.core.amounts import size_text
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.fit.checks import Check
from cahoots_vllm.core.fit.estimate import Fit
from cahoots_vllm.core.launch import LaunchSpec, Options
from cahoots_vllm.core.level import Level
from cahoots_vllm.core.secret import mask
from cahoots_vllm.core.settings import Settings, make_launch_spec
from cahoots_vllm.host import snapshots
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.hub_answer import HubLook, HubSight
from cahoots_vllm.host.model_files import ModelFiles, read_model_files
from cahoots_vllm.host.model_store import hub_folder

DISK_DEADLINE_S = 30.0
_AT_ONCE = 4
_SPARE_BYTES = 1 << 30
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The answer: whether it may be served, why not, and the figures in bytes."""

    model: str
    source: str
    level: Level
    checks: tuple[Check, ...]
    weights_bytes: int | None
    kv_bytes: int | None
    overhead_bytes: int | None
    budget_bytes: int | None
    max_model_len: int | None
    longest: int | None
    is_measured: bool


class ModelCheck:
    """Looks only: nothing is fetched, stopped or kept."""

    def __init__(self, fit: FitCheck, hub: HubLook, cache_dir: Path) -> None:
        """`cache_dir` holds the hub's cache below `huggingface/`."""
        self._fit = fit
        self._hub = hub
        self._cache_dir = cache_dir
        # Anybody may ask, and each look costs a process or the memory of a large file's header.
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def check(self, model: str, options: Options, settings: Settings) -> ModelReport:
        """Return the checks of a model with options in place of the settings' own."""
        goal = make_launch_spec(settings, model)
        for name, value in options:
            goal = goal.with_option(name, value)
        goal = replace(goal, fitted=goal.fitted - {name for name, _ in options})
        try:
            async with self._turns:
                return await self._check(goal, settings)
        except CahootsError as error:
            found = Check("files", Level.FAIL, error.message, error.remedy)
        except OSError as error:  # a TimeoutError is one too
            said = (
                f"cannot read the files of {goal.source}: {error.strerror or 'no answer in time'}"
            )
            remedy = "let the daemon's user read them; a network disk may be gone"
            found = Check("files", Level.FAIL, said, remedy)
        return _report(goal, (found,), None)

    async def _check(self, goal: LaunchSpec, settings: Settings) -> ModelReport:
        launch = goal
        directory = await run_blocking(lambda: self._find(goal), deadline_s=DISK_DEADLINE_S)
        if directory is not None:
            files = await run_blocking(
                lambda: read_model_files(directory), deadline_s=DISK_DEADLINE_S
            )
            look = partial(_on_disk, goal, directory, files)
            first: tuple[Check, ...] = (await run_blocking(look, deadline_s=DISK_DEADLINE_S),)
            if first[0].level is Level.FAIL:
                return _report(goal, first, None)
            launch = replace(goal, source=str(directory), is_local=True)
        elif not goal.is_repo:
            said = f"{goal.source} is no complete model directory and no repo (ORG/NAME)"
            remedy = (
                "give ORG/NAME, or the absolute path of a directory with config.json and weights"
            )
            return _report(goal, (Check("files", Level.FAIL, said, remedy),), None)
        else:
            sight = await self._hub.look(
                goal.source, goal.revision, child_environment(goal, settings, with_token=True)
            )
            if isinstance(sight, Diagnosis):
                known = tuple(profile.name for profile in settings.profiles)
                told = await with_near_names(sight, goal.model, known, self._cache_dir)
                return _report(goal, (_refusal(told, settings),), None)
            first = await run_blocking(lambda: self._from_hub(sight), deadline_s=DISK_DEADLINE_S)
            stored = sum(n for name, n in _wanted(sight).items() if name.endswith(_WEIGHTS))
            files = ModelFiles(sight.config, (), stored)
        looked = await self._fit.look(launch, settings, files)
        return _report(goal, (*first, *looked.checks), looked.fit)

    def _find(self, goal: LaunchSpec) -> Path | None:
        if goal.source.startswith("/"):
            directory = Path(goal.source)
            return directory if snapshots.find_missing(directory) is None else None
        if not goal.is_repo:
            return None
        return snapshots.find_snapshot(self._cache_dir, goal.source, goal.revision)

    def _from_hub(self, sight: HubSight) -> tuple[Check, ...]:
        wanted = _wanted(sight)
        total = sum(wanted.values())
        if not any(name.endswith(_WEIGHTS) for name in wanted):
            said = "the repo has no weights that can be downloaded (*.safetensors, *.bin)"
            remedy = "take another repo of the model; a GGUF file is served from a directory"
            return (Check("files", Level.FAIL, said, remedy),)
        files = Check("files", Level.OK, f"not on disk yet: {size_text(total)} to download")
        gate = "gated, and the token may read it" if sight.is_gated else "it may be read"
        return (files, Check("access", Level.OK, gate), self._disk(total))

    def _disk(self, total: int) -> Check:
        # A disk of its own may be mounted there.
        place = hub_folder(self._cache_dir)
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        said = f"{size_text(free)} free in {self._cache_dir}, {size_text(total)} are wanted"
        if free < total + _SPARE_BYTES:
            remedy = "free space there: cahootsctl models shows what is on disk"
            return Check("disk", Level.FAIL, said, remedy)
        return Check("disk", Level.OK, said)


def _on_disk(goal: LaunchSpec, directory: Path, files: ModelFiles) -> Check:
    """Say whether the files are whole, as the look before a start does (preflight)."""
    is_own = goal.source.startswith("/")
    cut = snapshots.find_cut(directory)
    if not cut:
        where = f"in {directory}" if is_own else _revision(directory)
        said = f"on disk, {size_text(files.stored_bytes)} of weights {where}"
        return Check("files", Level.OK, said)
    said = "damaged: " + ", ".join(f"{path.name}: {why}" for path, why in cut.items())
    if is_own:
        remedy = f"get the file again and put it into {directory}"
        return Check("files", Level.FAIL, said, remedy)
    remedy = "nothing to do: a start deletes the file and fetches it again, before it stops another"
    return Check("files", Level.WARN, said, remedy)


def _revision(snapshot: Path) -> str:
    return f"of revision {snapshot.name[:8]}"


def _wanted(sight: HubSight) -> dict[str, int]:
    """Return what a download would fetch: safetensors where there are any (hub_fetch)."""
    has_safetensors = any(name.endswith(".safetensors") for name in sight.files)
    kinds = (".safetensors",) if has_safetensors else (".bin",)
    # As the download does: other formats of the same weights are left alone.
    return {
        name: count
        for name, count in sight.files.items()
        if name.endswith(kinds) or not name.endswith((*_WEIGHTS, ".gguf", ".h5", ".msgpack"))
    }


def _refusal(found: Diagnosis, settings: Settings) -> Check:
    # A hub, or a library, may repeat what it was asked with.
    said = mask(found.evidence, (secret for _, secret in settings.secret_env))
    name = "access" if found.cause is Cause.HUB_AUTH else "files"
    return Check(name, Level.FAIL, said, found.remedy)


def _report(goal: LaunchSpec, checks: tuple[Check, ...], fit: Fit | None) -> ModelReport:
    levels = [check.level for check in checks]
    level = next((it for it in (Level.FAIL, Level.WARN) if it in levels), Level.OK)
    need = fit.need if fit is not None else None
    kv = need.kv if need is not None and need.tokens else None
    return ModelReport(
        model=goal.model,
        source=goal.source,
        level=level,
        checks=checks,
        weights_bytes=need.weights_bytes if need else None,
        kv_bytes=kv.needed(need.tokens) if need and kv else None,
        overhead_bytes=need.overhead_bytes if need else None,
        budget_bytes=fit.budget_bytes if fit else None,
        max_model_len=need.tokens if need else None,
        longest=fit.longest if fit else None,
        is_measured=need.is_measured if need else False,
    )
