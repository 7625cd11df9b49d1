#!/usr/bin/env python3
"""Entry point of packaging/quickstart and packaging/test, which find the Python that runs it."""

import sys

from setup import quickstart, tiers
from setup.console import SetupError, complain


def main() -> int:
    """Run the program named by the first argument; a SetupError becomes a sentence and exit 1."""
    program, arguments = sys.argv[1], sys.argv[2:]
    try:
        return {"quickstart": quickstart.main, "test": tiers.main}[program](arguments)
    except SetupError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the next run goes on from here\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
