"""Why something is not done: to a client of the gateway, or to who asks for a change. Pure."""

from cahoots_vllm.control.rotation import Refusal
from cahoots_vllm.core.env_values import is_model_name
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import LOCAL_PROVIDER, Settings
from cahoots_vllm.core.state import State


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


def check_may_start(settings: Settings) -> None:
    """Raise CahootsError (CONFLICT) where no local model is wanted."""
    if not settings.is_local:
        raise CahootsError(
            Kind.CONFLICT,
            f"LLM_PROVIDER in {settings.env_file} is "
            f"{settings.provider or 'not set'}: no local model is wanted",
            f"set LLM_PROVIDER={LOCAL_PROVIDER} there, then: cahootsctl reload",
        )


def check_name(model: str) -> None:
    """Raise CahootsError (BAD_REQUEST) for a name that cannot be a model's."""
    if not is_model_name(model):
        raise CahootsError(
            Kind.BAD_REQUEST,
            "the model's name is empty, too long, or has odd characters",
            "give ORG/NAME, a profile's name or the absolute path of a model directory",
        )
