"""The doctor: all checks at once, each with a deadline of its own; none can hang the answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cahoots_vllm.core.doctor.finding import Finding, Findings, Group, Judge
from cahoots_vllm.core.level import Level

_ORDER = {group: number for number, group in enumerate(Group)}


@dataclass(frozen=True, slots=True)
class Check:
    """One look at the host. `find` raises OSError or ValueError where it cannot look."""

    name: str
    group: Group
    find: Callable[[], Awaitable[Findings]]
    deadline_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found, by whom (`daemon` or `cahootsctl`), as which user, in how many seconds."""

    healthy: bool
    examined_by: str
    user: str
    seconds: float
    findings: tuple[Finding, ...]


async def examine(checks: tuple[Check, ...], *, by: str, user: str) -> Examination:
    """Run the checks and return what they found, in the order of their groups."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(check), name=f"check {check.name}") for check in checks]
    found = [finding for task in tasks for finding in task.result()]
    found.sort(key=lambda finding: _ORDER[finding.group])
    return Examination(
        healthy=all(finding.level is not Level.FAIL for finding in found),
        examined_by=by,
        user=user,
        seconds=round(loop.time() - start, 2),
        findings=tuple(found),
    )


async def _run(check: Check) -> Findings:
    judge = Judge(check.name, check.group)
    try:
        async with asyncio.timeout(check.deadline_s):
            return await check.find()
    except TimeoutError:
        said = f"did not answer in {check.deadline_s:.0f} s"
        return (judge.warn(said, "what it looks at hangs: a disk, a driver, or a busy host"),)
    except (OSError, ValueError, KeyError) as error:
        said = f"cannot look: {type(error).__name__}: {error}"
        return (judge.warn(said, "look by hand; report it if the host is well"),)
