"""Editing `.env` on a real engine: the right thing, at once, and never a dead model for a typo."""

import threading
import time
from pathlib import Path
from typing import Self

import pytest

from engine.harness import DEMO, TINY, Daemon, gone, tree, wait_for

pytestmark = pytest.mark.timeout(600)


class Asker:
    """A client with its retries off that asks every 100 ms and notes what fails."""

    def __init__(self, daemon: Daemon, model: str) -> None:
        self._client, self._model = daemon.client(), model
        self._is_over = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        """Ask from now on."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop asking."""
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._is_over.wait(0.1):
            try:
                self._client.completions.create(model=self._model, prompt="1", max_tokens=1)
                self.answers += 1
            except Exception as error:  # noqa: BLE001 (whatever fails is what is counted)
                self.failures.append(str(error))


def edit(daemon: Daemon, **values: str) -> None:
    """Save `.env` as an editor does: beside it, then renamed."""
    path = daemon.log.with_name(".env")
    lines = [line for line in path.read_text().splitlines() if line.split("=")[0] not in values]
    lines += [f"{key}={value}" for key, value in values.items()]
    new = Path(f"{path}.new")
    new.write_text("\n".join(lines) + "\n")
    new.replace(path)


def wait_serving(daemon: Daemon, model: str) -> None:
    assert wait_for(lambda: daemon.status()["model"]["serving"] == model, 240), daemon.status()


def test_typo_in_the_model_keeps_the_old_one_answering_and_says_why(daemon: Daemon) -> None:
    before = daemon.wait_ready()["worker"]["pid"]
    with Asker(daemon, DEMO) as asker:
        edit(daemon, LOCAL_LLM_MODEL="SmolLM2-135M-Instrukt")
        assert wait_for(lambda: daemon.status()["wanted"] is not None, 30)
        time.sleep(2)
    status = daemon.status()
    assert asker.failures == []
    assert asker.answers > 3
    assert status["worker"]["pid"] == before
    assert DEMO in status["wanted"]["remedy"]
    edit(daemon, LOCAL_LLM_MODEL=DEMO)
    assert wait_for(lambda: daemon.status()["wanted"] is None, 30)
    assert daemon.status()["worker"]["pid"] == before


def test_rotated_token_restarts_nothing(daemon: Daemon) -> None:
    before = daemon.wait_ready()["worker"]["pid"]
    edit(daemon, HUGGINGFACE_API_KEY="hf_" + "rotated" * 4)
    assert wait_for(lambda: "HUGGINGFACE_API_KEY" in daemon.log.read_text(), 10)
    time.sleep(1)
    assert daemon.status()["worker"]["pid"] == before
    assert "rotated" not in daemon.log.read_text()


def test_other_model_in_env_is_swapped_to_without_a_failed_request(daemon: Daemon) -> None:
    daemon.wait_ready()
    started = time.monotonic()
    edit(daemon, LOCAL_LLM_MODEL=TINY)
    wait_serving(daemon, TINY)
    print(f"\n    from save to the other model: {time.monotonic() - started:.1f} s")  # noqa: T201
    assert daemon.client().completions.create(model=TINY, prompt="1", max_tokens=1).choices


def test_provider_elsewhere_leaves_no_engine_process_and_local_brings_it_back(
    daemon: Daemon,
) -> None:
    daemon.wait_ready()
    old = set(tree(daemon.process.pid))
    edit(daemon, LLM_PROVIDER="cerebras")
    assert wait_for(lambda: daemon.status()["state"] == "off", 60)
    assert gone(old)
    assert tree(daemon.process.pid) == {}
    edit(daemon, LLM_PROVIDER="local")
    wait_serving(daemon, TINY)
