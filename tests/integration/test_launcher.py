"""A standby whose engine is none: it says so and ends, and nothing is started."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.standby import Standby

# Modules of that name and version; what a real one has is tests/engine/test_launcher.py's.
ODD_ENGINES = {
    "raises": ("raise RuntimeError('no libcuda.so.1')", "cannot import vLLM: RuntimeError: no lib"),
    "exits": ("import sys; sys.exit(3)", "cannot import vLLM: SystemExit: 3"),
    "newer": ("__version__ = '9.1.0'", "vLLM 9.1.0 is none that the standby knows"),
    "empty": ("__version__ = '0.32.0'", "cannot import vLLM: ModuleNotFoundError"),
    "odd": ("", "cannot import vLLM: AttributeError"),
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "vllm").mkdir()
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[Standby]]:
    standbys: list[Standby] = []
    yield standbys
    for one in standbys:
        one.close()


def start(site: Path, started: list[Standby], *arguments: str) -> Standby:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}
    one = Standby(Path(sys.executable), env, *arguments)
    started.append(one)
    return one


@pytest.mark.parametrize("name", ODD_ENGINES)
def test_engine_that_cannot_be_imported_is_refused(
    site: Path, started: list[Standby], name: str
) -> None:
    text, why = ODD_ENGINES[name]
    (site / "vllm" / "__init__.py").write_text(text)
    standby = start(site, started)
    refused = standby.hear()
    assert refused["state"] == "refused"
    assert refused["why"].startswith(why)
    assert standby.hear() == {}
    assert standby.process.wait(10) == 0


def test_sigterm_ends_it_while_it_imports(site: Path, started: list[Standby]) -> None:
    os.mkfifo(site / "here")
    text = f"import pathlib, time; pathlib.Path({str(site / 'here')!r}).write_text('x')"
    (site / "vllm" / "__init__.py").write_text(f"{text}; time.sleep(60)")
    standby = start(site, started)
    assert (site / "here").read_text() == "x"
    standby.process.terminate()
    assert standby.process.wait(10) == -signal.SIGTERM
    assert standby.hear() == {}
