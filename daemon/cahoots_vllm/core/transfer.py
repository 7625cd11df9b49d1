"""How fast a download goes and how long it will take. Pure: the caller tells the time."""

from collections import deque

from cahoots_vllm.core.amounts import size_text

_WINDOW_S = 30.0


class Transfer:
    """The last half minute of a download."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Note that so many bytes are there at a time, in seconds of a monotonic clock."""
        self._samples.append((now, done))
        while self._samples[0][0] < now - _WINDOW_S:
            self._samples.popleft()

    @property
    def bytes_per_s(self) -> float | None:
        """The rate; None while it is not known."""
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else None

    def text(self, total: int) -> str:
        """Say it: `12 % of 18.0 GiB, 52.0 MiB/s, 5 min left`."""
        done = self._samples[-1][1]
        share = f"{done / total:.0%}" if total else "0%"
        rate = self.bytes_per_s
        if not rate or rate < 1:
            return f"{share} of {size_text(total)}"
        left_s = max(0, total - done) / rate
        return f"{share} of {size_text(total)}, {size_text(rate)}/s, {_duration(left_s)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:  # noqa: PLR2004 (as people say it)
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004 (as above)
