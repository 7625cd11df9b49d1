"""Which model is served next: first come first served, no thrash, nobody starves."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.demand import (
    Choice,
    Setback,
    Turn,
    askable_names,
    choose,
    free_at,
    learn,
    next_turn,
)
from cahoots_vllm.core.events import (
    CheckFailed,
    Drained,
    Event,
    Gone,
    Lost,
    Ready,
    Restart,
    Unload,
    Want,
)
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import (
    EngineInfo,
    GatewaySettings,
    OnDemand,
    Profile,
    Settings,
)
from cahoots_vllm.core.state import State
from unit.core.environment import FATAL, MENDABLE, A, B, C, Environment, fitted
from unit.core.situations import SCRIPTS, SITUATIONS, arrange

STAY_S = 30.0
GOALS = {spec.model: spec for spec in (A, B, C)}
PROFILES = (
    Profile("org/b", "b.toml", source="org/b-awq"),
    Profile("org/c", "c.toml", source="/models/c"),
)
SETTINGS = Settings(
    provider="local",
    configured_model="org/a",
    engine=EngineInfo("/engine", "0.32.0"),
    cache_dir="/cache",
    env_file="/.env",
    gateway=GatewaySettings(on_demand=OnDemand.PROFILES),
    profiles=PROFILES,
)


def test_names_of_profiles_their_sources_and_the_configured_one_count() -> None:
    assert askable_names(SETTINGS) == {
        "org/a": "org/a", "org/b": "org/b", "org/b-awq": "org/b", "org/c": "org/c",
    }  # fmt: skip


def test_nothing_counts_unless_it_is_turned_on_and_the_model_is_local() -> None:
    off = replace(SETTINGS, gateway=GatewaySettings())
    assert askable_names(off) == askable_names(replace(SETTINGS, provider="openai")) == {}


def test_source_of_a_profile_that_people_want_by_the_source_is_no_other_model() -> None:
    names = askable_names(replace(SETTINGS, configured_model="org/b-awq"))
    assert (names["org/b"], names["org/b-awq"]) == ("org/b-awq", "org/b-awq")


def test_configured_model_can_be_asked_for_beside_an_override() -> None:
    names = askable_names(replace(SETTINGS, override="org/x"))
    assert (names["org/x"], names["org/a"]) == ("org/x", "org/a")


def test_oldest_request_decides() -> None:
    assert choose({"org/b": 2.0, "org/c": 1.0}, 5.0, 5.0) == Choice("org/c")


def test_stay_is_waited_for_and_then_looked_again() -> None:
    assert choose({"org/b": 2.0}, 5.0, 4.9) == Choice(None, 5.0)


def test_nobody_waits_so_nothing_changes() -> None:
    assert choose({}, 0.0, 9.0) == Choice()


def test_model_on_its_way_is_waited_for() -> None:
    assert choose({"org/b": 0.0}, None, 9.0) == Choice()


def _free_at(world: Environment, turn: Turn | None = None) -> float | None:
    turn = next_turn(turn, world.state, world.now)
    assert turn is not None
    return free_at(turn, world.state, STAY_S)


@pytest.mark.parametrize(
    ("situation", "is_free_after_s"),
    [
        ("preparing", STAY_S),
        ("starting", None),
        ("ready", STAY_S),
        ("ready, swap in preflight", STAY_S),
        ("draining for a swap", None),
        ("stopping for a swap", None),
        ("stopping after a crash", None),
        ("backoff", STAY_S),
        ("failed", 0.0),
        ("idle", 0.0),
        ("draining, idle", 0.0),
    ],
)
def test_stay_in_each_situation(situation: str, is_free_after_s: float | None) -> None:
    world = arrange(situation)
    expected = None if is_free_after_s is None else world.now + is_free_after_s
    assert _free_at(world) == expected


def _play(world: Environment, turn: Turn | None, *events: Event) -> Turn | None:
    for event in events:
        world.now += 1.0
        world.send(event)
        turn = next_turn(turn, world.state, world.now)
    return turn


def test_stay_counts_from_the_first_ready_over_crashes_and_restarts() -> None:
    world = arrange("ready")
    turn = next_turn(None, world.state, world.now)
    again = _play(world, turn, Lost(1, MENDABLE), Gone(1), Restart())
    world = world.settle()
    assert next_turn(again, world.state, world.now) == turn


def test_model_that_was_refused_has_not_ended_the_stay_of_the_old_one() -> None:
    world = arrange("ready")
    turn = next_turn(None, world.state, world.now)
    assert turn is not None
    refused = _play(world, turn, Want(B), CheckFailed(B, FATAL))
    assert refused is not None
    assert (refused.goal, refused.ready_at) == (A, turn.ready_at)


def test_nothing_wanted_is_nobodys_turn() -> None:
    assert next_turn(Turn(A, 1.0, 2.0), State(), 3.0) is None


def _fail_to_start(world: Environment) -> State:
    """Let a swap from A to B fail for good; return the state before its last step."""
    world.play((Want(B),))
    world = world.settle_until_spawned(B)
    before = world.state
    world.send(Lost(world.state.generation, FATAL))
    assert world.state.rejected is not None
    test = learn({}, before, world.state, 100.0)
    assert test == {"org/b": Setback(world.state.rejected, 60.0, 160.0)}
    return before


def test_given_up_model_waits_longer_each_time_but_not_for_ever() -> None:
    _fail_to_start(arrange("ready"))
    world = arrange("ready, swap in preflight")
    before = world.state
    world.send(CheckFailed(B, FATAL))
    setbacks: dict[str, Setback] = {}
    waits = []
    for _ in range(6):
        setbacks = learn(setbacks, before, world.state, 0.0)
        waits.append(setbacks["org/b"].wait_s)
    assert waits == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    assert learn(setbacks, world.state, world.state, 9.0) == setbacks, "told once"


def test_model_that_failed_with_nothing_to_go_back_to_is_set_back_too() -> None:
    world = arrange("preparing")
    before = world.state
    world.send(CheckFailed(A, FATAL))
    assert set(learn({}, before, world.state, 0.0)) == {"org/a"}


def test_ready_model_has_no_setback() -> None:
    world = arrange("ready")
    failure = arrange("failed").state.last_failure
    assert failure is not None
    setbacks = {name: Setback(failure, 60.0, 1.0) for name in ("org/a", "org/b")}
    assert set(learn(setbacks, world.state, world.state, 0.0)) == {"org/b"}


# --- the whole of it, simulated ----------------------------------------------------------------


@dataclass
class Shop:
    """A daemon that only swaps on demand, and the requests that wait in it."""

    stay_s: float
    load_s: float
    world: Environment = field(default_factory=lambda: arrange("ready"))
    turn: Turn | None = None
    coming: list[tuple[str, float]] = field(default_factory=list)
    waiting: list[tuple[str, float]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    changes: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with the turn of the model that is served."""
        self._take_turn()

    @property
    def goal(self) -> str:
        assert self.world.state.goal is not None
        return self.world.state.goal.model

    def _take_turn(self) -> None:
        self.turn = next_turn(self.turn, self.world.state, self.world.now)

    def _send(self, event: Event) -> None:
        self.world.send(event)
        self._take_turn()

    def _serve(self) -> None:
        if self.world.admitted is not None:
            served = [w for w in self.waiting if w[0] == self.goal]
            self.waits += [self.world.now - since for _, since in served]
            self.waiting = [w for w in self.waiting if w not in served]

    def look(self) -> float | None:
        """Do what is to be done now; return when to look again."""
        self.waiting += [r for r in self.coming if r[1] <= self.world.now]
        self.coming = [r for r in self.coming if r[1] > self.world.now]
        self._serve()
        oldest: dict[str, float] = {}
        for model, since in self.waiting:
            if model != self.goal:
                oldest.setdefault(model, since)
        assert self.turn is not None
        free = free_at(self.turn, self.world.state, self.stay_s)
        choice = choose(oldest, free, self.world.now)
        if choice.model is not None:
            assert choice.model == min(oldest, key=lambda model: oldest[model]), "not the oldest"
            self._change(GOALS[choice.model])
            return self.look()
        return choice.look_at

    def _change(self, goal: LaunchSpec) -> None:
        self.changes.append((self.world.now, goal.model))
        self._send(Want(goal))
        while (
            self.world.state.phase != "ready" or self.world.admitted is None or not self._is_there
        ):
            answer = self.world.next_answers()[0]
            if isinstance(answer, Ready):
                self.world.now += self.load_s
            self._send(answer)

    @property
    def _is_there(self) -> bool:
        live = self.world.state.live
        return live is not None and live.plan.goal == self.world.state.goal

    def pass_time(self, until: float) -> None:
        """Let time pass, waking up as asked for and for each request."""
        while True:
            wakes = [self.look(), *(at for _, at in self.coming[:1])]
            due = [at for at in wakes if at is not None and at <= until]
            if not due:
                break
            self.world.now = max(self.world.now, min(due))
        self.world.now = max(self.world.now, until)


