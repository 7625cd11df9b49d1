"""How soon the daemon reacts to a saved `.env`: from the save to the reload event.

    python tests/bench/env_watch.py [--saves 30]

Starts a daemon of its own on the stand-in engine and saves its `.env` again and again, in each of
the ways in which it is saved. The event stream is open before, so that the measurement adds
nothing. The time includes the wait for the file to lie still. Prints a Markdown table; nothing
fails here.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "daemon"), str(ROOT / "tests")]

from cahoots_vllm.host.children import become_subreaper  # noqa: E402 (needs the path above)
from integration.event_stream import event_stream  # noqa: E402 (as above)
from integration.harness import Daemon  # noqa: E402 (as above)

_AIM = "< 300 ms median"


def by_writing(path: Path, text: str) -> None:
    """Save as shells and nano do."""
    path.write_text(text)


def by_renaming(path: Path, text: str) -> None:
    """Save as vim, sed and most editors do."""
    new = path.with_name(".env.new")
    new.write_text(text)
    new.replace(path)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=30, help="of each kind and way")
    saves = parser.parse_args().saves
    become_subreaper()
    print_row("figure", "aim", "seen")
    print_row("---", "---", "---")
    for save, how in ((by_writing, "in place"), (by_renaming, "by rename")):
        for what, key in (("a comment", "#"), ("the token", "HUGGINGFACE_API_KEY")):
            times = sorted(measure(save, key, saves))
            seen = f"{statistics.median(times):.0f} ms ({times[0]:.0f} to {times[-1]:.0f}"
            print_row(f"save of {what}, {how}, to event", _AIM, f"{seen}, {len(times)} saves)")
    return 0


def print_row(*cells: str) -> None:
    """Print at once: a table takes a minute."""
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


def measure(save: Callable[[Path, str], None], key: str, saves: int) -> list[float]:
    """Return the milliseconds from each save to its event; the worker is ready throughout."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as root,
        tempfile.TemporaryDirectory(prefix="bench-") as runtime,
    ):
        daemon = Daemon(Path(root), Path(runtime))
        try:
            daemon.start_ready()
            env = daemon.root / ".env"
            return time_saves(
                daemon, lambda turn: save(env, f"{text(daemon)}{key}=v{turn}\n"), saves
            )
        finally:
            daemon.finish()


def text(daemon: Daemon) -> str:
    """Return what stands in the daemon's `.env`."""
    return "".join(f"{key}={value}\n" for key, value in daemon.env_values.items())


def time_saves(daemon: Daemon, save: Callable[[int], None], saves: int) -> list[float]:
    """Save at times that keep no step with the daemon's own ticks."""
    took = []
    with event_stream(daemon.socket) as events:
        for turn in range(saves):
            time.sleep(random.uniform(0.3, 0.8))  # noqa: S311 (no secret)
            began = time.perf_counter()
            save(turn)
            events.next("reload")
            took.append((time.perf_counter() - began) * 1000)
    return took


if __name__ == "__main__":
    sys.exit(main())
