"""What the hub refuses fails the swap, with cause and remedy, and leaves the worker alone."""

import pytest

from .harness import Daemon
from .stub_hub import StubHub

_MISSING = {"X-Error-Code": "RepoNotFound"}


@pytest.mark.parametrize(
    ("status", "headers", "cause", "remedy"),
    [
        (401, _MISSING, "hub_not_found", "HUGGINGFACE_API_KEY"),
        (401, {}, "hub_auth", "HUGGINGFACE_API_KEY"),
        (403, {"X-Error-Code": "GatedRepo"}, "hub_auth", "accept the licence"),
        (403, {}, "hub_auth", "HUGGINGFACE_API_KEY"),
        (404, _MISSING, "hub_not_found", "check the name org/theirs"),
        (429, {}, "hub_network", "try again"),
        (503, {}, "hub_network", "network"),
    ],
)
def test_refusals_of_the_hub_fail_a_swap_and_nothing_else(
    swapping: Daemon,
    swapping_hub: StubHub,
    *,
    status: int,
    headers: dict[str, str],
    cause: str,
    remedy: str,
) -> None:
    swapping_hub.refusals["org/theirs"] = (status, headers)
    operation = swapping.swap("org/theirs")
    assert operation["state"] == "failed"
    problem = operation["problem"]
    assert problem["type"] == "urn:cahoots-vllm:problem:model-unusable"
    assert problem["cause"] == cause, problem
    assert remedy in problem["remedy"]
    assert swapping.started() == 1
    assert swapping.says("still here") == "fake: still here"
