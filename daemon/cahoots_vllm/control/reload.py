"""Settings read again: what changed, what it does, and the last good ones where it cannot be used.

One reload at a time. Nothing that runs is touched before everything was validated.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Protocol

from cahoots_vllm.control.event_hub import EventHub, EventType
from cahoots_vllm.control.operation import Caller, Operation, Problem
from cahoots_vllm.control.settings_source import SettingsSource
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.config_view import KeyChange, config_changes, refuse_lost_provider
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.core.wire import SwapStrategy
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.env_edit import set_value
from cahoots_vllm.host.watch import FileWatch

_WRITE_DEADLINE_S = 10.0
ApplyGateway = Callable[[GatewaySettings], Awaitable[None]]


class Notes(Protocol):
    """Who is told that settings are being read (host.notify)."""

    def reloading(self) -> None:
        """Begun."""
        ...

    def ready(self) -> None:
        """Done, or refused."""
        ...


class Reloader:
    """Reads, compares, and hands new settings to whom they concern."""

    def __init__(
        self,
        source: SettingsSource,
        supervisor: Supervisor,
        apply_gateway: ApplyGateway,
        events: EventHub,
        notes: Notes,
    ) -> None:
        """`apply_gateway` raises CahootsError when a new address cannot be listened on."""
        self._source = source
        self._supervisor = supervisor
        self._apply_gateway = apply_gateway
        self._events = events
        self._notes = notes
        self._lock = asyncio.Lock()

    async def reload(self, by: Caller) -> Operation:
        """Do what a person asked for; what the watch has begun meanwhile is the same.

        Raises CahootsError: BUSY and CONFLICT, or what is wrong with the settings.
        """
        operations = self._supervisor.operations
        if operations.running is None or operations.running.kind != "reload":
            operations.refuse_if_busy()
        self._supervisor.asks.refuse_while_stopping()
        operation = await self._take(by) or operations.running
        if operation is None:  # it has begun to stop meanwhile
            self._supervisor.asks.refuse_while_stopping()
            raise CahootsError(Kind.CONFLICT, "the reload was superseded", "see cahootsctl status")
        return operation

    async def save_model(
        self, model: str, by: Caller, strategy: SwapStrategy | None = None
    ) -> Operation:
        """Serve a model, and write it into `.env` once it is served.

        Raises CahootsError, and nothing is changed: also where it could not be written.
        """
        self._supervisor.asks.refuse_swap(model)
        await self._write(model, is_rehearsal=True)
        await self._source.peek()  # a mistake that is in there is said now, not after the swap
        return self._supervisor.asks.swap_model(model, by, saves=True, strategy=strategy)

    async def save_served(self) -> None:
        """Write what swaps with `--save` have brought, until cancelled."""
        while True:
            operation = await self._supervisor.operations.to_save.get()
            problem = None
            try:
                await self._save(operation)
            except CahootsError as error:
                problem = Problem(error.kind, error.message, error.remedy)
            self._supervisor.saved(operation, problem)

    async def _save(self, operation: Operation) -> None:
        model = operation.params["model"]
        async with self._lock:
            before = now = self._supervisor.settings.configured_model
            with suppress(CahootsError):  # writing says it better
                now = (await self._source.peek()).configured_model
            running = self._supervisor.operations.running
            if running is None or running.id != operation.id:
                return  # aborted, or superseded by a newer edit, meanwhile
            if now not in (before, model):
                raise CahootsError(
                    Kind.CONFLICT,
                    f"{self._supervisor.settings.env_file} names {now} by now: left as it is",
                    "what was saved last counts",
                )
            await self._write(model)
            await self._take_locked(operation.by, is_asked=True)

    async def _write(self, model: str, *, is_rehearsal: bool = False) -> None:
        path = Path(self._supervisor.settings.env_file)
        try:
            await run_blocking(
                lambda: set_value(path, "LOCAL_LLM_MODEL", model, is_rehearsal=is_rehearsal),
                deadline_s=_WRITE_DEADLINE_S,
            )
        except TimeoutError as error:
            what = f"cannot write {path}: no answer from the disk"
            raise CahootsError(Kind.CONFLICT, what, "a network disk may be gone") from error

    async def notice(self, by: Caller, *, is_asked: bool = False) -> None:
        """Do what an edited file asks for; a newer one supersedes what is under way."""
        try:
            await self._take(by, is_asked=is_asked)
        except CahootsError:
            return  # said in status and by an event

    async def watch(self, files: FileWatch, by: Caller) -> None:
        """Notice every edit of the files, until cancelled."""
        await files.begin()
        if await self._has_changed():  # between the daemon's own reading and the first look
            await self.notice(by)
        async with aclosing(files.changes()) as changes:
            async for _ in changes:
                await self.notice(by)

    async def _has_changed(self) -> bool:
        try:
            new = await self._source.peek()
        except CahootsError:
            return True
        return self._supervisor.carried_over(new) != self._supervisor.settings

    async def diff(self) -> tuple[KeyChange, ...]:
        """Return what a reload would change. Raises CahootsError."""
        new = await self._source.peek()
        refuse_lost_provider(self._supervisor.settings, new)
        return config_changes(self._supervisor.settings, self._supervisor.carried_over(new))

    async def _take(self, by: Caller, *, is_asked: bool = True) -> Operation | None:
        async with self._lock:
            return await self._take_locked(by, is_asked=is_asked)

    async def _take_locked(self, by: Caller, *, is_asked: bool) -> Operation | None:
        self._notes.reloading()
        try:
            return await self._use(by, is_asked=is_asked)
        finally:
            self._notes.ready()  # with the new settings or the last good ones

    async def _use(self, by: Caller, *, is_asked: bool) -> Operation | None:
        try:
            settings = await self._source.peek()
            refuse_lost_provider(self._supervisor.settings, settings)
            await self._apply_gateway(settings.gateway)
        except CahootsError as error:
            self._source.error = str(error)
            self._events.publish(
                EventType.RELOAD, {"error": str(error), "changes": [], "text": str(error)}
            )
            raise
        self._source.used()
        # Now, not before the waiting: somebody may have asked for another model meanwhile.
        settings = self._supervisor.carried_over(settings)
        changes = config_changes(self._supervisor.settings, settings)
        self._tell(changes)
        keys = ", ".join(change.key for change in changes)
        return self._supervisor.asks.adopt(settings, by, keys or ("nothing" if is_asked else None))

    def _tell(self, changes: tuple[KeyChange, ...]) -> None:
        views = [
            {"key": c.key, "before": c.before, "after": c.after, "effect": c.effect.value}
            for c in changes
        ]
        said = "; ".join(f"{c.key}: {c.effect}" for c in changes) or "nothing changed"
        self._events.publish(EventType.RELOAD, {"error": None, "changes": views, "text": said})
