"""An engine's fingerprint changes with what is installed into it."""

from pathlib import Path

import pytest

from cahoots_vllm.host.engine_print import fingerprint


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    packages = tmp_path / "engine" / "lib" / "python3.11" / "site-packages"
    for name in ("vllm", "vllm-0.32.0.dist-info", "torch"):
        (packages / name).mkdir(parents=True)
    return tmp_path / "engine"


def _packages(engine: Path) -> Path:
    return next(engine.glob("lib/python3*/site-packages"))


def test_same_engine_same_print(engine: Path, tmp_path: Path) -> None:
    first = fingerprint(engine, tmp_path / "none")
    assert first is not None
    assert fingerprint(engine, tmp_path / "none") == first


@pytest.mark.parametrize("place", ["vllm/new.py", "torch/new.so", "other"])
def test_installation_changes_it(engine: Path, tmp_path: Path, place: str) -> None:
    before = fingerprint(engine, tmp_path / "none")
    (_packages(engine) / place).write_text("")
    assert fingerprint(engine, tmp_path / "none") != before


def test_other_version_changes_it(engine: Path, tmp_path: Path) -> None:
    before = fingerprint(engine, tmp_path / "none")
    packages = _packages(engine)
    (packages / "vllm-0.32.0.dist-info").rename(packages / "vllm-0.33.0.dist-info")
    assert fingerprint(engine, tmp_path / "none") != before


def test_other_driver_changes_it(engine: Path, tmp_path: Path) -> None:
    driver = tmp_path / "version"
    before = fingerprint(engine, driver)
    driver.write_text("550.40.07\n")
    first = fingerprint(engine, driver)
    driver.write_text("570.00\n")
    assert len({before, first, fingerprint(engine, driver)}) == 3


def test_no_engine_no_print(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "gone", tmp_path / "none") is None
