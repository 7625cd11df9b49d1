"""The service: the daemon, its unit, its worker, its limits, and what earlier ones left."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.doctor.finding import Finding, Findings, Group, Judge, or_ok

_DAEMON: Final = Judge("daemon", Group.SERVICE)
_UNIT: Final = Judge("unit", Group.SERVICE)
_WORKER: Final = Judge("worker", Group.SERVICE)
_LIMITS: Final = Judge("limits", Group.SERVICE)
_CGROUP: Final = Judge("cgroup", Group.SERVICE)
_LEFTOVERS: Final = Judge("leftovers", Group.SERVICE)
_CPU: Final = Judge("cpu", Group.SPEED)
_FEW_FILES: Final = 4096
_FEW_PROCESSES: Final = 1024
_LITTLE_LOCKED: Final = 64 << 20
_MANY_RESTARTS: Final = 3
# Drivers whose "powersave" is a normal governor that speeds up under load
# (kernel.org: admin-guide/pm/intel_pstate, amd-pstate in active mode).
_ACTIVE_DRIVERS: Final = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
_LOG: Final = "journalctl -u cahoots-vllm -e"


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """What systemd says of the unit; None where nothing does. `lingers`: None in system mode."""

    name: str
    is_user: bool
    load: str
    active: str
    sub: str
    result: str
    restarts: int
    enabled: str
    lingers: bool | None = None

    @property
    def control(self) -> str:
        """How to call systemctl for it."""
        return "systemctl --user" if self.is_user else "sudo systemctl"

    @property
    def journal(self) -> str:
        """How to read its journal."""
        return f"journalctl {'--user ' if self.is_user else ''}-u {self.name} -e"


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """The daemon's one job: its phase, and the last diagnosis while that still stands."""

    phase: str
    model: str
    cause: str | None = None
    evidence: str = ""
    remedy: str = ""
    why_off: str = ""


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """Hard limits of this process (getrlimit(2)), None: unlimited; CPU frequency driver."""

    files: int | None
    locked_bytes: int | None
    processes: int | None
    governor: str | None = None
    frequency_driver: str | None = None
    preference: str | None = None


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process of some vLLM that no daemon owns."""

    pid: int
    user: str
    command: str


def judge_unreachable(reason: str, unit: UnitFacts | None) -> Findings:
    """Say that no daemon answers, and what systemd knows of it."""
    if unit is None or unit.load != "loaded":
        remedy = (
            "start it: sudo systemctl start cahoots-vllm, or packaging/quickstart in a checkout"
        )
        return (_DAEMON.fail(reason, f"{remedy}; its journal: {_LOG}"),)
    said = f"{reason}; {unit.name} is {unit.active}"
    if unit.result == "start-limit-hit":
        remedy = f"{unit.journal} says why it died; then: {unit.control} reset-failed {unit.name}"
        return (_DAEMON.fail(f"{said}: it died too often", f"{remedy} && {_start(unit)}"),)
    if unit.active == "failed":
        return (_DAEMON.fail(f"{said} ({unit.result})", f"{unit.journal}, then: {_start(unit)}"),)
    return (_DAEMON.fail(said, f"{_start(unit)}; its journal: {unit.journal}"),)


def _start(unit: UnitFacts) -> str:
    return f"{unit.control} start {unit.name}"


def judge_unit(unit: UnitFacts | None) -> Findings:
    """Say how the running daemon is looked after."""
    if unit is None:
        return (_UNIT.ok("not a systemd service: it ends with the terminal that started it"),)
    return or_ok(_odd(unit), _UNIT.ok(f"{unit.name} is {unit.active} ({unit.sub})"))


def _odd(unit: UnitFacts) -> Iterator[Finding]:
    if unit.restarts >= _MANY_RESTARTS:
        said = f"systemd has started {unit.name} again {unit.restarts} times"
        yield _UNIT.warn(said, f"see why: {unit.journal}")
    if unit.enabled == "disabled":
        said = f"{unit.name} does not start at boot"
        yield _UNIT.warn(said, f"{unit.control} enable {unit.name}")
    if unit.lingers is False:
        said = f"{unit.name} is a user's service without lingering: it ends when the user logs out"
        yield _UNIT.warn(said, "sudo loginctl enable-linger USER")


def judge_worker(facts: WorkerFacts) -> Findings:
    """Say how the worker is; its diagnosis where it failed."""
    what = f"{facts.phase}: {facts.cause}: {facts.evidence}" if facts.cause else facts.phase
    if facts.phase in ("failed", "backoff"):
        remedy = facts.remedy or "see cahootsctl status"
        return (_WORKER.bad(what, remedy, is_fatal=facts.phase == "failed"),)
    if facts.phase == "off":
        return (_WORKER.ok(f"off: {facts.why_off}" if facts.why_off else "off"),)
    return (_WORKER.ok(f"{facts.phase}, {facts.model}"),)


def judge_limits(facts: LimitFacts, processes: int, *, is_cpu: bool) -> Findings:
    """Say whether this process may have what it needs; `processes`: GPUs a model is spread over."""
    found = []
    if facts.files is not None and facts.files < _FEW_FILES:
        said = f"{facts.files} open files at most: each request that waits is one"
        found.append(_LIMITS.warn(said, "LimitNOFILE=65536 in the unit, or ulimit -Hn"))
    if facts.processes is not None and facts.processes < _FEW_PROCESSES:
        said = f"{facts.processes} processes and threads at most: vLLM starts hundreds"
        found.append(_LIMITS.warn(said, "LimitNPROC=infinity in the unit, or ulimit -u"))
    is_little = facts.locked_bytes is not None and facts.locked_bytes < _LITTLE_LOCKED
    if is_little and processes > 1 and not is_cpu:
        said = f"{(facts.locked_bytes or 0) >> 10} KiB of memory may be locked: NCCL wants more"
        found.append(_LIMITS.warn(said, "LimitMEMLOCK=infinity in the unit, or ulimit -l"))
    files = "no limit" if facts.files is None else str(facts.files)
    return or_ok(found, _LIMITS.ok(f"open files {files}"))


def judge_cgroup(*, is_service: bool, is_delegated: bool) -> Findings:
    """Say whether each worker gets a cgroup of its own."""
    if is_service and not is_delegated:
        said = "no cgroup is delegated to the daemon: a process of the worker could outlive it"
        return (_CGROUP.warn(said, "Delegate=yes in the unit (systemctl edit cahoots-vllm)"),)
    if not is_delegated:
        return (_CGROUP.ok("none delegated: the worker's processes are found by /proc"),)
    return (_CGROUP.ok("delegated: each worker has its own"),)


def judge_leftovers(found: tuple[Leftover, ...]) -> Findings:
    """Name processes of a vLLM that nobody owns: they hold memory and do nothing."""
    if not found:
        return (_LEFTOVERS.ok("no vLLM without an owner"),)
    shown = ", ".join(f"{each.command} (pid {each.pid}, user {each.user})" for each in found[:3])
    said = f"{len(found)} left over from a vLLM that nobody owns any more: {shown}"
    return (_LEFTOVERS.warn(said, f"kill {' '.join(str(each.pid) for each in found)}"),)


def judge_cpu(facts: LimitFacts) -> Findings:
    """Say whether the CPU is kept slow: the engine's scheduler and sampling run on it."""
    if facts.governor is None:
        return (_CPU.ok("its frequency is not this host's to set"),)
    is_active = (facts.frequency_driver or "") in _ACTIVE_DRIVERS
    said = f"governor {facts.governor}, driver {facts.frequency_driver or '?'}"
    if facts.governor == "powersave" and (not is_active or facts.preference == "power"):
        remedy = (
            "sudo cpupower frequency-set -g performance, or the profile of power-profiles-daemon"
        )
        return (_CPU.warn(f"{said}: the CPU stays slow under load", remedy),)
    return (_CPU.ok(said),)
