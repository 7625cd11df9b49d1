"""Prepares what all machines share: the real CPU engine and the demo model, made once.

`python -m system.prepare`: the package's own `cahoots-vllm-engine install --cpu` makes them, in a
machine with the host's network, into directories of the host. It goes on where it was interrupted.
"""

import os
import sys
from pathlib import Path

from system.container import booted
from system.machine import Machine
from system.package import find_package, install

_INSTALL_S = 3600.0
# How this host reaches the package index.
_PASSED = ("PIP_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def layer() -> Path:
    """Return the directory of what is shared: `opt` and `cache`."""
    given = os.environ.get("CAHOOTS_TEST_LAYER")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cahoots-vllm" / "system-test"


def main() -> int:
    """Install them; show what the program says."""
    package = find_package()
    if package is None:
        sys.stderr.write("no package: run packaging/build-deb\n")
        return 1
    places = {layer() / "opt": "/opt/cahoots-vllm", layer() / "cache": "/var/cache/cahoots-vllm"}
    for path in places:
        path.mkdir(parents=True, exist_ok=True)
    with booted(bound=places, has_network=True) as machine:
        install(machine, package)
        return _install_engine(machine)


def _install_engine(machine: Machine) -> int:
    passed = {k: v for k, v in os.environ.items() if k.upper().startswith(_PASSED)}
    env = {**passed, "HOME": "/root"}
    command = ["sh", "-c", "exec cahoots-vllm-engine install --cpu 2>&1"]
    with machine.start(command, env=env) as running:
        for line in running.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
    return running.wait(_INSTALL_S)


if __name__ == "__main__":
    sys.exit(main())