ARRIVALS = st.lists(
    st.tuples(st.floats(0.0, 20.0), st.sampled_from(sorted(GOALS)), st.booleans()), max_size=60
)


@given(ARRIVALS, st.floats(0.0, 60.0), st.floats(0.0, 100.0))
def test_nobody_starves_and_nothing_thrashes(
    arrivals: list[tuple[float, str, bool]], stay_s: float, load_s: float
) -> None:
    shop = Shop(stay_s, load_s)
    at = began = shop.world.now
    for gap_s, model, leaves in arrivals:
        at += gap_s
        if not leaves:  # before anybody looked
            shop.coming.append((model, at))
    shop.pass_time(at + len(GOALS) * (stay_s + load_s) + 1.0)
    assert not shop.waiting
    # While others load and stay, and once more for what had just begun when it came.
    assert max(shop.waits, default=0.0) <= len(GOALS) * (stay_s + load_s) + 1e-6
    times = [began - load_s, *(at for at, _ in shop.changes)]
    assert all(b - a >= stay_s + load_s - 1e-6 for a, b in pairwise(times))
    named = {model for _, model, leaves in arrivals if not leaves}
    assert {model for _, model in shop.changes} <= named, "started for who had left"


def test_two_clients_that_take_turns_change_it_once_a_stay_and_are_served_in_batches() -> None:
    shop = Shop(STAY_S, 5.0)
    began = shop.world.now
    shop.coming = [(("org/a", "org/b")[n % 2], began + n) for n in range(600)]
    shop.pass_time(began + 700.0)
    elapsed_s = shop.world.now - began
    assert 2 <= len(shop.changes) <= elapsed_s / (STAY_S + 5.0) + 1
    assert max(shop.waits) <= 2 * (STAY_S + 5.0)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_frees_the_way_sooner_or_later(situation: str) -> None:
    world = arrange(situation)
    if world.state.goal is None:
        return
    settled = world.settle()
    if settled.state.goal is None:
        return
    assert _free_at(settled) is not None


def test_scripts_and_settled_worlds_know_whose_turn_it_is() -> None:
    for script in SCRIPTS.values():
        world = Environment()
        turn: Turn | None = None
        for event in script:
            world.send(event)
            turn = next_turn(turn, world.state, world.now)
            assert (turn.goal if turn is not None else None) == world.state.goal


def test_unloaded_model_makes_way_at_once() -> None:
    world = arrange("ready")
    turn = _play(world, next_turn(None, world.state, world.now), Unload(1.0), Drained(1), Gone(1))
    assert turn is not None
    free = free_at(turn, world.state, STAY_S)
    assert choose({"org/b": world.now}, free, world.now) == Choice("org/b")
    world.send(Want(B))
    assert world.settle().spawned[-1] == fitted(B)
