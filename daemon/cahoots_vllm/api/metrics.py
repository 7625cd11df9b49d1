"""The daemon's own figures in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from cahoots_vllm.control.status import Status
from cahoots_vllm.core.wire import Phase


def render_metrics(status: Status) -> bytes:
    """Return the metrics page for one snapshot."""
    registry = CollectorRegistry()
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
