"""On what terms requests are taken: who is refused and why, and who waits for another model.

Plain values: control.refusal makes them, control.rotation keeps to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no request is held now: no worker will come by itself, or not before `until`.

    `until` is the loop's time.
    """

    message: str
    remedy: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for requests by the model they name.

    `names` are those that a request may wait for while another model is served; `refusals` those
    of them that it need not wait for. Any other name, or none, is the engine's business: it waits
    for whichever worker comes, unless `refusal` says that none will. `asleep`: what an unloaded
    model answers to.
    """

    refusal: Refusal | None = None
    names: frozenset[str] = frozenset()
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    asleep: tuple[str, ...] = ()

    def refusal_of(self, model: str | None, now: float) -> Refusal | None:
        """Return why a request that names this model would be held in vain."""
        if model not in self.names:
            return self.refusal
        refusal = self.refusals.get(model)
        is_over = refusal is not None and refusal.until is not None and refusal.until <= now
        return None if is_over else refusal

    def is_for(self, model: str | None, served: frozenset[str]) -> bool:
        """Whether a worker that answers to `served` is the one to ask for this model."""
        return model in served or model not in self.names
