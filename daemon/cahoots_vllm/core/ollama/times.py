"""How long an answer took, in Ollama's terms."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one clock; `loaded_s`: how long the request waited for a worker.

    `first_at`: when the first token came, None where only the whole answer could be seen.
    """

    asked_at: float
    loaded_s: float
    first_at: float | None
    ended_at: float

    def view(self) -> dict[str, object]:
        """Return the durations in nanoseconds; those that are not known are missing."""
        begun_at = self.asked_at + self.loaded_s
        first_at = begun_at if self.first_at is None else self.first_at
        durations = {
            "total_duration": self.ended_at - self.asked_at,
            "load_duration": self.loaded_s,
            "prompt_eval_duration": first_at - begun_at,
            "eval_duration": self.ended_at - first_at,
        }
        if self.first_at is None:
            del durations["prompt_eval_duration"]
        return {name: max(0, round(s * _NANOSECONDS)) for name, s in durations.items()}


def rfc3339(at: datetime) -> str:
    """Return a time in UTC as Go's JSON writes it; Ollama's clients parse it."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
