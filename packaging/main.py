#!/usr/bin/env python3
"""Entry point of what sets things up; small shell scripts find the Python that runs it."""

import importlib
import sys

from setup.console import SetupError, complain

# Loaded when asked for: the package has only what the service needs.
PROGRAMS = {
    "quickstart": "quickstart",
    "test": "tiers",
    "build-deb": "debian_package",
    "engine": "service_engines",
}


def main() -> int:
    """Run the program named by the first argument; a SetupError becomes a sentence and exit 1."""
    program, arguments = sys.argv[1], sys.argv[2:]
    try:
        return int(importlib.import_module(f"setup.{PROGRAMS[program]}").main(arguments))
    except SetupError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the next run goes on from here\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
