"""The doctor's checks of service, settings, endpoint, memory and disk."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from cahoots_vllm.control.doctor import Check
from cahoots_vllm.control.env_file import read_env_file
from cahoots_vllm.control.patient import Patient, own_name
from cahoots_vllm.core.addresses import is_ip
from cahoots_vllm.core.doctor import endpoint, memory, service, settings
from cahoots_vllm.core.doctor.finding import Findings, Group
from cahoots_vllm.core.env_values import TOKEN_KEYS
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.core.secret import is_secret_name
from cahoots_vllm.host import process_info, process_tree
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.bridges import read_docker
from cahoots_vllm.host.disk_room import read_disk, read_shm
from cahoots_vllm.host.host_limits import read_limits
from cahoots_vllm.host.host_memory import read_ram
from cahoots_vllm.host.sockets import is_here
from cahoots_vllm.host.systemd import Unit, own_unit
from cahoots_vllm.host.tcp_ports import port_holders
from cahoots_vllm.host.unit_state import read_unit

_LOOK_S = 2.0
_UNIT_S = 3.0
_UNIT = "cahoots-vllm.service"
_T = TypeVar("_T")


async def _look(call: Callable[[], _T]) -> _T:
    return await run_blocking(call, deadline_s=_UNIT_S)


class HostChecks:
    """Reads facts of the host and lets core.doctor judge them."""

    def __init__(self, patient: Patient) -> None:
        """Nothing is looked at yet."""
        self._patient = patient

    def checks(self) -> tuple[Check, ...]:
        """Return them; those of the settings' own only where there are settings."""
        always = (
            Check("service", Group.SERVICE, self._service, _UNIT_S + 0.5),
            Check("leftovers", Group.SERVICE, self._leftovers, _LOOK_S),
            Check("limits", Group.SERVICE, self._limits, _LOOK_S),
            Check("settings", Group.SETTINGS, self._settings, _LOOK_S),
            Check("memory", Group.MEMORY, self._memory, _LOOK_S),
            Check("disk", Group.MEMORY, self._disks, _LOOK_S),
        )
        if self._patient.settings is None:
            return always
        return (
            *always,
            Check("env-file", Group.SETTINGS, self._env_file, _LOOK_S),
            Check("endpoint", Group.ENDPOINT, self._endpoint, _LOOK_S),
        )

    async def _service(self) -> Findings:
        patient = self._patient
        own = await _look(own_unit)
        if patient.daemon_pid is None:
            unit = Unit(_UNIT, is_user=not patient.paths.is_system)
            state = await _look(partial(read_unit, unit))
            return service.judge_unreachable(patient.unreachable, state)
        state = await _look(partial(read_unit, own)) if own is not None else None
        found = service.judge_unit(state)
        found += service.judge_cgroup(is_service=own is not None, is_delegated=patient.is_delegated)
        return found + (service.judge_worker(patient.worker) if patient.worker else ())

    async def _leftovers(self) -> Findings:
        return service.judge_leftovers(await _look(partial(_orphans, self._patient.worker_pids)))

    async def _limits(self) -> Findings:
        facts = await _look(read_limits)
        loaded = self._patient.settings
        is_cpu = loaded is None or loaded.engine.is_cpu
        limits = service.judge_limits(facts, self._patient.processes, is_cpu=is_cpu)
        return limits + service.judge_cpu(facts)

    async def _settings(self) -> Findings:
        patient = self._patient
        warnings = patient.settings.warnings if patient.settings is not None else ()
        return settings.judge_settings(patient.settings_error, patient.settings_remedy, warnings)

    async def _env_file(self) -> Findings:
        loaded = self._patient.settings
        if loaded is None:
            return ()
        facts = await _look(partial(_read_env_facts, Path(loaded.env_file)))
        gpus = await self._patient.gpus.read()
        return settings.judge_env_file(facts) + settings.judge_env_keys(facts, loaded, len(gpus))

    async def _endpoint(self) -> Findings:
        patient, loaded = self._patient, self._patient.settings
        if loaded is None:
            return ()
        port = loaded.gateway.port
        host = urlsplit(loaded.url).hostname or ""
        here = await _look(partial(is_here, host)) if is_ip(host) else None
        ours = frozenset({patient.daemon_pid}) if patient.daemon_pid is not None else frozenset()
        holders = await _look(partial(port_holders, port))
        docker = await _look(read_docker)
        found = endpoint.judge_url(endpoint.UrlFacts(loaded.url, port, here))
        found += endpoint.judge_port(port, holders, ours, is_running=patient.daemon_pid is not None)
        return found + endpoint.judge_docker(loaded.url, loaded.gateway.listen, docker)

    async def _memory(self) -> Findings:
        ram = await _look(read_ram)
        found = memory.judge_ram(ram, self._patient.expected) + memory.judge_swap(ram)
        return found + memory.judge_shm(await _look(read_shm), self._patient.processes)

    async def _disks(self) -> Findings:
        patient = self._patient
        places = (
            ("the cache", patient.paths.cache_dir),
            ("the state", patient.paths.state_file.parent),
            ("the temporary directory", Path(tempfile.gettempdir())),
        )
        disks = tuple([await _look(partial(read_disk, what, path)) for what, path in places])
        is_here_ = patient.settings is None or await patient.model_directory() is not None
        found = memory.judge_disks(disks, patient.expected, is_model_here=is_here_)
        return found + memory.judge_writable(disks, own_name())


def _read_env_facts(path: Path) -> settings.EnvFileFacts:
    """Return `.env`'s facts. Raises OSError; what cannot be parsed has told so before."""
    try:
        values = read_env_file(path).values
    except CahootsError:
        values = {}
    tokens = {values[key] for key in TOKEN_KEYS if values.get(key)}
    return settings.EnvFileFacts(
        path=str(path),
        mode=path.stat().st_mode,
        has_secret=any(value for key, value in values.items() if is_secret_name(key)),
        keys=frozenset(key for key, value in values.items() if value),
        token_keys_differ=len(tokens) > 1,
    )


def _orphans(ours: frozenset[int]) -> tuple[service.Leftover, ...]:
    """Return processes of a vLLM whose parent is init, and which no daemon's mark is on."""
    found = []
    for row in process_tree.read_all().values():
        if row.parent != 1 or row.is_zombie or row.pid in ours or row.pid == os.getpid():
            continue
        title = process_tree.title(row.pid)
        if not title.startswith("VLLM::"):
            continue
        # Another daemon's worker, restarted or of another user, has an owner.
        if process_info.environ_value(row.pid, WORKER_MARK) is None:
            owner = process_info.owner_name(row.pid)
            found.append(service.Leftover(row.pid, owner, process_info.shown_command(row.pid)))
    return tuple(found)
