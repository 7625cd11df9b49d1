"""The built package: put into a machine, upgraded, removed."""

import os
from pathlib import Path

import pytest

from system.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
NAME = "cahoots-vllm"
# Set by packaging/setup/tiers.py: the package, and one of the same sources with a later version.
_PLACES = {"this": "CAHOOTS_TEST_DEB", "next": "CAHOOTS_TEST_NEXT_DEB"}


def package(which: str = "this") -> Path:
    """Return the package's file."""
    given = os.environ.get(_PLACES[which])
    if given is None or not Path(given).exists():
        pytest.fail("no package to install: run packaging/test --tier system")
    return Path(given)


def install(machine: Machine, which: str = "this") -> str:
    """Install, or upgrade to it; return what was said."""
    place = f"/root/{package(which).name}"
    machine.write(place, package(which).read_bytes())
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    done = machine.run(["dpkg", "--install", place], env=env)
    return done.stdout + done.stderr


def version(machine: Machine) -> str:
    """Return the installed version."""
    return machine.say("dpkg-query", "--show", "--showformat=${Version}", NAME)
