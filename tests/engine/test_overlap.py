"""Swaps of real engines that overlap: a client that asks all the while waits for none of them."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from engine.harness import DEMO, TINY, Daemon, gone, tree, wait_for

pytestmark = pytest.mark.timeout(600)
_PERIOD_S = 0.1
_BODY = json.dumps({"prompt": "The capital of France is", "max_tokens": 1, "temperature": 0})


@pytest.fixture(scope="module", autouse=True)
def fair(*, is_fair: bool) -> None:
    """Let the two engines share the cores, which is what is at stake only on the CPU engine."""
    if not is_fair:
        pytest.skip("no CPU cgroup can be made here, and autogroups starve one of two engines")


@contextmanager
def asking(daemon: Daemon) -> Iterator[list[tuple[int, float]]]:
    """Ask whatever model is there, 100 ms after each answer; collect status and seconds."""
    answers: list[tuple[int, float]] = []
    is_over = threading.Event()

    def ask() -> None:
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=120)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", _BODY, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        answers.append((answer.status, time.monotonic() - started))

    def work() -> None:
        # One at a time: two engines share the cores here, and more would leave the next one none.
        while not is_over.wait(_PERIOD_S):
            ask()

    with ThreadPoolExecutor(1) as pool:
        asker = pool.submit(work)
        try:
            yield answers
        finally:
            is_over.set()
            asker.result()


def held(daemon: Daemon) -> float:
    """Return how many requests have waited for a worker so far."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    name = "cahoots_vllm_gateway_held_seconds_count"
    return float(next(line.split()[-1] for line in lines if line.startswith(name)))


@pytest.mark.parametrize(
    "change",
    [
        ("swap-model", TINY, "--strategy", "overlap"),
        ("swap-model", DEMO, "--strategy", "overlap"),
    ],
)
def test_nobody_waits_for_a_change_that_overlaps(daemon: Daemon, change: tuple[str, ...]) -> None:
    daemon.wait_ready()
    before = daemon.status()["worker"]
    old = {*tree(before["pid"]), before["pid"]}
    waited = held(daemon)
    with asking(daemon) as answers:
        assert wait_for(lambda: len(answers) > 10, 60)
        started = time.monotonic()
        outcome = daemon.ctl(*change)
        took_s = time.monotonic() - started
        assert outcome.returncode == 0, outcome.stderr
        count = len(answers)
        assert wait_for(lambda: len(answers) > count + 20, 60)
    assert {status for status, _ in answers} == {200}
    assert held(daemon) == waited, "somebody had to wait for a worker"
    after = daemon.status()["worker"]
    assert after["generation"] > before["generation"]
    assert wait_for(lambda: gone(old), 60), "the old worker has ended"
    longest_s = max(seconds for _, seconds in answers)
    print(  # noqa: T201 (a figure, not a log)
        f"\n    {' '.join(change)}: {took_s:.1f} s, {len(answers)} requests meanwhile, none held, "
        f"the longest took {longest_s:.2f} s"
    )
