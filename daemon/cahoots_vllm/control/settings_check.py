"""Validates settings without a daemon: `cahoots-vllmd --check`, for `cahootsctl config check`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.control.env_file import read_env_file
from cahoots_vllm.control.option_check import nearest, unknown_option
from cahoots_vllm.control.settings_files import CommandLine, load_settings
from cahoots_vllm.control.settings_schema import (
    ConfigFile,
    ProfileFile,
    parse_toml,
    read_options,
)
from cahoots_vllm.core.env_values import read_env
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.engine_options import EngineOptions
from cahoots_vllm.host.paths import Paths


@dataclass(frozen=True, slots=True)
class Finding:
    """One file (or all of them together), and what is wrong; both texts empty: nothing is."""

    what: str
    error: str = ""
    remedy: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def view(self) -> Mapping[str, object]:
        """The finding as JSON."""
        return {
            "file": self.what,
            "ok": not self.error,
            "error": self.error or None,
            "remedy": self.remedy or None,
            "warnings": list(self.warnings),
        }


def check_settings(paths: Paths, line: CommandLine, files: Iterable[Path]) -> list[Finding]:
    """Return a finding for each file, or one for the settings as the daemon would read them.

    Options are compared with the engine's where a daemon has asked that engine before.
    """
    chosen = list(files)
    if chosen:
        return [_check_file(path) for path in chosen]
    try:
        settings = load_settings(paths, line)
    except CahootsError as error:
        return [Finding("the settings", error.message, error.remedy)]
    what = f"{paths.config}, {settings.env_file}"
    known = EngineOptions(paths.cache_dir, Children()).cached(settings.engine)
    for options in (settings.options, *(profile.options for profile in settings.profiles)):
        found = unknown_option([name for name, _ in options], known) if known else None
        if found is not None:
            why = f"vLLM {settings.engine.version} knows no option --{found}"
            return [Finding(what, why, f"mend it{nearest(found, known or ())}")]
    return [Finding(what, warnings=settings.warnings)]


def _check_file(path: Path) -> Finding:
    try:
        warnings = _read(path)
    except CahootsError as error:
        return Finding(str(path), error.message, error.remedy)
    return Finding(str(path), warnings=warnings)


def _read(path: Path) -> tuple[str, ...]:
    """Read one file by its kind; return what is odd. Raises CahootsError."""
    if path.suffix != ".toml":
        file = read_env_file(path)
        return read_env(file.values, file.lines, str(path)).warnings + file.warnings
    if path.absolute().parent.name == "models.d":
        read_options(parse_toml(path, ProfileFile, "the profile").options, path)
    else:
        read_options(parse_toml(path, ConfigFile, "the configuration").options, path)
    return ()
