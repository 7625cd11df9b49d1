"""`/v1/bench`: what was measured on this host, and what a bench needs to know to measure."""

from dataclasses import dataclass

from aiohttp import web
from pydantic import TypeAdapter

from cahoots_vllm.api.access import Access, tell_change
from cahoots_vllm.api.bodies import read_body
from cahoots_vllm.api.routes import Route
from cahoots_vllm.control.bench_history import (
    BenchHistory,
    BenchRecord,
    BenchResult,
    BenchWorker,
)


@dataclass(frozen=True, slots=True)
class BenchView:
    """The answer: the worker that is ready, and the records, the oldest first."""

    worker: BenchWorker | None
    records: tuple[BenchRecord, ...]


_VIEW = TypeAdapter(BenchView)


@dataclass(frozen=True, slots=True)
class BenchHandlers:
    """The handlers and what they read from."""

    history: BenchHistory

    async def show(self, _request: web.Request) -> web.Response:
        """What was measured on this host, the oldest first, and the worker to measure."""
        view = BenchView(await self.history.worker(), await self.history.records())
        return web.Response(body=_VIEW.dump_json(view), content_type="application/json")

    async def add(self, request: web.Request) -> web.Response:
        """Keep what was measured of the ready worker."""
        record = await self.history.add(await read_body(request, BenchResult))
        tell_change(request, f"a bench of {record.target.model} is kept")
        body = record.model_dump_json()
        return web.Response(body=body.encode(), content_type="application/json")


def routes(handlers: BenchHandlers) -> tuple[Route, ...]:
    """Return the rows of the route table."""
    return (
        Route("GET", "/v1/bench", Access.LOOK, handlers.show, "BenchView"),
        Route("POST", "/v1/bench", Access.CHANGE, handlers.add, "BenchRecord", "BenchResult"),
    )
