"""What a standby saves: the plain `vllm serve` and one that was launched from a standby, in turns.

    .venv/bin/python tests/bench/warm_start.py [--rounds 5] [--times 20] [--learned]

Each round: a plain start; a standby gets warm beside it; all of the plain one is killed, and the
standby is launched at once, as after a crash, into the memory that was just freed. Beside it two
plain ones are started, and another standby is launched, into memory that nobody has used; then all
four are asked for a few tokens in turns. Prints Markdown. Four minutes a round on two cores.
"""

import argparse
import random
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "daemon"))

from bench.bench_models import NAMES, cache, find_model  # noqa: E402 (its place is known only now)
from bench.interrupted import end_on_sigterm  # noqa: E402 (as above)
from bench.start_phases import ENGINE_PHASES, stamped  # noqa: E402 (as above)
from engine.cpu_group import cpu_group  # noqa: E402 (as above)
from engine.harness import DEMO, TINY  # noqa: E402 (as above)
from engine.standby import Bay, Served, bay  # noqa: E402 (as above)

FIRST = "first token"
PLAIN, STANDBY = "plain", "standby"
# Launched at once after a kill: its pages lie about wherever the killed one's did.
FREED = "standby, in memory just freed"
# How much two of the same kind differ.
CONTROL = "another plain one"
# Requests at once, and how many tokens each is for: a machine is faster and slower by the second.
TOKENS = {1: 24, 8: 12}


@dataclass
class Seen:
    """What was seen of one kind of start."""

    phases: dict[str, list[float]] = field(default_factory=dict)
    speed: dict[int, list[float]] = field(default_factory=dict)

    @property
    def starts(self) -> list[float]:
        """The seconds from each start to its first token."""
        return self.phases[FIRST]


def watch(kind: str, one: Served, seen: Seen) -> None:
    """Time a start and its phases."""
    with stamped(one.log, ENGINE_PHASES) as stamps:
        first_token_s = one.first_token_s()
    note(f"{kind}: a token after {first_token_s:.2f} s")
    found = {phase: at - one.begun for phase, at in stamps.at.items()} | {FIRST: first_token_s}
    for phase, seconds in found.items():
        seen.phases.setdefault(phase, []).append(seconds)


def compare_speed(served: dict[str, Served], found: dict[str, Seen], times: int) -> None:
    """Ask all in turns, in another order each time; the others are stopped meanwhile.

    All workers are bound to the same cores, and an idle one goes on looking for work for a while.
    """
    kinds = list(served)
    for turn in range(times + 1):
        random.shuffle(kinds)
        for concurrency, count in TOKENS.items():
            for kind in kinds:
                with ExitStack() as others:
                    for other in served.keys() - {kind}:
                        others.enter_context(served[other].paused())
                    served[kind].tokens_a_second(1, 2)
                    speed = served[kind].tokens_a_second(concurrency, count)
                if turn > 0:  # the first requests of a process are slower
                    found[kind].speed.setdefault(concurrency, []).append(speed)
    for kind, seen in found.items():
        latest = {n: statistics.median(speed[-times:]) for n, speed in seen.speed.items()}
        note(f"{kind}: " + ", ".join(f"{v:.1f} tokens/s, {n} at once" for n, v in latest.items()))


def one_round(place: Bay, model: Path, found: dict[str, Seen], times: int) -> dict[str, object]:
    """Return what the first standby said when it was warm."""
    killed = place.plain(model)
    watch(PLAIN, killed, found[PLAIN])
    standby = place.standby(model)
    warm = standby.hear()
    killed.kill()
    served = {FREED: place.launch(standby, model)}
    watch(STANDBY, served[FREED], found[STANDBY])
    for kind in (PLAIN, CONTROL):
        served[kind] = place.plain(model)
        served[kind].first_token_s()
    standby = place.standby(model)
    standby.hear()
    served[STANDBY] = place.launch(standby, model)
    served[STANDBY].first_token_s()
    for one in served.values():
        one.settle()
    compare_speed(served, found, times)
    for one in served.values():
        one.kill()
    return warm


