"""How long models take to load here, and when the next answer is to be expected."""

from collections.abc import Mapping

import pytest

from cahoots_vllm.control.load_times import LoadTimes
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Memory, Sizes
from cahoots_vllm.core.state import Live, Plan, Stage, State

_A = LaunchSpec(model="org/a", source="org/a", engine="/opt/engine")
_PLAN = Plan(_A, _A, Memory(asked=Sizes(0), current=Sizes(0)))


def live(stage: Stage, since: float) -> State:
    return State(goal=_A, plan=_PLAN, live=Live(1, _PLAN, stage, since), generation=1)


def load_times(**times: tuple[float, ...]) -> LoadTimes:
    known = {name.replace("_", "/"): seconds for name, seconds in times.items()}
    return LoadTimes(known, lambda _: None, Rotation())


def test_a_start_teaches_how_long_it_took() -> None:
    saved: list[Mapping[str, tuple[float, ...]]] = []
    rotation = Rotation()
    times = LoadTimes({}, lambda now: saved.append(dict(now)), rotation)
    for begun in (0.0, 100.0, 200.0, 300.0, 400.0, 500.0):
        times.update(live(Stage.STARTING, begun), live(Stage.READY, begun + 30), begun + 30)
    assert saved[0] == {"org/a": (30.0,)}
    assert saved[-1] == {"org/a": (30.0,) * 5}
    assert rotation.expected_at is None


def test_only_a_start_that_became_ready_teaches() -> None:
    times = LoadTimes({}, lambda _: pytest.fail("learned"), Rotation())
    times.update(live(Stage.STARTING, 0), live(Stage.STOPPING, 9), 9)
    times.update(live(Stage.DRAINING, 0), live(Stage.READY, 9), 9)


def test_one_that_woke_teaches_nothing_and_the_next_start_does() -> None:
    saved: list[Mapping[str, tuple[float, ...]]] = []
    times = LoadTimes({}, lambda now: saved.append(dict(now)), Rotation())
    times.skip(1)
    times.update(live(Stage.STARTING, 0), live(Stage.READY, 1), 1)
    assert saved == []
    times.skip(2)
    times.update(live(Stage.STARTING, 0), live(Stage.READY, 30), 30)
    assert saved == [{"org/a": (30.0,)}]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (live(Stage.STARTING, 100), 130),
        (live(Stage.STARTING, 60), 115),  # overdue: soon
        (live(Stage.READY, 60), None),
        (live(Stage.DRAINING, 60), 140),
        (State(goal=_A), 140),
        (State(goal=_A, retry_at=150), 180),
        (State(goal=_A, is_failed=True), None),
        (State(), None),
    ],
)
def test_when_an_answer_is_to_be_expected(state: State, expected: float | None) -> None:
    times = load_times(org_a=(20.0, 30.0, 90.0))
    assert times.expected_at(state, 110) == expected


def test_unknown_model_is_not_foretold() -> None:
    assert load_times().expected_at(live(Stage.STARTING, 0), 1) is None
