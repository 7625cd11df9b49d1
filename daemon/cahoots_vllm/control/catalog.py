"""Which models clients can ask for, by which names, and what is loaded: for Ollama's listings."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.demand import askable_names
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.ollama.request import Served
from cahoots_vllm.core.ollama.views import Model, ModelCard
from cahoots_vllm.core.settings import make_launch_spec
from cahoots_vllm.core.state import Live, Stage
from cahoots_vllm.host import snapshots
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.model_card import read_card

_LATEST: Final = ":latest"
_DISK_DEADLINE_S: Final = 10.0
# As Ollama says "for ever": its largest duration, that of 64 bits of nanoseconds.
_FOR_EVER: Final = timedelta(days=292 * 365)


class Catalog:
    """Reads the supervisor's state; owns nothing."""

    def __init__(self, supervisor: Supervisor, rotation: Rotation) -> None:
        """Nothing is read yet."""
        self._supervisor = supervisor
        self._rotation = rotation
        self._since = datetime.now(UTC)

    @property
    def is_on_cpu(self) -> bool:
        """Whether models are loaded into the host's memory."""
        return self._supervisor.settings.engine.is_cpu

    def served(self, name: str) -> Served | None:
        """Return how the engine knows a model that a client names, None: nobody serves it.

        Ollama's clients may add its default tag.
        """
        for candidate in (name, name.removesuffix(_LATEST)):
            for spec in self._specs():
                if candidate in (*spec.served, *_adapters(spec)):
                    return Served(candidate, self._length(spec))
        # Adapters that were loaded at run time are known to the engine alone.
        takes_adapters = any(spec.option("enable-lora") for spec in self._specs())
        return Served(name, None) if takes_adapters else None

    async def models(self) -> list[Model]:
        """Return every model that can be asked for, the one that is served now first."""
        return [await self._model(spec) for spec in self._specs()]

    async def loaded(self) -> list[Model]:
        """Return what answers now: one model, or none."""
        live = self._supervisor.state.live
        return [await self._model(live.plan.goal)] if live is not None and _serves(live) else []

    async def find(self, name: str) -> Model | None:
        """Return a model by the name that a client has for it."""
        known = self.served(name)
        for spec in self._specs():
            if known is not None and known.name in spec.served:
                return await self._model(spec)
        return None

    def expires_at(self) -> datetime:
        """Return until when what is loaded stays so without a request."""
        now, live = datetime.now(UTC), self._supervisor.state.live
        idle_stop_s = self._supervisor.settings.gateway.idle_stop_s
        if not idle_stop_s or live is None:
            return now + _FOR_EVER
        quiet_since = self._rotation.quiet_since
        if quiet_since is None:  # in use
            return now + timedelta(seconds=idle_stop_s)
        quiet_s = asyncio.get_running_loop().time() - max(quiet_since, live.since)
        return now + timedelta(seconds=max(0.0, idle_stop_s - quiet_s))

    def _specs(self) -> list[LaunchSpec]:
        """Return what is served, what is wanted, and what may be asked for on demand."""
        state, settings = self._supervisor.state, self._supervisor.settings
        found = [state.live.plan.goal] if state.live is not None else []
        found.append(state.goal or make_launch_spec(settings, settings.wanted_model))
        models = dict.fromkeys(askable_names(settings).values())
        found += (make_launch_spec(settings, model) for model in models)
        specs: dict[str, LaunchSpec] = {}
        for spec in found:
            specs.setdefault(spec.model, spec)
        return list(specs.values())

    def _length(self, spec: LaunchSpec) -> int | None:
        """Return the context length that a model is served with now, None where it is not."""
        live, worker = self._supervisor.state.live, self._supervisor.worker
        if live is None or worker is None or live.plan.goal != spec:
            return None
        return worker.progress.max_model_len

    async def _model(self, spec: LaunchSpec) -> Model:
        settings = self._supervisor.settings
        work = partial(_read, spec, Path(settings.cache_dir))
        try:
            card, changed_at = await run_blocking(work, deadline_s=_DISK_DEADLINE_S)
        except TimeoutError:  # a network disk may be gone; the model may serve on
            card, changed_at = ModelCard(), None
        return Model(spec.model, spec, card, changed_at or self._since, self._length(spec))


def _serves(live: Live) -> bool:
    return live.stage in (Stage.READY, Stage.DRAINING)


def _read(spec: LaunchSpec, cache_dir: Path) -> tuple[ModelCard, datetime | None]:
    """Return what the model's directory tells, and since when it is there. Blocking."""
    is_directory = spec.source.startswith("/")
    found = snapshots.find_snapshot(cache_dir, spec.source, spec.revision)
    directory = Path(spec.source) if is_directory else found
    if directory is None:
        return ModelCard(), None
    try:
        changed_at = datetime.fromtimestamp((directory / "config.json").stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        changed_at = None
    return read_card(directory), changed_at


def _adapters(spec: LaunchSpec) -> list[str]:
    """Return the names of the LoRA adapters the worker starts with: NAME=PATH, or JSON."""
    option = spec.option("lora-modules")
    values = option if isinstance(option, tuple) else (str(option or ""),)
    return [_adapter(value) for value in values]


def _adapter(value: str) -> str:
    if not value.startswith("{"):
        return value.partition("=")[0]
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return ""
    return str(parsed.get("name", "")) if isinstance(parsed, dict) else ""
