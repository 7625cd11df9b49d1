"""Which model is wanted: what the files say, what people put in its place, what requests ask for.

Owned by control.supervisor. The state file keeps the override over restarts of the daemon; what
requests asked for outlasts one only together with its worker (control.handover).
"""

from dataclasses import replace

from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.core.demand import askable_names
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import Settings, make_launch_spec
from cahoots_vllm.core.state import State


class Wanted:
    """The settings with the live override in them, and with the model that was asked for."""

    def __init__(self, settings: Settings, state_file: StateFile) -> None:
        """`settings` has the override that still holds, if any."""
        self.settings = settings
        self._state_file = state_file
        # What was wanted before a swap that is not known yet to work.
        self._before: Settings | None = None

    @property
    def goal(self) -> LaunchSpec:
        """The launch spec of the model that is wanted."""
        return goal_of(self.settings)

    def swapped(self, model: str | None) -> Settings:
        """Return the settings with another override; None, or the files' own model, ends it.

        A person's word ends what requests have asked for.
        """
        override = None if model in (None, self.settings.configured_model) else model
        return replace(self.settings, override=override, demanded=None)

    def carried_over(self, settings: Settings) -> Settings:
        """Return settings that were read again with override and demand, while they still hold."""
        if settings.configured_model != self.settings.configured_model:
            return settings
        settings = replace(settings, override=self.settings.override)
        return _with_demand(settings, self.settings.demanded)

    def take(self, settings: Settings) -> None:
        """Go on with these settings, their override included."""
        self.settings, self._before = settings, None
        self._state_file.save(
            override=settings.override, configured_model=settings.configured_model
        )

    def swap(self, settings: Settings) -> None:
        """Try these settings, which differ by what is wanted only."""
        before = self.settings
        self.take(settings)
        self._before = before

    def demand(self, model: str) -> None:
        """Want a model because requests wait for it; the one that people want ends the demand."""
        self.swap(_with_demand(self.settings, model))

    def go_on(self, demanded: str | None, configured_model: str | None) -> None:
        """Want what requests had asked an earlier daemon for, with this model configured."""
        if configured_model == self.settings.configured_model:
            self.settings = _with_demand(self.settings, demanded)

    def restore(self, override: str | None, demanded: str | None) -> None:
        """Go back to what was wanted before an operation."""
        self.take(_with_demand(self.swapped(override), demanded))

    def follow(self, before: State, state: State) -> None:
        """Want what the lifecycle went back to, where what was asked for could not be served.

        A daemon restart must not try it again.
        """
        rejected, settings = state.rejected, self.settings
        if rejected is None or rejected is before.rejected or state.goal is None:
            return
        back = state.goal.model
        if rejected.goal.model != settings.wanted_model:
            return
        if self._before is not None and self._before.wanted_model == back:
            self.take(self._before)
        elif settings.demanded is not None:
            self.take(replace(settings, demanded=None if back == settings.home_model else back))
        elif settings.override is not None:
            self.take(self.swapped(back))


def _with_demand(settings: Settings, model: str | None) -> Settings:
    """Return the settings with a model that requests ask for, as far as they may."""
    is_other = model != settings.home_model and model in askable_names(settings).values()
    return replace(settings, demanded=model if is_other else None)


def goal_of(settings: Settings) -> LaunchSpec:
    """Return the launch spec of the model that these settings want."""
    return make_launch_spec(settings, settings.wanted_model)


def configured_goal(settings: Settings) -> LaunchSpec:
    """Return what the files ask for, whatever `swap-model` or a fallback put in its place."""
    return make_launch_spec(settings, settings.configured_model)


def must_want(
    goal: LaunchSpec | None, old: Settings, settings: Settings, state: State, *, is_asked: bool
) -> bool:
    """Whether other settings (`is_asked`: a person had them read) are a wish for this goal."""
    has_changed = settings != old
    # What was refused is tried again when anything changed; what was aborted, when asked again.
    is_other = goal != state.goal and (has_changed or (is_asked and state.rejected is None))
    # A typo that was taken back is nothing to be reminded of.
    is_mended = state.rejected is not None and configured_goal(old) != configured_goal(settings)
    return is_other or is_mended or (has_changed and state.is_failed)
