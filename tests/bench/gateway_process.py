"""The gateway alone in a process: no supervisor, one worker in rotation from the start.

It counts and logs requests as in the daemon; the log is thrown away.

    PYTHONPATH=daemon python tests/bench/gateway_process.py --uds PATH [--loop uvloop]
        [--profile FILE]

Prints the port. `--profile` writes cProfile's statistics at SIGTERM.
"""

import argparse
import asyncio
import cProfile
import importlib
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.gateway.metrics import GatewayMetrics
from cahoots_vllm.gateway.server import GatewayServer
from cahoots_vllm.request_log import RequestLog


@dataclass
class _Given:
    """Has one listening socket to give."""

    listener: socket.socket

    def gateway(self, _hosts: tuple[str, ...], _port: int) -> list[socket.socket]:
        return [self.listener]

    def retire(self) -> None:
        return


async def _serve(uds: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    rotation = Rotation()
    observers = (RequestLog().tell, GatewayMetrics().count)
    gateway = GatewayServer(rotation, GatewaySettings(), _Given(listener), observers)
    await gateway.start()
    rotation.admit(1, uds)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await ended.wait()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--profile", type=Path)
    asked = parser.parse_args()
    if asked.loop == "uvloop":  # not among our dependencies: measured for whoever asks
        importlib.import_module("uvloop").install()
    logging.basicConfig(level=logging.INFO, filename=os.devnull)
    profile = cProfile.Profile()
    if asked.profile:
        profile.enable()
    asyncio.run(_serve(asked.uds))
    if asked.profile:
        profile.dump_stats(asked.profile)


if __name__ == "__main__":
    main()
