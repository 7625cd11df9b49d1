"""What a standby has to be made for, to be of use to the next start."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.control.examine import child_environment
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.engine_print import fingerprint
from cahoots_vllm.worker.standby_source import protocol_print


@dataclass(frozen=True, slots=True)
class Wanted:
    """An engine as it is on the disk, and an environment.

    `print` is a digest of these and of the standby's own program: standbys are told apart by it,
    also by a later daemon, since the environment holds secrets. `learned`: the file with what the
    engine's processes import late; it has something in it once a standby became a worker.
    """

    launch: LaunchSpec
    env: Mapping[str, str]
    print: str
    learned: Path
    has_learned: bool


def want(launch: LaunchSpec, settings: Settings) -> Wanted | None:
    """Look at the engine; None: there is none, or it is being installed. Blocking."""
    seen = fingerprint(Path(launch.engine))
    if seen is None:
        return None
    env = child_environment(launch, settings, with_token=True)
    parts = json.dumps([seen, protocol_print(), sorted(env.items())])
    digest = hashlib.sha256(parts.encode()).hexdigest()
    learned = Path(env["VLLM_CACHE_ROOT"]) / f"standby-{settings.engine.version}.modules"
    has_learned = learned.exists() and learned.stat().st_size > 0
    return Wanted(launch, env, digest, learned, has_learned)
