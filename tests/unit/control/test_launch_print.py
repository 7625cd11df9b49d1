"""What tells a launch spec from another, so that a worker that sleeps fits a start or does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cahoots_vllm.control.launch_print import launch_print, weights_bytes
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.core.settings import EngineInfo, Settings

Change = Callable[[LaunchSpec, Settings], tuple[LaunchSpec, Settings]]


@pytest.fixture
def launch(tmp_path: Path) -> LaunchSpec:
    (tmp_path / "engine/lib/python3.11/site-packages/vllm").mkdir(parents=True)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"12345")
    (model / "config.json").write_text("{}")
    return LaunchSpec("org/a", str(model), str(tmp_path / "engine"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    engine = EngineInfo(str(tmp_path / "engine"), "0.32.0")
    return Settings("local", "org/a", engine, str(tmp_path / "cache"), str(tmp_path / ".env"))


def other_option(launch: LaunchSpec, settings: Settings) -> tuple[LaunchSpec, Settings]:
    return launch.with_option("max-model-len", 7), settings


def other_environment(launch: LaunchSpec, settings: Settings) -> tuple[LaunchSpec, Settings]:
    return replace(launch, env=(("VLLM_X", "1"),)), settings


def other_token(launch: LaunchSpec, settings: Settings) -> tuple[LaunchSpec, Settings]:
    return launch, replace(settings, secret_env=(("HF_TOKEN", Secret("new")),))


def other_weights(launch: LaunchSpec, settings: Settings) -> tuple[LaunchSpec, Settings]:
    (Path(launch.source) / "model.safetensors").write_bytes(b"123456")
    return launch, settings


def other_engine(launch: LaunchSpec, settings: Settings) -> tuple[LaunchSpec, Settings]:
    (Path(launch.engine) / "lib/python3.11/site-packages/vllm-1.dist-info").mkdir()
    return launch, settings


@pytest.mark.parametrize(
    "change", [other_option, other_environment, other_token, other_weights, other_engine]
)
def test_another_start_has_another_print(
    launch: LaunchSpec, settings: Settings, change: Change
) -> None:
    before = launch_print(launch, settings)
    assert before
    assert launch_print(launch, settings) == before
    assert launch_print(*change(launch, settings)) != before


def test_engine_that_is_gone_has_none(launch: LaunchSpec, settings: Settings) -> None:
    assert launch_print(replace(launch, engine="/nowhere"), settings) == ""


def test_weights_are_those_of_the_directory(launch: LaunchSpec) -> None:
    assert weights_bytes(launch) == 5
    assert weights_bytes(replace(launch, source="org/a")) == 0
