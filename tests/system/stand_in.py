"""The service with the stand-in engine and scripted GPUs: starts in a second, fails as told."""

import json
import subprocess
import sysconfig
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fake_vllm.engine_dir import WEIGHTS
from fake_vllm.script import Behaviour
from integration.scripted_gpus import Gpu
from system.machine import Machine
from system.service import UNIT, USER, Service

_TESTS = Path(__file__).parents[1]
_PLACE = "/usr/lib/cahoots-test"
_DATA = f"/var/lib/{USER}/test"  # writable in the sandbox: the stand-in notes its starts there
_ENGINE = "/opt/cahoots-vllm/engine"
_VERSION = "0.32.0"
_SCRIPT = f"""\
#!/usr/lib/cahoots-vllm/venv/bin/python
import sys
sys.path[:0] = ["{_PLACE}"]
from fake_vllm.__main__ import main
sys.exit(main(sys.argv[1:], version="{_VERSION}"))
"""
# The engine's own Python, which plays the standby.
_PYTHON = f"""\
#!/bin/sh
exec /usr/lib/cahoots-vllm/venv/bin/python {_PLACE}/fake_vllm/standby.py {_ENGINE} "$@"
"""
_DROP_IN = f"""\
[Service]
Environment=FAKE_NVML={_DATA}/gpus.json
"""
_LIBRARIES = "/usr/lib/cahoots-vllm/venv/lib/python3.11/site-packages"
CONFIG = """\
[worker]
stop_grace_s = 1.0
health_interval_s = 0.2
[gateway]
drain_timeout_s = 5.0
"""


@dataclass
class StandIn(Service):
    """A service whose engine and GPUs do what the test says."""

    def play(self, *behaviours: Behaviour) -> None:
        """Say what each start to come does; the last one repeats."""
        self.machine.run(["rm", "-f", f"{_DATA}/script.json.starts"])
        starts = [asdict(behaviour) for behaviour in behaviours or (Behaviour(memory={}),)]
        self._write("script.json", {"starts": starts, "by_model": {}})

    def play_log(self, name: str, text: str, start: Behaviour) -> Behaviour:
        """Return the start as it is when its log is this text."""
        self.machine.write(f"{_DATA}/{name}.log", text, owner=f"{USER}:{USER}")
        return replace(start, log=f"{_DATA}/{name}")

    def keep_standby(self, mode: str) -> None:
        """Let the service keep standbys ("on"), or none ("off"), from its next reload on."""
        self.machine.write(f"{_ENGINE}/bin/python", _PYTHON, mode="0755")
        self.write_config("cahoots-vllm.toml", f'standby = "{mode}"\n{CONFIG}')

    def show_gpus(self, *gpus: Gpu) -> None:
        """Let these be the GPUs from now on; none: there is no driver."""
        self._write("gpus.json", {"driver": bool(gpus), "gpus": [asdict(gpu) for gpu in gpus]})

    def _write(self, name: str, content: Any) -> None:  # noqa: ANN401 (what becomes JSON)
        self.machine.write(f"{_DATA}/{name}", json.dumps(content), owner=f"{USER}:{USER}")


def put_in(machine: Machine) -> StandIn:
    """Make the stand-in the engine of an installed service; the models are org/a and org/b."""
    machine.run(["mkdir", "-p", _PLACE])
    _copy(machine, _TESTS, "fake_vllm", "fake_nvml")
    _copy(machine, Path(sysconfig.get_paths()["platlib"]), "setproctitle")
    # In its place: the daemon's Python looks at no PYTHONPATH.
    machine.run(["cp", f"{_PLACE}/fake_nvml/pynvml.py", f"{_LIBRARIES}/pynvml.py"])
    machine.write(f"{_ENGINE}/bin/vllm", _SCRIPT, mode="0755")
    information = f"{_ENGINE}/lib/python3.11/site-packages/vllm-{_VERSION}.dist-info"
    machine.write(f"{information}/METADATA", f"Name: vllm\nVersion: {_VERSION}\n")
    machine.write(f"/etc/systemd/system/{UNIT}.d/stand-in.conf", _DROP_IN)
    machine.run(["install", "-d", "-o", USER, "-g", USER, f"/var/lib/{USER}", _DATA])
    machine.systemctl("daemon-reload")
    service = StandIn(machine, model="org/a")
    service.write_config("cahoots-vllm.toml", CONFIG)
    for name in ("a", "b"):
        machine.write(f"/srv/models/{name}/config.json", '{"max_position_embeddings": 2048}')
        machine.write(f"/srv/models/{name}/model.safetensors", WEIGHTS)
        profile = f'name = "org/{name}"\nsource = "/srv/models/{name}"\n'
        service.write_config(f"models.d/{name}.toml", profile)
    service.write_env(VLLM_FAKE_SCRIPT=f"{_DATA}/script.json")
    service.show_gpus(Gpu())
    service.play()
    return service


def _copy(machine: Machine, source: Path, *names: str) -> None:
    command = ["/usr/bin/tar", "-C", str(source), "--exclude=__pycache__", "-c", *names]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    machine.run(["tar", "-C", _PLACE, "--no-same-owner", "-x"], stdin=packed)
