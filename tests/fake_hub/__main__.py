"""Serves directories as repos until Ctrl-C."""

import argparse
import sys
import threading
from pathlib import Path

from .hub import Repo
from .running import running_hub


def main() -> None:
    """Print the endpoint and serve."""
    parser = argparse.ArgumentParser(prog="fake_hub", description=__doc__)
    parser.add_argument("repos", nargs="+", metavar="ORG/NAME=DIRECTORY")
    parser.add_argument("--rate", type=int, help="bytes a second of each file")
    arguments = parser.parse_args()
    with running_hub() as hub:
        hub.rate = arguments.rate
        for text in arguments.repos:
            name, _, directory = text.partition("=")
            files = {p.name: p.read_bytes() for p in Path(directory).iterdir() if p.is_file()}
            large = frozenset(n for n in files if n.endswith((".safetensors", "tokenizer.json")))
            hub.repos[name] = Repo(files, large)
        sys.stdout.write(f"{hub.endpoint}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