def table(name: str, found: dict[str, Seen], warm: dict[str, object]) -> str:
    """Return the figures of one model."""
    plain, standby = found[PLAIN], found[STANDBY]
    ratios = [a / b for a, b in zip(plain.starts, standby.starts, strict=True)]
    lines = [f"## {name}", "", "| | plain | standby | |", "| --- | --- | --- | --- |"]
    lines.append(
        f"| start to first token, s | {spread(plain.starts)} | {spread(standby.starts)} "
        f"| {statistics.median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f}) |"
    )
    for kind in (STANDBY, FREED, CONTROL):
        lines += speed_rows(kind, plain, found[kind])
    lines += ["", "| since the start, median s | plain | standby |", "| --- | --- | --- |"]
    for phase in (*ENGINE_PHASES.values(), FIRST):
        cells = [f"{statistics.median(one.phases[phase]):.2f}" for one in (plain, standby)]
        lines.append(f"| {phase} | {cells[0]} | {cells[1]} |")
    said = ", ".join(f"{key} {value}" for key, value in warm.items() if value is not None)
    return "\n".join([*lines, "", f"The last standby: {said}.", ""])


def speed_rows(name: str, plain: Seen, other: Seen) -> list[str]:
    """Return a line for each number of requests at once, with medians and quartiles."""
    lines = []
    for concurrency, of_plain in plain.speed.items():
        of_other = other.speed[concurrency]
        pairs = [b / a - 1 for a, b in zip(of_plain, of_other, strict=True)]
        low, middle, high = statistics.quantiles(pairs)
        lines.append(
            f"| tokens/s, {concurrency} at once, {name} | {statistics.median(of_plain):.1f} "
            f"| {statistics.median(of_other):.1f} "
            f"| {middle:+.1%} (quartiles {low:+.1%}, {high:+.1%}; {len(pairs)} pairs) |"
        )
    return lines


def note(text: str) -> None:
    """Say how far it is."""
    sys.stderr.write(f"  {text}\n")


def spread(values: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=20, help="how often each is asked a round")
    parser.add_argument("--engine", type=Path, default=ROOT / ".engine")
    parser.add_argument("--only", nargs="*", choices=(TINY, DEMO), default=[TINY, DEMO])
    parser.add_argument("--learned", action="store_true",
                        help="with what this user's daemons have learned and cached, "
                        "instead of a first round that is not counted")  # fmt: skip
    asked = parser.parse_args()
    end_on_sigterm()
    kinds = (PLAIN, STANDBY, FREED, CONTROL)
    for kind in (kind for kind, name in NAMES.items() if name in asked.only):
        model = find_model(kind, asked.engine)
        with tempfile.TemporaryDirectory(prefix="cahoots-") as home:
            if asked.learned:
                take_over_caches(Path(home))
            else:
                with bay(asked.engine, Path(home)) as place:
                    one_round(place, model, {kind: Seen() for kind in kinds}, 1)
            found, warm = {kind: Seen() for kind in kinds}, dict[str, object]()
            for number in range(asked.rounds):
                note(f"{model.name}, round {number + 1}")
                with bay(asked.engine, Path(home)) as place:
                    warm = one_round(place, model, found, asked.times)
        sys.stdout.write(table(model.name, found, warm) + "\n")
        sys.stdout.flush()


def take_over_caches(home: Path) -> None:
    """Begin with what the daemon's own standbys learned, and with the engine's caches."""
    own = cache() / "vllm"
    learned = max(
        own.glob("*/standby-*.modules"), key=lambda path: path.stat().st_mtime, default=None
    )
    if learned is None:
        sys.exit(f"no standby has learned anything in {own} yet: leave --learned out")
    (home / "cache").symlink_to(learned.parent)
    (home / "learned").symlink_to(learned)


if __name__ == "__main__":
    with cpu_group():
        main()
