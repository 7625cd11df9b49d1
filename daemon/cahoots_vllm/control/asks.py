"""What people and their files ask of the supervisor: each ask is refused, or an operation begins.

Owns no state but whether it still takes any; what is wanted is `Wanted`'s, and what comes of it
is decided by the lifecycle.
"""

from collections.abc import Callable, Mapping

from cahoots_vllm.control.announcer import Announcer
from cahoots_vllm.control.learned import Learned
from cahoots_vllm.control.operation import Before, Caller, Operation, Target
from cahoots_vllm.control.operations import PULL, Operations
from cahoots_vllm.control.refusal import check_may_start, check_name, check_strategy
from cahoots_vllm.control.wanted import Wanted, goal_of, must_want
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.events import Event, Forget, Restart, Tick, Want
from cahoots_vllm.core.settings import Settings, make_launch_spec
from cahoots_vllm.core.state import State
from cahoots_vllm.core.wire import SwapStrategy


class Asks:
    """Takes them one at a time, and makes events of them."""

    def __init__(
        self,
        wanted: Wanted,
        operations: Operations,
        announcer: Announcer,
        learned: Learned,
        *,
        read_state: Callable[[], State],
        handle: Callable[[Event], None],
    ) -> None:
        """`handle` takes a step of the lifecycle at once; `read_state` tells what is then."""
        self._wanted = wanted
        self._operations = operations
        self._announcer = announcer
        self._learned = learned
        self._read_state = read_state
        self._handle = handle
        # The daemon ends: nothing may be asked for any more.
        self.is_closed = False

    @property
    def _settings(self) -> Settings:
        return self._wanted.settings

    @property
    def _state(self) -> State:
        return self._read_state()

    def swap_model(
        self,
        model: str | None,
        by: Caller,
        *,
        saves: bool = False,
        strategy: SwapStrategy | None = None,
    ) -> Operation:
        """Serve another model; None ends the override and goes back to `.env`'s.

        `saves`: it is done once `Reloader` has written it into `.env`, too. `strategy`: how the
        worker is changed, None as the settings say.

        Raises CahootsError: BAD_REQUEST for a name that cannot be one, BUSY, CONFLICT.
        """
        if model is not None:
            self.refuse_swap(model)
        check_may_start(self._settings)
        check_strategy(strategy, self._settings, self._state)
        settings = self._wanted.swapped(model)
        goal = goal_of(settings)
        params = {"model": model} if model is not None else {"reset": "true"}
        operation = self._begin("swap-model", params, by, Target(goal), saves=saves)
        self._wanted.swap(settings)
        self._handle(Want(goal, strategy))
        return self._operations.get(operation.id)

    def refuse_swap(self, model: str) -> None:
        """Raise CahootsError (BAD_REQUEST, BUSY, CONFLICT) where a swap to this cannot be."""
        check_name(model)
        check_may_start(self._settings)
        self.refuse_while_stopping()
        self._operations.refuse_if_busy()

    def start(self, by: Caller) -> Operation:
        """Start the worker, or try again at once after a failure. Raises CahootsError."""
        check_may_start(self._settings)
        goal = self._wanted.goal
        operation = self._begin("start", {}, by, Target(goal))
        self._handle(Want(goal))
        return self._operations.get(operation.id)

    def stop(self, by: Caller) -> Operation:
        """Drain and stop the worker; the daemon stays. Raises CahootsError (BUSY)."""
        operation = self._begin("stop", {}, by, Target(None))
        self._handle(Want(None))
        return self._operations.get(operation.id)

    def restart(self, by: Caller) -> Operation:
        """Replace the worker by a fresh one of the same kind. Raises CahootsError."""
        check_may_start(self._settings)
        goal = self._state.goal or self._wanted.goal
        after = self._state.generation
        operation = self._begin("restart", {}, by, Target(goal, after))
        self._handle(Restart() if self._state.goal is not None else Want(goal))
        return self._operations.get(operation.id)

    def adopt(self, settings: Settings, by: Caller, changed: str | None) -> Operation | None:
        """Go on with other settings (`changed` says which); the worker changes only if it has to.

        What a person stopped stays stopped. A failed goal is tried again if anything changed. An
        operation that is under way is superseded where its goal is no longer wanted, and else goes
        on in place of a new one; None then, and where `changed` is: nobody asked, nothing changed.
        """
        old = self._settings
        self._wanted.take(settings)
        is_wanted = self._state.goal is not None or not old.is_local
        goal = self._wanted.goal if settings.is_local and is_wanted else None
        superseded = self._operations.supersede(goal) if not self.is_closed else None
        if superseded is not None:
            self._announcer.operation(superseded)
        is_free = self._operations.running is None and not self.is_closed
        operation = None
        if is_free and changed is not None:
            operation = self._begin("reload", {"changed": changed}, by, Target(goal))
        must_act = must_want(goal, old, settings, self._state, is_asked=changed is not None)
        # What does not concern the goal may still concern who waits: a step of its own, too.
        self._handle(Want(goal) if must_act and not self.is_closed else Tick())
        return self._operations.get(operation.id) if operation is not None else None

    def abort(self, id_: str) -> Operation:
        """End a running operation and want what was wanted before it. Raises CahootsError."""
        self.refuse_while_stopping()
        operation = self._operations.abort(id_)
        self._announcer.operation(operation)
        if operation.kind == PULL:  # `Pulls` sees it; what is wanted is another matter
            return operation
        before = operation.before
        if operation.kind == "swap-model":
            self._wanted.restore(before.override, before.demanded)
        goal = before.goal
        if before.is_as_set and operation.kind != "reload":  # the settings may be others by now
            goal = self._wanted.goal if self._settings.is_local else None
        self._handle(Want(goal))
        return operation

    def forget_memory(self, model: str | None) -> int:
        """Forget what was learned about a model's memory, or all of it; return of how many."""
        source = make_launch_spec(self._settings, model).source if model is not None else None
        count = self._learned.reset(source)
        self._handle(Forget(source))
        return count

    def refuse_while_stopping(self) -> None:
        """Raise CahootsError (CONFLICT) while the daemon ends."""
        if self.is_closed:
            raise CahootsError(Kind.CONFLICT, "the daemon is stopping", "start it again")

    def _begin(
        self,
        kind: str,
        params: Mapping[str, str],
        by: Caller,
        target: Target,
        *,
        saves: bool = False,
    ) -> Operation:
        self.refuse_while_stopping()
        self._operations.refuse_if_busy()
        is_as_set = self._settings.is_local and self._wanted.goal == self._state.goal
        settings = self._settings
        before = Before(self._state.goal, settings.override, is_as_set, settings.demanded)
        operation = self._operations.begin(kind, params, by, target, before, saves=saves)
        self._announcer.operation(operation)
        return operation
