"""No check can hang the doctor, and one that cannot look hides no other."""

import asyncio

from cahoots_vllm.control.doctor import Check, examine
from cahoots_vllm.core.doctor.finding import Findings, Group, Judge
from cahoots_vllm.core.level import Level

JUDGE = Judge("well", Group.SERVICE)


async def _well() -> Findings:
    return (JUDGE.ok("fine"),)


async def _stuck() -> Findings:
    await asyncio.Event().wait()
    return ()


async def _closed() -> Findings:
    raise PermissionError(13, "Permission denied", "/proc/x")


async def _fatal() -> Findings:
    return (JUDGE.fail("broken", "mend it"),)


async def test_stuck_check_is_a_warning_and_the_others_are_there() -> None:
    checks = (
        Check("stuck", Group.SPEED, _stuck, 0.05),
        Check("closed", Group.GPU, _closed),
        Check("well", Group.SERVICE, _well),
    )
    found = await examine(checks, by="daemon", user="me")
    assert [(f.check, f.level) for f in found.findings] == [
        ("well", Level.OK),
        ("closed", Level.WARN),
        ("stuck", Level.WARN),
    ]
    assert "did not answer in" in found.findings[2].sentence
    assert "Permission denied" in found.findings[1].sentence
    assert found.healthy


async def test_one_fail_makes_it_unhealthy() -> None:
    found = await examine((Check("bad", Group.GPU, _fatal),), by="daemon", user="me")
    assert not found.healthy
