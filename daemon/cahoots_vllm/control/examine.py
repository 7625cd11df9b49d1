"""Everything that is looked at before a goal is started: the engine's options, the model, the hub.

What a library says is masked here; the answer is a launch spec to start, or why there is none.
"""

import os
from collections.abc import Mapping
from dataclasses import replace

from cahoots_vllm.control.fit_check import FitCheck
from cahoots_vllm.control.option_check import OptionCheck
from cahoots_vllm.control.preflight import Preflight, ProgressSink
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.launch import LaunchSpec, build_env, inherited_env
from cahoots_vllm.core.secret import is_secret_name, mask
from cahoots_vllm.core.settings import Settings


async def examine(
    goal: LaunchSpec,
    settings: Settings,
    options: OptionCheck,
    preflight: Preflight,
    fit: FitCheck,
    *,
    progress: ProgressSink,
    repairs: bool,
) -> LaunchSpec | Diagnosis:
    """Return what to start for a goal, or why it cannot be.

    `repairs`: damaged files are taken away first, so that they are fetched again.
    """
    known = tuple(profile.name for profile in settings.profiles)
    env = child_environment(goal, settings, with_token=True)
    plain = child_environment(goal, settings, with_token=False)
    result: LaunchSpec | Diagnosis | None
    try:
        result = await options.check(goal, settings.engine, plain, progress)
        if result is None:
            result = await preflight.check(goal, env, known, progress, repairs=repairs)
        if isinstance(result, LaunchSpec):
            result = await fit.refuse(result, settings) or result
    except CahootsError as error:
        result = Diagnosis(Cause.UNKNOWN, error.message, error.remedy, is_retryable=True)
    except OSError as error:  # a TimeoutError is one too
        result = _unreadable(goal, error)
    if not isinstance(result, Diagnosis):
        return result
    # A hub, or a library, may repeat what it was asked with.
    words = mask(result.evidence, (secret for _, secret in settings.secret_env))
    return replace(result, evidence=words)


def _unreadable(goal: LaunchSpec, error: OSError) -> Diagnosis:
    """Say that the model's files cannot be looked at: no permission, or a disk that hangs."""
    evidence = f"cannot read the files of {goal.source}: {error.strerror or 'no answer in time'}"
    remedy = f"let uid {os.geteuid()} read them; a network disk may be gone"
    return Diagnosis(Cause.HUB_NOT_FOUND, evidence, remedy, is_retryable=False)


def child_environment(
    spec: LaunchSpec, settings: Settings, *, with_token: bool
) -> Mapping[str, str]:
    """Return a child's environment: ours without secrets, `.env`'s, the token if asked."""
    secret_names = [name for name in os.environ if is_secret_name(name)]
    inherited = inherited_env(os.environ, secret_names)
    env = build_env(spec, inherited, settings.cache_dir, settings.engine.version)
    if with_token:
        env.update((name, secret.reveal()) for name, secret in settings.secret_env)
    return env
