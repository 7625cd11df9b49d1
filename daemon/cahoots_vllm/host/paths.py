"""Where files are in system mode and in user mode (DESIGN §3)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.core.wire import SYSTEM_SOCKET, user_runtime_dir

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Paths:
    """Directories and files of one daemon."""

    is_system: bool
    config: Path
    env_file: Path
    runtime_dir: Path
    state_file: Path
    cache_dir: Path
    profile_dirs: tuple[Path, ...]

    @property
    def control_socket(self) -> Path:
        """The control API's socket."""
        return self.runtime_dir / "control.sock"


def shipped_profiles() -> Path:
    """Return the profiles that come with the program: in a package, or in its checkout."""
    packaged = _PACKAGE / "models.d"
    return packaged if packaged.is_dir() else _PACKAGE.parent.parent / "etc" / "models.d"


def system_paths(config: Path | None) -> Paths:
    """Return the paths of the systemd service."""
    file = config or Path("/etc/cahoots-vllm/cahoots-vllm.toml")
    return Paths(
        is_system=True,
        config=file,
        env_file=Path("/etc/cahoots-vllm/.env"),
        runtime_dir=Path(SYSTEM_SOCKET).parent,
        state_file=Path("/var/lib/cahoots-vllm/state.json"),
        cache_dir=Path("/var/cache/cahoots-vllm"),
        profile_dirs=(shipped_profiles(), file.parent / "models.d"),
    )


def user_paths(config: Path | None, env: Mapping[str, str]) -> Paths:
    """Return the paths of a daemon run by a person, without root (XDG base directories)."""
    home = Path(env.get("HOME") or "~").expanduser()

    def base(name: str, default: str) -> Path:
        return Path(env.get(name) or home / default) / "cahoots-vllm"

    file = config or base("XDG_CONFIG_HOME", ".config") / "cahoots-vllm.toml"
    return Paths(
        is_system=False,
        config=file,
        env_file=Path.cwd() / ".env",
        runtime_dir=Path(user_runtime_dir(env, os.geteuid())),
        state_file=base("XDG_STATE_HOME", ".local/state") / "state.json",
        cache_dir=base("XDG_CACHE_HOME", ".cache"),
        profile_dirs=(shipped_profiles(), file.parent / "models.d"),
    )
