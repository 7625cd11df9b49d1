"""What swaps and crashes leave behind: so many of each, the daemon looked at before and after.

    .venv/bin/python tests/bench/leaks.py [--times 50] [--engine .engine --model DIR]

On the stand-in engine, or the real one with `--engine`. In turns: five deaths within ten minutes
are given up, unless a person did something meanwhile. Each start is a standby's, and the next is
waited for (`--hasty`: it is not). Run as root, the daemon has a cgroup as under systemd.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from engine.changes import kill_api_server, kill_engine_core, kill_worker, swap  # noqa: E402 (its place is known only now)
from engine.daemon import make_tiny, running_daemon  # noqa: E402 (as above)
from engine.harness import DEMO, TINY, Daemon, wait_for  # noqa: E402 (as above)
from fake_vllm.engine_dir import WEIGHTS, add_standby, make_engine  # noqa: E402 (as above)
from integration.held import Held, delegated_cgroup, held  # noqa: E402 (as above)

_CRASHES = (kill_engine_core, kill_worker, kill_api_server)
_SETTLES_WITHIN_S = 60.0
_LOOK_EVERY = 10


@dataclass
class Watched:
    """The daemon, and where to look for what it holds."""

    daemon: Daemon
    runtime: Path
    cgroup: Path | None
    is_hasty: bool

    def look(self) -> Held:
        """Return what it holds now."""
        return held(self.daemon.process.pid, self.runtime, self.cgroup)

    def settled(self, before: Held) -> Held:
        """Return what it holds once that is no more than before, or after a while."""
        wait_for(lambda: not self.look().beyond(before), _SETTLES_WITHIN_S)
        return self.look()

    def change(self, how: Callable[[Daemon], None]) -> None:
        """Change the worker; return when the next standby is warm."""
        how(self.daemon)
        if not self.is_hasty:
            self.wait_warm()

    def wait_warm(self) -> None:
        """Return when a standby is warm."""
        if not wait_for(lambda: self.daemon.status()["standby"]["state"] == "warm", 240):
            sys.exit(f"no standby: {self.daemon.status()['standby']}")


def fake_models(place: Path) -> dict[str, Path]:
    """Make two directories that look like models."""
    models = {name: place / name for name in (DEMO, TINY)}
    for directory in models.values():
        directory.mkdir()
        (directory / "config.json").write_text('{"max_position_embeddings": 2048}')
        (directory / "model.safetensors").write_bytes(WEIGHTS)
    return models


def run(watched: Watched, times: int, warm_up: int, end: float) -> None:
    """Change it, and print what it held; `end` is when no more is begun (time.monotonic)."""
    watched.daemon.wait_ready()
    watched.wait_warm()
    tell("at the start", watched.look())
    for number in range(warm_up):
        one_round(watched, number)
    before = tell(f"after {warm_up} of each to warm up", watched.look())
    done = 0
    while done < times and time.monotonic() < end:
        one_round(watched, warm_up + done)
        done += 1
        if done % _LOOK_EVERY == 0:
            tell(f"after {done}", watched.look())
    watched.wait_warm()
    after = tell(f"after {done} swaps and {done} crashes", watched.settled(before))
    resident, anonymous = after.grown_mib(before)
    sys.stdout.write(
        f"\nleft behind: {after.beyond(before) or 'nothing'}; "
        f"RSS {resident:+.1f} MiB, anonymous {anonymous:+.1f} MiB\n"
    )


def tell(when: str, seen: Held) -> Held:
    """Print one line of the table."""
    sys.stdout.write(f"| {when} | {seen} |\n")
    sys.stdout.flush()
    return seen


def one_round(watched: Watched, number: int) -> None:
    """Swap once, crash once."""
    begun = time.monotonic()
    watched.change(swap)
    watched.change(_CRASHES[number % len(_CRASHES)])
    sys.stderr.write(f"  {number + 1}: {time.monotonic() - begun:.1f} s\n")


def main() -> None:
    """Take the options, and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60, help="begin no round after that")
    parser.add_argument("--hasty", action="store_true")
    parser.add_argument("--engine", type=Path, help="the real one; without, the stand-in")
    cache = Path.home() / ".cache" / "cahoots-vllm" / "models"
    parser.add_argument("--model", type=Path, default=cache / DEMO)
    asked = parser.parse_args()
    end = time.monotonic() + asked.minutes * 60
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cahoots-")))
        home, runtime = place / "home", place / "run"
        home.mkdir()
        runtime.mkdir()
        if asked.engine is None:
            engine, models = make_engine(place / "engine"), fake_models(place)
            add_standby(engine)
            os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        else:
            engine, models = asked.engine, {DEMO: asked.model, TINY: place / TINY}
            make_tiny(engine, models[TINY])
        cgroup = stack.enter_context(delegated_cgroup())
        daemon = stack.enter_context(running_daemon(home, runtime, engine, models))
        watched = Watched(daemon, runtime / "cahoots-vllm", cgroup, asked.hasty)
        run(watched, asked.times, asked.warm_up, end)


if __name__ == "__main__":
    main()
