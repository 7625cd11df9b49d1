"""Which model is wanted: what the files say, and what people put in its place for now.

Owned by control.supervisor; the state file keeps the override over restarts of the daemon.
"""

from dataclasses import replace

from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import Settings, make_launch_spec
from cahoots_vllm.core.state import State


class Wanted:
    """The settings with the live override in them."""

    def __init__(self, settings: Settings, state_file: StateFile) -> None:
        """`settings` has the override that still holds, if any."""
        self.settings = settings
        self._state_file = state_file

    @property
    def goal(self) -> LaunchSpec:
        """The launch spec of the model that is wanted."""
        return goal_of(self.settings)

    def swapped(self, model: str | None) -> Settings:
        """Return the settings with another override; None, or the files' own model, ends it."""
        override = None if model in (None, self.settings.configured_model) else model
        return replace(self.settings, override=override)

    def carried_over(self, settings: Settings) -> Settings:
        """Return settings that were read again with the live override, while it still holds."""
        is_same_model = settings.configured_model == self.settings.configured_model
        return replace(settings, override=self.settings.override if is_same_model else None)

    def take(self, settings: Settings) -> None:
        """Go on with these settings, their override included."""
        self.settings = settings
        self._state_file.save(
            override=settings.override, configured_model=settings.configured_model
        )

    def override(self, model: str | None) -> None:
        """Want another model, or none in particular."""
        self.take(self.swapped(model))

    def follow(self, before: State, state: State) -> None:
        """Want what the lifecycle went back to, where what was asked for could not be served.

        A daemon restart must not try it again.
        """
        rejected = state.rejected
        if rejected is None or rejected is before.rejected:
            return
        if rejected.goal.model == self.settings.override:
            self.override(state.goal.model if state.goal is not None else None)


def goal_of(settings: Settings) -> LaunchSpec:
    """Return the launch spec of the model that these settings want."""
    return make_launch_spec(settings, settings.wanted_model)


def configured_goal(settings: Settings) -> LaunchSpec:
    """Return what the files ask for, whatever `swap-model` or a fallback put in its place."""
    return make_launch_spec(settings, settings.configured_model)
