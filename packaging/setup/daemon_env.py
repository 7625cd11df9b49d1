"""The daemon's own environment, `.venv/` in the checkout: an editable install, pinned."""

import json
import tomllib
from pathlib import Path

from . import venvs
from .console import say
from .pip import install

# setuptools for sdnotify, which is published as source only; 3.12 and later bring none.
BUILD_TOOLS = ("hatchling", "editables", "setuptools")


def requirements(checkout: Path) -> str:
    """Return the digest of what the environment is made from: pyproject's packaging part, pins."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    built_from = {"build-system": project["build-system"], "project": project["project"]}
    pins = (checkout / "packaging" / "constraints.txt").read_text()
    # The path too: a checkout that was moved has an environment that points elsewhere.
    return venvs.digest(json.dumps(built_from, sort_keys=True), pins, str(checkout))


def ensure(checkout: Path, extras: frozenset[str] = frozenset()) -> None:
    """Make `.venv/` whole, with at least these extras; those installed earlier stay."""
    environment, wanted = checkout / ".venv", requirements(checkout)
    stamped = venvs.read_stamp(environment).get("extras")
    there = frozenset(map(str, stamped)) if isinstance(stamped, list) else frozenset()
    if venvs.is_whole(environment, wanted) and extras <= there:
        say("      already there")
        return
    every = sorted(extras | there)

    def fill(directory: Path) -> dict[str, object]:
        target = f"{checkout}[{','.join(every)}]" if every else str(checkout)
        pins = ("--constraint", str(checkout / "packaging" / "constraints.txt"))
        # Without build isolation, which would fetch unpinned build tools into a place of its own.
        install(directory, "the build tools", *pins, *BUILD_TOOLS)
        install(directory, "the daemon", *pins, "--no-build-isolation", "--editable", target)
        return {"extras": every}

    venvs.ensure(environment, wanted, fill)
