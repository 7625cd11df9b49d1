"""Figures of the requests that clients made, for Prometheus.

Labels are of few values: routes have no identifiers in them, models are those that were served.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from cahoots_vllm.gateway.record import GAP_BOUNDS_S, End, Gaps, Record

_PREFIX: Final = "cahoots_vllm_gateway_"
# vllm/v1/metrics/loggers.py: the engine's own for the time to the first token.
_FIRST_BOUNDS_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
_HELD_BOUNDS_S: Final = (0.1, 1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class _GapCollector(Collector):
    """The histogram of gaps, which come counted."""

    def __init__(self) -> None:
        self.gaps = Gaps()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [*map(str, GAP_BOUNDS_S), "+Inf"]
        total, buckets = 0, []
        for bound, count in zip(bounds, self.gaps.counts, strict=True):
            total += count
            buckets.append((bound, total))
        yield HistogramMetricFamily(
            f"{_PREFIX}inter_token_seconds",
            "Time between two events of a stream; those that came together share theirs",
            buckets=buckets,
            sum_value=self.gaps.sum_s,
        )


class GatewayMetrics:
    """Counts each request once it is over."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.registry = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Requests by what was answered; 0: the client left before",
            "route", "model", "status",
        )  # fmt: skip
        self._ends = self._counter(
            "request_ends", "How requests ended: answered, refused, broken, left", "end"
        )
        self._replayed = self._counter("replayed", "Requests sent again after a worker was lost")
        self._suspects = self._counter("suspects", "Requests in flight in two deaths of a worker")
        self._tokens_in = self._counter("prompt_tokens", "Tokens in, as answers said", "model")
        self._tokens_out = self._counter("generation_tokens", "Tokens out, the same", "model")
        self._held = Histogram(
            f"{_PREFIX}held_seconds", "How long requests waited for a worker, those that did",
            buckets=_HELD_BOUNDS_S, registry=self.registry,
        )  # fmt: skip
        self._first = Histogram(
            f"{_PREFIX}time_to_first_token_seconds",
            "From a request's head to the first event of its stream, waiting for a worker included",
            buckets=_FIRST_BOUNDS_S, registry=self.registry,
        )  # fmt: skip
        self._gaps = _GapCollector()
        self.registry.register(self._gaps)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", help_, labels, registry=self.registry)

    def count(self, record: Record) -> None:
        """Count a request that is over."""
        model = record.model or ""
        self._requests.labels(record.route, model, record.status).inc()
        self._ends.labels(record.end).inc()
        if record.held_s:
            self._held.observe(record.held_s)
        if record.deliveries > 1:
            self._replayed.inc()
        if record.is_suspect:
            self._suspects.inc()
        if record.usage is not None:
            self._tokens_in.labels(model).inc(record.usage.prompt_tokens)
            self._tokens_out.labels(model).inc(record.usage.completion_tokens)
        if record.events and record.first_byte_at is not None and record.end is not End.REFUSED:
            self._first.observe(record.first_byte_at - record.begun_at)
        if record.gaps is not None:
            self._gaps.gaps.add(record.gaps)
