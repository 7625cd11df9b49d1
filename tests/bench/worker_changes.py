"""What clients notice when the worker changes: the real engine under load, each change N times.

    .venv/bin/python tests/bench/worker_changes.py [--times 5] [--clients 4]

Prints a table: requests of the real `openai` client (its retries off) that failed, streams that a
death broke off after they had begun, and the longest that a request took. About 40 s a change on
two cores.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from engine.changes import CHANGES  # noqa: E402 (its place is known only now)
from engine.daemon import make_tiny, running_daemon  # noqa: E402 (as above)
from engine.harness import DEMO, TINY, Daemon, wait_for  # noqa: E402 (as above)
from engine.load import Load, load  # noqa: E402 (as above)

_HEAD = "| change | times | requests | failed | streams | failed | broken off | longest |"


def measure(daemon: Daemon, name: str, clients: int) -> Load:
    """Do one change under load."""
    daemon.wait_ready()
    with load(daemon, clients=clients) as asked:
        go_on(asked, clients)
        begun = time.monotonic()
        CHANGES[name](daemon)
        note(f"{name}: {time.monotonic() - begun:.1f} s")
        go_on(asked, clients)
    return asked


def go_on(asked: Load, clients: int) -> None:
    """Wait until every client has got a few answers more."""
    count = len(asked.outcomes)
    if not wait_for(lambda: len(asked.outcomes) > count + 3 * clients, 180):
        note("no answers for 180 s")


def note(text: str) -> None:
    """Say how far it is."""
    sys.stderr.write(f"  {text}\n")


def row(name: str, times: int, asked: Load) -> str:
    """Return one line of the table."""
    failed = asked.failed
    streams = sum(one.is_stream for one in failed)
    return (
        f"| {name} | {times} | {asked.count(is_stream=False)} | {len(failed) - streams} "
        f"| {asked.count(is_stream=True)} | {streams} | {len(asked.broken_off)} "
        f"| {asked.longest_s:.1f} s |"
    )


def main() -> None:
    """Measure every change and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--engine", type=Path, default=ROOT / ".engine")
    parser.add_argument("--only", nargs="*", choices=list(CHANGES), default=list(CHANGES))
    cache = Path.home() / ".cache" / "cahoots-vllm" / "models"
    parser.add_argument("--model", type=Path, default=cache / DEMO)
    arguments = parser.parse_args()
    found = {name: Load() for name in arguments.only}
    with tempfile.TemporaryDirectory(prefix="cahoots-") as place:
        home, runtime, tiny = Path(place, "home"), Path(place, "run"), Path(place, TINY)
        for directory in (home, runtime):
            directory.mkdir()
        make_tiny(arguments.engine, tiny)
        models = {DEMO: arguments.model, TINY: tiny}
        with running_daemon(home, runtime, arguments.engine, models) as daemon:
            # In turns: five deaths in ten minutes are given up, unless a person did something.
            for _ in range(arguments.times):
                for name in arguments.only:
                    asked = measure(daemon, name, arguments.clients)
                    found[name].outcomes += asked.outcomes
                    for one in asked.failed:
                        note(str(one))
    rows = [row(name, arguments.times, found[name]) for name in arguments.only]
    sys.stdout.write("\n".join((_HEAD, "|---" * 8 + "|", *rows, "")))


if __name__ == "__main__":
    main()
