"""Why something is not done: to a client of the gateway, or to who asks for a change. Pure."""

from collections.abc import Mapping

from cahoots_vllm.control.terms import Refusal, Terms
from cahoots_vllm.core.demand import Setback
from cahoots_vllm.core.env_values import is_model_name
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import can_sleep
from cahoots_vllm.core.settings import LOCAL_PROVIDER, Settings
from cahoots_vllm.core.sleep import NOT_ON_CPU
from cahoots_vllm.core.state import State
from cahoots_vllm.core.wire import SwapStrategy


def refusal(state: State, settings: Settings) -> Refusal | None:
    """Return why holding a request would be useless: no worker will come by itself."""
    if state.goal is None:
        if not settings.is_local:
            message = f"no local model is wanted: LLM_PROVIDER is {settings.provider}"
            return Refusal(message, f"set LLM_PROVIDER={LOCAL_PROVIDER} in .env")
        return Refusal("the model is stopped", "start it: cahootsctl start")
    if state.is_failed and state.last_failure is not None:
        diagnosis = state.last_failure.diagnosis
        message = f"{state.goal.model} cannot be served: {diagnosis.evidence}"
        return Refusal(message, diagnosis.remedy)
    return None


def make_terms(
    state: State, settings: Settings, names: Mapping[str, str], setbacks: Mapping[str, Setback]
) -> Terms:
    """Return the terms for requests; `names` are those to be asked for, with their models."""
    general = refusal(state, settings)
    if state.goal is None:
        return Terms(general)  # a person's stop goes before any request
    refusals = {}
    for name, model in names.items():
        if name in state.goal.served:
            if general is not None:
                refusals[name] = general
        elif model in setbacks:
            refusals[name] = _set_back(model, setbacks[model])
    asleep = state.goal.served if state.idle is not None else ()
    return Terms(general, frozenset(names), refusals, asleep)


def _set_back(model: str, setback: Setback) -> Refusal:
    diagnosis = setback.failure.diagnosis
    remedy = f"{diagnosis.remedy}; a request tries again {setback.wait_s:.0f} s after the failure"
    return Refusal(
        f"{model} cannot be served: {diagnosis.evidence}", remedy.lstrip("; "), setback.until
    )


def check_may_start(settings: Settings) -> None:
    """Raise CahootsError (CONFLICT) where no local model is wanted."""
    if not settings.is_local:
        raise CahootsError(
            Kind.CONFLICT,
            f"LLM_PROVIDER in {settings.env_file} is "
            f"{settings.provider or 'not set'}: no local model is wanted",
            f"set LLM_PROVIDER={LOCAL_PROVIDER} there, then: cahootsctl reload",
        )


def check_strategy(strategy: SwapStrategy | None, settings: Settings, state: State) -> None:
    """Raise CahootsError (CONFLICT) where a person asks for a sleep that cannot be."""
    if strategy is not SwapStrategy.SLEEP:
        return
    if settings.engine.is_cpu:
        remedy = "leave the strategy out, or swap with strategy sequential"
        raise CahootsError(Kind.CONFLICT, NOT_ON_CPU, remedy)
    live = state.live
    if live is None or can_sleep(live.plan.launch):
        return
    raise CahootsError(
        Kind.CONFLICT,
        f"{live.plan.goal.model} was not started so that it can sleep",
        'set strategy = "sleep" under [swap] in cahoots-vllm.toml: workers started after that can',
    )


def check_name(model: str) -> None:
    """Raise CahootsError (BAD_REQUEST) for a name that cannot be a model's."""
    if not is_model_name(model):
        raise CahootsError(
            Kind.BAD_REQUEST,
            "the model's name is empty, too long, or has odd characters",
            "give ORG/NAME, a profile's name or the absolute path of a model directory",
        )


def check_revision(revision: str) -> None:
    """Raise CahootsError (BAD_REQUEST) for what cannot be a branch, tag or commit."""
    # It becomes a file below `refs/` (git-check-ref-format(1) allows no such parts).
    if not is_model_name(revision) or {"", ".", ".."} & set(revision.split("/")):
        raise CahootsError(
            Kind.BAD_REQUEST,
            "the revision is empty, too long, or has odd characters",
            "give a branch, a tag or a commit of the repo, or none for its main branch",
        )
