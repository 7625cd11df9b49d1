"""The parts of a bench, in order; what has been measured is kept when it is broken off."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from cahoots_vllm.core.bench.figures import Load, RouteFigures, Sample
from cahoots_vllm.core.bench.statistics import prefill_figures, prefix_figures, run_figures
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.ctl.bench_load import Outcome, Prompt, Route, send
from cahoots_vllm.ctl.bench_prompts import PromptMaker

_WARM_UP_TOKENS: Final = 16
LONG_PROMPTS: Final = 3
_MOST_SINGLE: Final = 10
Say = Callable[[str], None]


def single_requests(load: Load) -> int:
    """Return how many requests are sent one after the other."""
    return min(max(3, load.requests // load.concurrency), _MOST_SINGLE)


@dataclass(slots=True)
class Session:
    """One bench of one model."""

    model: str
    load: Load
    maker: PromptMaker
    say: Say
    figures: dict[str, RouteFigures] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    # The part that is being measured.
    doing: str = ""

    def run(self, route: Route) -> None:
        """Measure one way. Raises CahootsError when the engine answers nothing."""
        self.figures[route.name] = RouteFigures()
        for figures in self._parts(route, RouteFigures()):
            self.figures[route.name] = figures

    def _parts(self, route: Route, so_far: RouteFigures) -> Iterator[RouteFigures]:
        load = self.load
        tokens = min(_WARM_UP_TOKENS, load.output_tokens)
        self._send(route, "warming up", (load.concurrency, load.input_tokens, tokens))
        one = self._send(route, "1 stream", (single_requests(load), *self._lengths), 1)
        so_far = replace(so_far, single=run_figures(one.samples, 1, one.duration_s))
        yield so_far
        what = f"{load.concurrency} streams"
        many = self._send(route, what, (load.requests, *self._lengths))
        figures = run_figures(many.samples, load.concurrency, many.duration_s)
        so_far = replace(so_far, many=figures)
        yield so_far
        first, again = self._long(route)
        cache = prefix_figures(first, again)
        yield replace(so_far, prefill=prefill_figures(first), prefix_cache=cache)

    @property
    def _lengths(self) -> tuple[int, int]:
        return self.load.input_tokens, self.load.output_tokens

    def _long(self, route: Route) -> tuple[list[Sample], list[Sample]]:
        """Send each long prompt twice, one request at a time."""
        prompts = self.maker.make(LONG_PROMPTS, self.load.prefill_tokens, 1)
        first, again = list[Sample](), list[Sample]()
        for prompt in prompts:
            first += self._exchange(route, "long prompts", [prompt], 1).samples
            again += self._exchange(route, "long prompts", [prompt], 1).samples
        return first, again

    def _send(
        self, route: Route, what: str, shape: tuple[int, int, int], concurrency: int | None = None
    ) -> Outcome:
        self.doing = f"{route.name}: {what}"
        self.say(f"{self.doing}, making prompts")
        prompts = self.maker.make(*shape)
        return self._exchange(route, what, prompts, concurrency or self.load.concurrency)

    def _exchange(
        self, route: Route, what: str, prompts: list[Prompt], concurrency: int
    ) -> Outcome:
        self.doing = f"{route.name}: {what}"
        outcome, total, shown_at = Outcome(), len(prompts), 0.0

        def show() -> None:
            nonlocal shown_at
            # A terminal that is written to for each answer would cost what is measured.
            if time.monotonic() - shown_at > 1:
                shown_at = time.monotonic()
                done = len(outcome.samples) + len(outcome.failures)
                self.say(f"{self.doing}, {done} of {total} answers")

        self.say(self.doing)
        try:
            asyncio.run(
                send(route, self.model, prompts, concurrency, outcome=outcome, on_answer=show)
            )
        except OSError as error:
            outcome.failures.append(str(error))
        self.failures += outcome.failures
        if not outcome.samples:
            raise CahootsError(
                Kind.WORKER_LOST,
                f"cannot measure {self.doing}: {outcome.failures[0]}",
                "`cahootsctl status` says how the worker is doing",
            )
        return outcome
