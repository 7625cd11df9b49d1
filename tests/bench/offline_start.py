"""The real engine started from the cache, with the hub online and with the hub down, in pairs.

    .venv/bin/python tests/bench/offline_start.py [--pairs 3]

The model is pulled once from a hub on loopback; every start after that is timed from the request
to the first ready. Prints a table, and each start as it is over. On two cores the pull and the
first two starts take a minute and a half, each pair another one.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.interrupted import end_on_sigterm  # noqa: E402 (its place is known only now)
from engine.daemon import free_port, started  # noqa: E402 (as above)
from engine.harness import DEMO, Daemon  # noqa: E402 (as above)
from fake_hub import FakeHub, Repo, running_hub  # noqa: E402 (as above)

_NAME = f"demo/{DEMO}"
# The pull, and a first start that knows nothing of the model yet, on a busy host.
_FIRST_S = 400.0
_PROFILE = f"""name = "{_NAME}"
[options]
enforce-eager = true
max-model-len = 2048
kv-cache-memory-bytes = "256M"
"""


def prepare(home: Path, hub: FakeHub) -> tuple[dict[str, str], int]:
    """Write a home's files; return environment and port."""
    port = free_port()
    (home / ".env").write_text(
        f"LLM_PROVIDER=local\nLOCAL_LLM_URL=http://localhost:{port}/v1\n"
        f"LOCAL_LLM_MODEL={_NAME}\nHF_ENDPOINT={hub.endpoint}\n"
    )
    profiles = home / "config" / "cahoots-vllm" / "models.d"
    profiles.mkdir(parents=True)
    (profiles / "demo.toml").write_text(_PROFILE)
    # A standby is warm or not when a start comes: another difference than the hub's.
    (profiles.parent / "cahoots-vllm.toml").write_text('standby = "off"\n')
    (home / "run").mkdir()
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
    kinds = ("CONFIG", "STATE", "CACHE")
    return env | {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in kinds}, port


def first_start(daemon: Daemon) -> None:
    """Wait until the model is pulled and ready; say how far it is, and stop where it failed."""
    begun, told = time.monotonic(), ""
    while told != "ready":
        if time.monotonic() - begun > _FIRST_S:
            sys.exit(f"not ready in {_FIRST_S:.0f} s: {daemon.log.read_text()[-3000:]}")
        time.sleep(0.2)
        state = str(daemon.status().get("state", "not listening yet"))
        if state == "failed" or daemon.process.poll() is not None:
            sys.exit(f"the first start failed: {daemon.log.read_text()[-3000:]}")
        if state != told:
            sys.stderr.write(f"  first start, {time.monotonic() - begun:.1f} s: {state}\n")
            told = state


def time_restart(daemon: Daemon, what: str) -> float:
    """Return the seconds of one restart until ready."""
    begun = time.monotonic()
    done = daemon.ctl("restart", "--json")
    if done.returncode != 0:
        message = f"the restart failed: {done.stdout} {done.stderr}"
        raise RuntimeError(message)
    seconds = time.monotonic() - begun
    sys.stderr.write(f"  {what}: {seconds:.1f} s\n")
    return seconds


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of each start; every second pair begins with the hub down."""
    files = {p.name: p.read_bytes() for p in arguments.model.iterdir() if p.is_file()}
    found: dict[str, list[float]] = {"online": [], "down": []}
    with running_hub() as hub, tempfile.TemporaryDirectory(prefix="cahoots-") as place:
        hub.repos[_NAME] = Repo(files)
        env, port = prepare(Path(place), hub)
        with started(Path(place), env, arguments.engine, port) as daemon:
            first_start(daemon)
            time_restart(daemon, "warm-up")
            asked = len(hub.seen)
            for pair in range(arguments.pairs):
                order = ("online", "down") if pair % 2 == 0 else ("down", "online")
                for what in order:
                    # Down: every connection is closed without an answer.
                    hub.is_down = what == "down"
                    found[what].append(time_restart(daemon, what))
            status = json.loads(daemon.ctl("status", "--json").stdout)
            sys.stderr.write(f"  serving {status['model']['serving']}\n")
            sys.stdout.write(f"questions to the hub in all these starts: {len(hub.seen) - asked}\n")
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--engine", type=Path, default=ROOT / ".engine")
    cache = Path.home() / ".cache" / "cahoots-vllm" / "models"
    parser.add_argument("--model", type=Path, default=cache / DEMO)
    end_on_sigterm()
    found = measure(parser.parse_args())
    sys.stdout.write("\n| hub | starts | median | all |\n| --- | --- | --- | --- |\n")
    for what, times in found.items():
        each = ", ".join(f"{seconds:.1f}" for seconds in times)
        median = statistics.median(times)
        sys.stdout.write(f"| {what} | {len(times)} | {median:.1f} s | {each} |\n")
    ratio = statistics.median(found["down"]) / statistics.median(found["online"])
    sys.stdout.write(f"\nDown against online: {ratio - 1:+.1%}\n")


if __name__ == "__main__":
    main()
