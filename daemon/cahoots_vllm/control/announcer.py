"""Turns what changed in the state into events and sentences."""

from cahoots_vllm.control.event_hub import EventHub, EventType
from cahoots_vllm.control.operation import Operation, Progress, operation_view
from cahoots_vllm.core.state import Idle, Stage, State
from cahoots_vllm.core.wire import Phase

# Sub-phases tell something only while these phases last.
_WITH_PROGRESS = (Phase.PREPARING, Phase.STARTING, Phase.STOPPING)


class Announcer:
    """Remembers the last progress and publishes what is new."""

    def __init__(self, events: EventHub) -> None:
        """Nothing was said yet."""
        self._events = events
        self._said: tuple[Phase, str, str | None] | None = None
        self._failure_at: float | None = None
        self._sub_phase: str | None = None
        self._fraction: float | None = None

    def go_on(self, state: State) -> None:
        """Take for told what an earlier daemon has told."""
        if state.last_failure is not None:
            self._failure_at = state.last_failure.at

    def note(self, sub_phase: str, fraction: float | None) -> None:
        """Take the progress of preflight or start."""
        self._sub_phase, self._fraction = sub_phase, fraction

    def progress(self, state: State) -> Progress:
        """Return where the daemon's one job is."""
        phase, model = state.phase, _model(state)
        newcomer = _newcomer(state)
        is_told = phase in _WITH_PROGRESS or state.checking is not None or newcomer is not None
        sub_phase = (self._sub_phase or None) if is_told else None
        fraction = self._fraction if is_told else None
        text = f"{phase} {model}" if model else str(phase)
        if state.idle is not None:
            text += f": {_why_idle(phase, state.idle)}"
        if state.checking is not None and state.live is not None:
            text = f"{text}, preparing {state.checking.model}"
        elif newcomer is not None:
            text = f"{text}, starting {newcomer} beside it"
        if sub_phase:
            text += f": {sub_phase}"
        if fraction is not None:
            text += f" {fraction:.0%}"
        if phase is Phase.BACKOFF and state.last_failure is not None:
            text += f": {state.last_failure.action}"
        return Progress(str(phase), text, sub_phase, fraction)

    def changed(self, state: State) -> None:
        """Publish a new phase or progress, and a failure not yet told."""
        failure = state.last_failure
        if failure is not None and failure.at != self._failure_at:
            self._failure_at = failure.at
            diagnosis = failure.diagnosis
            self._events.publish(
                EventType.DIAGNOSIS,
                {
                    "model": failure.goal.model,
                    "cause": diagnosis.cause.value,
                    "evidence": diagnosis.evidence,
                    "remedy": diagnosis.remedy,
                    "action": failure.action,
                    "serving": _serving(state),
                    "line": diagnosis.line,
                    "changed": [
                        {"option": c.option, "before": c.before, "after": c.after}
                        for c in failure.changes
                    ],
                },
            )
        progress = self.progress(state)
        model = _model(state)
        said = (state.phase, progress.text, model)
        if said == self._said:
            return
        is_new_phase = self._said is None or (state.phase, model) != (self._said[0], self._said[2])
        self._said = said
        if is_new_phase:
            phase = {
                "state": str(state.phase),
                "model": model,
                "text": progress.text,
                "generation": state.live.generation if state.live is not None else None,
            }
            self._events.publish(EventType.PHASE, phase)
        else:
            details = {
                "text": progress.text,
                "sub_phase": progress.sub_phase,
                "fraction": progress.fraction,
                "model": model,
            }
            self._events.publish(EventType.PROGRESS, details)

    def demanded(self, model: str, text: str) -> None:
        """Publish why a model is started that no person has asked for just now."""
        self._events.publish(EventType.DEMAND, {"model": model, "text": text})

    def operation(self, operation: Operation) -> None:
        """Publish a change of an operation."""
        self._events.publish(EventType.OPERATION, operation_view(operation))


def _why_idle(phase: Phase, idle: Idle) -> str:
    asked = f"{idle.after_s:.0f} s without requests"
    if phase is not Phase.OFF:
        return f"idle after {asked}"
    return f"unloaded after {asked}; the next request brings it back"


def _newcomer(state: State) -> str | None:
    """Return the model that is about to take the place of the one that serves."""
    beside = state.beside
    is_coming = beside is not None and beside.stage is Stage.STARTING
    return beside.plan.goal.model if beside is not None and is_coming else None


def _serving(state: State) -> str | None:
    """Return the model that goes on being served, whatever failed."""
    live = state.live
    is_ready = live is not None and live.stage is Stage.READY
    return live.plan.goal.model if live is not None and is_ready else None


def _model(state: State) -> str | None:
    if state.live is not None:
        return state.live.plan.goal.model
    return state.goal.model if state.goal is not None else None
