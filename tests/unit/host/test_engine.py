"""Which engine is taken where none is configured, and what is said where none is usable."""

from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host import engine
from cahoots_vllm.host.engine import find_engine
from fake_vllm.engine_dir import make_engine


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Where engines are looked for, weakest last; there is none yet."""
    found = {name: tmp_path / name for name in ("system", "path", "checkout")}
    monkeypatch.setattr(engine, "SYSTEM_ENGINE", found["system"])
    monkeypatch.setattr(engine, "_CHECKOUT_ENGINE", found["checkout"])
    monkeypatch.setenv("PATH", str(found["path"] / "bin"))
    return found


def test_engine_is_the_first_that_is_there(places: dict[str, Path], tmp_path: Path) -> None:
    for name in ("checkout", "path", "system"):
        made = make_engine(places[name])
        assert find_engine(None).path == str(made)
    other = make_engine(tmp_path / "other")
    assert find_engine(other).path == str(other)


@pytest.mark.usefixtures("places")
def test_no_engine_is_unusable_with_a_remedy() -> None:
    with pytest.raises(CahootsError, match="cannot find an engine") as raised:
        find_engine(None)
    assert raised.value.kind is Kind.ENGINE_UNUSABLE
    assert "engine.path" in raised.value.remedy


def test_configured_engine_is_never_replaced_by_another(
    places: dict[str, Path], tmp_path: Path
) -> None:
    make_engine(places["system"])
    with pytest.raises(CahootsError, match="has no bin/vllm"):
        find_engine(tmp_path / "none")
