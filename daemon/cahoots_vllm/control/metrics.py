"""One page of figures in Prometheus' text format: the daemon's, the gateway's, and the worker's.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from cahoots_vllm.control.snapshot import StatusReader
from cahoots_vllm.control.status import Status
from cahoots_vllm.core.wire import Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Of the API server's process alone: on this page they would pass for the daemon's.
_LEFT_OUT = ("process_", "python_")


class MetricsPage:
    """Puts the page together at each scrape."""

    def __init__(self, status: StatusReader, gateway: CollectorRegistry) -> None:
        """`gateway` has the figures of requests."""
        self._status = status
        self._gateway = gateway

    async def render(self) -> bytes:
        """Return the page; a worker that does not answer in time is left out."""
        status = await self._status.read()
        worker = self._status.supervisor.worker
        page = await worker.metrics() if worker is not None else None
        own = render_daemon(status, is_worker_read=page is not None)
        return own + generate_latest(self._gateway) + worker_part(page or "").encode()


def worker_part(page: str) -> str:
    """Return a worker's page without what is not the engine's own."""
    lines = []
    for line in page.splitlines():
        name = line.removeprefix("# HELP ").removeprefix("# TYPE ")
        if not name.startswith(_LEFT_OUT):
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def render_daemon(status: Status, *, is_worker_read: bool) -> bytes:
    """Return the daemon's own figures for one snapshot."""
    registry = CollectorRegistry()
    _gauge(registry, "worker_scrape_up", "1 if the worker's own figures follow", is_worker_read)
    phase = Gauge("cahoots_vllm_phase", "1 for the current phase", ["phase"], registry=registry)
    for each in Phase:
        phase.labels(each).set(each == status.state)
    if status.worker is not None:
        _gauge(registry, "worker_generation", "The worker's number", status.worker.generation)
        _gauge(registry, "worker_restarts", "Restarts after a failure", status.worker.restarts)
    _gauge(registry, "requests_running", "Requests on a worker", status.requests.running)
    _gauge(registry, "requests_held", "Requests waiting for a worker", status.requests.held)
    if status.gpus:
        used = Gauge("cahoots_vllm_gpu_memory_used_bytes", "Used", ["gpu"], registry=registry)
        total = Gauge("cahoots_vllm_gpu_memory_total_bytes", "Total", ["gpu"], registry=registry)
        for gpu in status.gpus:
            used.labels(str(gpu.index)).set(gpu.memory_used)
            total.labels(str(gpu.index)).set(gpu.memory_total)
    return generate_latest(registry)


def _gauge(registry: CollectorRegistry, name: str, help_: str, value: float) -> None:
    Gauge(f"cahoots_vllm_{name}", help_, registry=registry).set(value)
