"""How long nobody is answered: with the daemon, and with what people write by hand, in turns.

    .venv/bin/python tests/bench/back_in_seconds.py [--rounds 5] [--models tiny demo large]

The other sides are `while true; do vllm serve ...; done` in a shell and a systemd unit with
Restart=always, asked directly. A client asks every 100 ms (asker.py). One side runs at a time,
another one first in each round. Starts find all files in the page cache, "cold" ones neither those
of the engine nor the model's. Prints Markdown; `--keep` and `--show` make one table of several
runs. A round with all parts takes 3 minutes a model on two cores, and 1.5 more with systemd.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.asker import Asker, Outage, asking  # noqa: E402 (its place is known only now)
from bench.bench_models import NAMES, evict, find_model, read_through  # noqa: E402 (as above)
from bench.interrupted import end_on_sigterm  # noqa: E402 (as above)
from bench.seconds_plot import draw  # noqa: E402 (as above)
from bench.seconds_table import Seen, keep, read, tables  # noqa: E402 (as above)
from bench.start_phases import Stamps, stamped  # noqa: E402 (as above)
from bench.ways_to_serve import (  # noqa: E402 (as above)
    DAEMON,
    DEATHS,
    LOOP,
    SYSTEMD,
    Way,
    daemon,
    shell_loop,
    systemd_is_missing,
    systemd_unit,
)
from engine.cpu_group import cpu_group  # noqa: E402 (as above)
from engine.harness import Daemon, wait_for  # noqa: E402 (as above)

PARTS = ("cold", "kills", "swap")
_WARM_S = 240.0


@dataclass
class Bench:
    """What is asked for, and what was seen so far."""

    asked: argparse.Namespace
    seen: list[Seen] = field(default_factory=list)

    def round(self, kind: str, number: int) -> None:
        """Measure one model on every side."""
        sides = [*self.asked.rivals, DAEMON]
        first = number % len(sides)
        for side in sides[first:] + sides[:first]:
            if "cold" in self.asked.parts:
                self._start(kind, side, number, is_cold=True)
            self._start(kind, side, number, is_cold=False)

    def _start(self, kind: str, side: str, number: int, *, is_cold: bool) -> None:
        model = find_model(kind, self.asked.engine)
        if is_cold:
            evict(model)
            evict(self.asked.engine)
        else:
            read_through(model)
        what = "start, cold" if is_cold else "start"
        with (
            tempfile.TemporaryDirectory(prefix="cahoots-") as place,
            self._way(side, kind, Path(place)) as way,
            asking(way.port) as asker,
        ):
            seconds = asker.wait(way.begun).seconds
            self._note(Seen(kind, what, side, number, seconds))
            if not is_cold:
                self._change(way, asker, kind, side, number)

    def _way(self, side: str, kind: str, place: Path) -> AbstractContextManager[Way]:
        model = find_model(kind, self.asked.engine)
        if side == LOOP:
            return shell_loop(self.asked.engine, model, place)
        if side == SYSTEMD:
            return systemd_unit(self.asked.engine, model, place)
        other = find_model(_other(kind), self.asked.engine)
        return daemon(self.asked.engine, {model.name: model, other.name: other}, place)

    def _change(self, way: Way, asker: Asker, kind: str, side: str, number: int) -> None:
        """Kill each process in turn, then swap."""
        for death in self._deaths(number):
            seconds = Seen(kind, f"SIGKILL of {death}", side, number, 0.0)
            self._note(kill(way, asker, death, seconds))
        if way.daemon is not None and "swap" in self.asked.parts:
            seconds = Seen(kind, "swap-model", side, number, 0.0)
            self._note(swap(way, way.daemon, asker, NAMES[_other(kind)], seconds))

    def _deaths(self, number: int) -> list[str]:
        if "kills" not in self.asked.parts:
            return []
        deaths: list[str] = self.asked.kill
        return [deaths[number % len(deaths)]] if self.asked.one_death else deaths

    def _note(self, one: Seen) -> None:
        self.seen.append(one)
        if self.asked.keep:
            keep(self.asked.keep, one)
        sys.stderr.write(f"  {one.model}, round {one.number + 1}: {one.what}, {one.side}: ")
        sys.stderr.write(f"{one.seconds:.2f} s\n")


def kill(way: Way, asker: Asker, death: str, about: Seen) -> Seen:
    """Return what became of a SIGKILL, with no request under way."""
    if way.daemon is not None:
        get_ready(way.daemon)
    victim = way.victim(death)
    with stamped(way.log, way.phases, way.log.stat().st_size) as stamps:
        with asker.no_request():
            begun = time.monotonic()
            os.kill(victim, signal.SIGKILL)
        outage = asker.wait(begun)
    return _seen(about, outage, begun, stamps)


def swap(way: Way, one: Daemon, asker: Asker, model: str, about: Seen) -> Seen:
    """Return what became of a swap."""
    get_ready(one)
    with stamped(way.log, way.phases, way.log.stat().st_size) as stamps:
        begun = time.monotonic()
        done = one.ctl("swap-model", model)
        if done.returncode != 0:
            sys.exit(f"the swap failed: {done.stdout}{done.stderr}")
        outage = asker.wait(begun, model)
    return _seen(about, outage, begun, stamps)


def get_ready(one: Daemon) -> None:
    """Wait for a standby; forget earlier deaths: they are days apart, and the second one waits."""
    if not wait_for(lambda: (one.status().get("standby") or {}).get("state") == "warm", _WARM_S):
        sys.exit(f"no standby got warm: {one.status().get('standby')}")
    one.ctl("start")


def _seen(about: Seen, outage: Outage, begun: float, stamps: Stamps) -> Seen:
    phases = {phase: at - begun for phase, at in stamps.at.items()}
    return replace(
        about, seconds=outage.seconds, downtime_s=outage.downtime_s, failed=outage.failed,
        phases=phases,
    )  # fmt: skip


def _other(kind: str) -> str:
    return "demo" if kind == "tiny" else "tiny"


def main() -> None:
    """Measure all sides in turns and print the tables."""
    asked = read_arguments()
    end_on_sigterm()
    if asked.show:
        seen = read(asked.show)
    else:
        bench = Bench(asked)
        read_through(asked.engine)  # else the first start alone would be a cold one
        for number in range(asked.rounds):
            for kind in asked.models:
                bench.round(kind, number)
        seen = bench.seen
    sys.stdout.write(tables(seen))
    if asked.svg:
        asked.svg.write_text(draw(seen))


def read_arguments() -> argparse.Namespace:
    """Return what is asked for; a systemd that cannot be had is said and left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", type=Path, default=ROOT / ".engine")
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=["tiny", "demo"])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=["kills", "swap"],
                        help="besides a start with all files in the page cache")  # fmt: skip
    parser.add_argument("--kill", nargs="+", choices=list(DEATHS), default=list(DEATHS))
    parser.add_argument("--one-death", action="store_true",
                        help="one of them in each round, another one in the next")  # fmt: skip
    parser.add_argument("--rivals", nargs="*", choices=(LOOP, SYSTEMD), default=[LOOP])
    parser.add_argument("--keep", type=Path, help="add what is seen to this file of JSON lines")
    parser.add_argument("--show", type=Path, nargs="+", help="measure nothing: show such files")
    parser.add_argument("--svg", type=Path, help="draw it")
    asked = parser.parse_args()
    missing = systemd_is_missing() if SYSTEMD in asked.rivals and not asked.show else None
    if missing:
        sys.stderr.write(f"  systemd is left out: {missing}\n")
        asked.rivals.remove(SYSTEMD)
    return asked


if __name__ == "__main__":
    with cpu_group():
        main()
