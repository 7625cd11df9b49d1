"""What a service manager is told: the watchdog, reloads, long drains."""

import signal
import time

import pytest

from fake_vllm.script import Behaviour

from .harness import Daemon, chat_body, wait_for
from .service_manager import ServiceManager


def test_watchdog_is_fed_only_while_the_daemon_moves(
    daemon: Daemon, manager: ServiceManager
) -> None:
    daemon.environment["WATCHDOG_USEC"] = "1000000"
    daemon.start_ready()
    wait_for(lambda: manager.said("WATCHDOG=1") >= 3)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    fed = manager.said("WATCHDOG=1")
    time.sleep(1.2)
    assert manager.said("WATCHDOG=1") == fed
    daemon.process.send_signal(signal.SIGCONT)
    wait_for(lambda: manager.said("WATCHDOG=1") > fed)


@pytest.mark.parametrize("provider", ["local", "no such provider!"])
def test_reload_is_told_with_its_time_and_its_end(
    daemon: Daemon, manager: ServiceManager, provider: str
) -> None:
    daemon.start_ready()
    daemon.write_env(LLM_PROVIDER=provider)
    daemon.ctl("reload", "--no-wait")
    wait_for(lambda: manager.said("RELOADING=1") == manager.said("READY=1") - 1 > 0)
    told = next(m for m in manager.messages if "RELOADING=1" in m)
    moment = int(told.partition("MONOTONIC_USEC=")[2])
    assert 0 < time.monotonic() - moment / 1e6 < 15


def test_long_drain_asks_for_more_time(daemon: Daemon, manager: ServiceManager) -> None:
    daemon.play(Behaviour(tokens_per_s=10))
    daemon.start_ready()
    connection = daemon.gateway()
    body = chat_body("long", stream=True, max_tokens=10, ignore_eos=True)
    connection.request(
        "POST", "/v1/chat/completions", body, headers={"Content-Type": "application/json"}
    )
    connection.getresponse().read(10)
    assert daemon.stop() == 0
    assert any("EXTEND_TIMEOUT_USEC=" in message for message in manager.messages)
