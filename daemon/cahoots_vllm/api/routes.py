"""The one route table: method, path, access right, handler, what it answers.

Access is declared here and denied by default: a request that matches no row is refused.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from cahoots_vllm.api.access import Access
from cahoots_vllm.api.handlers import Handlers

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One row; `answer` names the schema in the OpenAPI document."""

    method: str
    path: str
    access: Access
    handler: Handler
    answer: str
    takes: str | None = None


def build_routes(handlers: Handlers) -> tuple[Route, ...]:
    """Return the table."""
    look, change = Access.LOOK, Access.CHANGE
    return (
        Route("GET", "/v1/status", look, handlers.status, "Status"),
        Route("POST", "/v1/swap-model", change, handlers.swap_model, "Operation", "SwapModelBody"),
        Route("POST", "/v1/start", change, handlers.start, "Operation"),
        Route("POST", "/v1/stop", change, handlers.stop, "Operation"),
        Route("POST", "/v1/restart", change, handlers.restart, "Operation"),
        Route("POST", "/v1/reload", change, handlers.reload, "Operation"),
        Route("POST", "/v1/daemon-reexec", change, handlers.daemon_reexec, "Replacement"),
        Route("GET", "/v1/config", look, handlers.config, "Config"),
        Route("GET", "/v1/config/diff", look, handlers.config_diff, "ConfigDiff"),
        Route("GET", "/v1/operations", look, handlers.operations, "Operations"),
        Route("GET", "/v1/operations/{id}", look, handlers.operation, "Operation"),
        Route("GET", "/v1/operations/{id}/wait", look, handlers.wait_operation, "Operation"),
        Route("DELETE", "/v1/operations/{id}", change, handlers.abort_operation, "Operation"),
        Route("GET", "/v1/memory", look, handlers.memory, "Memory"),
        Route("DELETE", "/v1/memory", change, handlers.reset_memory, "MemoryReset"),
        Route("GET", "/v1/events", look, handlers.event_stream, "text/event-stream"),
        Route("GET", "/v1/logs", look, handlers.log_lines, "application/x-ndjson"),
        Route("GET", "/v1/health", look, handlers.health, "Health"),
        Route("GET", "/metrics", look, handlers.metrics, "text/plain"),
    )
