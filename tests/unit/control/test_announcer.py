"""What people read of a model that requests swap, unload and bring back."""

from dataclasses import replace

from cahoots_vllm.control.announcer import Announcer
from cahoots_vllm.control.event_hub import EventHub, EventType, PublishedEvent
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import Memory, read_sizes
from cahoots_vllm.core.state import Failure, Idle, Live, Plan, Stage, State

GOAL = LaunchSpec(model="org/a", source="/a", engine="/engine")
PLAN = Plan(GOAL, GOAL, Memory(read_sizes(GOAL), read_sizes(GOAL)))
READY = State(goal=GOAL, plan=PLAN, live=Live(1, PLAN, Stage.READY, 1.0))


def heard() -> tuple[Announcer, list[PublishedEvent]]:
    hub, events = EventHub(), list[PublishedEvent]()
    hub.listen(events.append)
    return Announcer(hub), events


def test_unloading_is_told_apart_from_a_stop() -> None:
    announcer, events = heard()
    idle = Idle(2.0, 600.0)
    draining = Live(1, PLAN, Stage.DRAINING, 2.0)
    for state in (
        READY, replace(READY, live=draining, idle=idle), replace(READY, live=None, idle=idle),
        State(),
    ):  # fmt: skip
        announcer.changed(state)
    assert [event.data["text"] for event in events] == [
        "ready org/a",
        "draining org/a: idle after 600 s without requests",
        "off org/a: unloaded after 600 s without requests; the next request brings it back",
        "off",
    ]
    assert {event.type for event in events} == {EventType.PHASE}


def test_request_that_makes_a_model_start_is_told() -> None:
    announcer, events = heard()
    announcer.demanded("org/b", "swapping to org/b: asked for by a request")
    assert [(event.type, event.data) for event in events] == [
        (EventType.DEMAND, {"model": "org/b", "text": "swapping to org/b: asked for by a request"})
    ]


def test_failure_says_what_is_served_all_the_same() -> None:
    announcer, events = heard()
    diagnosis = Diagnosis(Cause.UNKNOWN, "it died", "look", is_retryable=True)
    other = Failure(2.0, replace(GOAL, model="org/b"), diagnosis, "kept org/a")
    announcer.changed(replace(READY, last_failure=other))
    stopping = Live(1, PLAN, Stage.STOPPING, 3.0)
    own = Failure(3.0, GOAL, diagnosis, "trying again at once")
    announcer.changed(replace(READY, live=stopping, last_failure=own))
    told = [event.data for event in events if event.type is EventType.DIAGNOSIS]
    assert [data["serving"] for data in told] == ["org/a", None]
