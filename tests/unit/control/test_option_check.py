"""Options that the engine does not know are named before anything is stopped."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from cahoots_vllm.control.option_check import STABLE, OptionCheck, unknown_option
from cahoots_vllm.core.diagnosis import Cause
from cahoots_vllm.core.launch import LaunchSpec, OptionValue
from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.engine_options import EngineOptions, option_names

HELP = Path(__file__).parents[2] / "fake_vllm" / "help.txt"
KNOWN = option_names(HELP.read_text())
ENGINE = EngineInfo("/engine", "0.32.0")


class Engine(EngineOptions):
    """Answers what it was given, and counts how often it is asked."""

    def __init__(self, answer: frozenset[str] | None) -> None:
        super().__init__(Path("/nowhere"), Children())
        self.answer = answer
        self.anew: frozenset[str] | None = None
        self.asked = 0

    async def ask(
        self, engine: EngineInfo, env: Mapping[str, str], *, is_anew: bool = False
    ) -> frozenset[str] | None:
        del engine, env
        self.asked += 1
        return self.anew if is_anew and self.anew is not None else self.answer


def goal(**options: OptionValue) -> LaunchSpec:
    named = tuple((name.replace("_", "-"), value) for name, value in options.items())
    return LaunchSpec("a", "/a", "/engine", options=named)


def test_all_that_is_taken_for_known_is_known_to_vllm() -> None:
    assert STABLE <= KNOWN


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        ("max-num-seqs", True),
        ("compilation-config.mode", True),
        ("enforce_eager", True),
        ("no-enable-chunked-prefill", True),
        ("max-modle-len", False),
        ("no-such-option", False),
    ],
)
def test_known_and_unknown(name: str, *, is_known: bool) -> None:
    assert (unknown_option([name], KNOWN) is None) is is_known


async def test_unknown_option_is_refused_with_the_nearest_name() -> None:
    found = await OptionCheck(Engine(KNOWN)).check(
        goal(max_num_seqs=8, max_modle_len=8192), ENGINE, {}, lambda *_: None
    )
    assert found is not None
    assert found.cause is Cause.BAD_ARGUMENTS
    assert not found.is_retryable
    assert found.evidence == "vLLM 0.32.0 knows no option --max-modle-len"
    assert "did you mean max-model-len?" in found.remedy


async def test_engine_is_not_asked_about_what_is_known_for_years() -> None:
    engine = Engine(frozenset())
    check = OptionCheck(engine).check
    assert await check(goal(max_model_len=8192, dtype="bfloat16"), ENGINE, {}, print) is None
    assert engine.asked == 0


async def test_engine_that_does_not_tell_refuses_nothing() -> None:
    engine = Engine(None)
    odd = goal(some_plugin_option=1)
    assert await OptionCheck(engine).check(odd, ENGINE, {}, lambda *_: None) is None
    assert engine.asked == 1


async def test_option_of_a_plugin_that_came_later_is_asked_for_once_more() -> None:
    engine = Engine(KNOWN)
    engine.anew = KNOWN | {"some-plugin-option"}
    odd = goal(some_plugin_option=1)
    assert await OptionCheck(engine).check(odd, ENGINE, {}, lambda *_: None) is None
    assert engine.asked == 2
