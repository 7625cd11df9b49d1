"""packaging/test: sets up what each tier of tests needs, runs it, and sums up."""

import argparse
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import daemon_env, demo, engines, system_tier, venvs
from .console import SetupError, complain, say

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAMS = CHECKOUT / ".venv" / "bin"
EXTRAS = frozenset({"test", "clients"})
SOURCES = ("daemon", "tests", "packaging")
LINTS = (
    ("ruff", "check", *SOURCES),
    ("ruff", "format", "--check", *SOURCES),
    ("mypy", "--strict", *SOURCES),
    ("lint-imports",),
)
# Their tests print times and sizes, which are for people to see; so is what takes long in them.
WITH_FIGURES = ("engine", "system")
SKIPPED = re.compile(r"^SKIPPED \[(\d+)\] (.*)$")
# A module of integration stays together: some have one daemon for all their tests. Three at a
# time: they wait more than they compute.
PARALLEL = {
    "unit": ("--numprocesses=2",),
    "integration": ("--numprocesses=3", "--dist=loadscope"),
}
# As in "=== 3 passed, 1 skipped in 0.12s ===".
CLOSING = re.compile(r"^=+ (.*\d+ (?:passed|failed|skipped|error|deselected).* in .*) =+$")
COUNTED = re.compile(r"(\d+) (passed|failed|skipped|errors?)")


@dataclass(slots=True)
class Outcome:
    """How a tier went: its closing line, and what could not run, with reasons."""

    tier: str
    passed: bool
    closing: str
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0


def main(arguments: Sequence[str]) -> int:
    """Run the tiers asked for; 0 when all passed and, under CI, nothing was left out."""
    tiers: dict[str, Callable[[], Outcome]] = {
        "lint": _lint,
        "unit": lambda: _pytest("unit"),
        "integration": lambda: _pytest("integration"),
        "engine": _engine,
        "system": _system,
    }
    parser = argparse.ArgumentParser(
        prog="packaging/test",
        description="Sets up what the tests need, in this checkout, and runs them.",
    )
    parser.add_argument(
        "--tier",
        action="append",
        choices=tuple(tiers),
        help="run this tier only; may be given several times (default: all)",
    )
    wanted = parser.parse_args(arguments).tier or tuple(tiers)
    say("setting up .venv with the tests' tools")
    with venvs.exclusive(CHECKOUT):
        daemon_env.ensure(CHECKOUT, EXTRAS)
    outcomes = []
    for tier, run in tiers.items():
        if tier in wanted:
            say(f"\n======== {tier}")
            started = time.monotonic()
            outcome = run()
            outcome.seconds = time.monotonic() - started
            outcomes.append(outcome)
    return _sum_up(outcomes)


def _lint() -> Outcome:
    failed = []
    for command in LINTS:
        say(f"$ {' '.join(command)}")
        program = str(PROGRAMS / command[0])
        if subprocess.run([program, *command[1:]], cwd=CHECKOUT, check=False).returncode != 0:
            failed.append(" ".join(command))
    return Outcome("lint", not failed, f"failed: {', '.join(failed)}" if failed else "clean")


def _engine() -> Outcome:
    """Run the tests on a real engine and the demo model: the caller's, or this checkout's."""
    given = os.environ.get("CAHOOTS_TEST_ENGINE")
    try:
        engine = engines.choose(given or "auto", CHECKOUT)
        with venvs.exclusive(CHECKOUT):
            if engine.kind != "own":
                say(f"setting up {engine.directory}")
                engines.ensure(engine)
            model = os.environ.get("CAHOOTS_TEST_MODEL")
            if model is None:
                say("setting up the demo model")
                demo.ensure(engine)
                model = str(demo.directory())
    except SetupError as error:
        complain(error)
        return Outcome("engine", passed=False, closing="not run", skipped=[error.message])
    places = {"CAHOOTS_TEST_ENGINE": str(engine.directory), "CAHOOTS_TEST_MODEL": model}
    return _pytest("engine", places)


def _system() -> Outcome:
    """Run the built package under real systemd, in containers."""
    reason = system_tier.why_not()
    if reason is not None:
        return Outcome("system", passed=True, closing="not run", skipped=[reason])
    try:
        with venvs.exclusive(CHECKOUT):
            places = system_tier.prepare(CHECKOUT)
    except SetupError as error:
        complain(error)
        return Outcome("system", passed=False, closing="not run", skipped=[error.message])
    return _pytest("system", places)


def _pytest(tier: str, places: dict[str, str] | None = None) -> Outcome:
    """Run one directory of tests, showing its output, and read its closing lines."""
    command = [str(PROGRAMS / "python"), "-m", "pytest", "-ra", f"tests/{tier}"]
    command += PARALLEL.get(tier, ())
    if tier in WITH_FIGURES:
        command += ["--capture=no", "--durations=10", "--durations-min=5"]
    # Wide: pytest cuts the reasons of skipped tests to the width of the terminal.
    environment = {**os.environ, **(places or {}), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    outcome = Outcome(tier, passed=False, closing="pytest did not come to its end")
    with subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            say(line.rstrip("\n"))
            if found := SKIPPED.match(line):
                outcome.skipped.append(f"{found[2]} ({found[1]}x)")
            elif found := CLOSING.match(line):
                outcome.closing = found[1]
    # 5: no test was collected, which is no success.
    outcome.passed = process.returncode == 0
    return outcome


def _sum_up(outcomes: Sequence[Outcome]) -> int:
    """Print the table, what could not run, and the plain count; return the exit status."""
    say("\n======== summary")
    for outcome in outcomes:
        word = "passed" if outcome.passed else "FAILED"
        say(f"{outcome.tier:12} {word:7} {outcome.seconds:6.0f} s   {outcome.closing}")
    left_out = [f"{outcome.tier}: {reason}" for outcome in outcomes for reason in outcome.skipped]
    if left_out:
        say("could not run on this machine:")
        for reason in left_out:
            say(f"  {reason}")
    strict = os.environ.get("CI") == "true"
    if left_out and strict:
        say("which is a failure, since CI=true")
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for outcome in outcomes:
        for count, word in COUNTED.findall(outcome.closing):
            counts["failed" if word.startswith("error") else word] += int(count)
    # Lint has no tests to count; when it fails, the count must not read like success.
    counts["failed"] += sum(not outcome.passed and outcome.tier == "lint" for outcome in outcomes)
    say("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return int(any(not outcome.passed for outcome in outcomes) or bool(left_out and strict))
