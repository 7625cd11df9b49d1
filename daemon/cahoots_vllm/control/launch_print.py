"""Tells launch specs apart by all that a running worker has of them: what it is good for."""

import hashlib
import json
from pathlib import Path

from cahoots_vllm.control.examine import child_environment
from cahoots_vllm.core.launch import LaunchSpec, build_argv
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.engine_print import fingerprint


def launch_print(launch: LaunchSpec, settings: Settings) -> str:
    """Return a digest of engine, arguments, environment and the model's files; "": not known.

    The socket's path is not in it, nor the generation. A digest, since the environment holds
    secrets. Blocking.
    """
    seen = fingerprint(Path(launch.engine))
    if seen is None:
        return ""
    env = child_environment(launch, settings, with_token=True)
    try:
        files = _files(Path(launch.source))
    except OSError:
        return ""  # a directory that is being written, or a disk that is gone
    parts = json.dumps([seen, build_argv(launch, ""), sorted(env.items()), files])
    return hashlib.sha256(parts.encode()).hexdigest()


def _files(directory: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of a model's files; none for a repo of the hub."""
    if not directory.is_dir():
        return []
    stats = ((path.name, path.stat()) for path in sorted(directory.iterdir()) if path.is_file())
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def weights_bytes(launch: LaunchSpec) -> int:
    """Return the size of a model's weights on disk, 0 where they are not in one directory."""
    try:
        return sum(path.stat().st_size for path in Path(launch.source).glob("*.safetensors"))
    except OSError:
        return 0
