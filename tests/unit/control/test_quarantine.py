import asyncio
import logging
from pathlib import Path

import pytest

from cahoots_vllm.control.quarantine import move_caches
from cahoots_vllm.core.launch import engine_cache
from cahoots_vllm.core.settings import EngineInfo, Settings


def _settings(cache: Path) -> Settings:
    return Settings("local", "org/a", EngineInfo("/engine", "0.33.0+cpu"), str(cache), "/.env")


def test_only_the_engines_own_version_begins_with_empty_caches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine, other = (
        Path(engine_cache(str(tmp_path), version)) for version in ("0.33.0+cpu", "0.32.0")
    )
    for directory in (mine, other):
        (directory / "triton").mkdir(parents=True)
    asyncio.run(move_caches(_settings(tmp_path)))
    assert not mine.exists()
    assert (other / "triton").exists()
    (aside,) = tmp_path.glob("vllm/*.quarantined-*")
    assert (aside / "triton").exists()
    said = f"moved vLLM 0.33.0+cpu's caches to {aside}: a start died inside them"
    assert (logging.WARNING, said) in [(r.levelno, r.getMessage()) for r in caplog.records]


def test_what_cannot_be_moved_is_said_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "vllm").write_text("no directory")
    asyncio.run(move_caches(_settings(tmp_path)))
    assert "cannot move the caches of vLLM 0.33.0+cpu" in caplog.text
