"""Validates settings without a daemon: `cahoots-vllmd --check`, for `cahootsctl config check`."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.control.env_file import read_env_file
from cahoots_vllm.control.key_file import key_file, read_key_file
from cahoots_vllm.control.option_check import STABLE, nearest, unknown_option
from cahoots_vllm.control.settings_files import CommandLine, load_settings, read_config
from cahoots_vllm.control.settings_schema import (
    ConfigFile,
    ProfileFile,
    at_line,
    parse_toml,
    read_options,
)
from cahoots_vllm.core.addresses import is_exposed
from cahoots_vllm.core.env_values import read_env, unreached
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import Options, inherited_env
from cahoots_vllm.core.secret import is_secret_name
from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host.children import Children
from cahoots_vllm.host.engine import find_engine
from cahoots_vllm.host.engine_options import EngineOptions
from cahoots_vllm.host.files import read_text
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

    An engine that was not asked for its options yet is asked now, which takes seconds.
    """
    chosen = list(files)
    if chosen:
        return [_check_file(path, paths, line) for path in chosen]
    try:
        settings = load_settings(paths, line)
        _refuse_unknown(settings.options, paths.config, settings.engine, paths)
        for profile in settings.profiles:
            # A later directory's profile wins over an earlier one's.
            places = (directory / profile.file for directory in reversed(paths.profile_dirs))
            path = next((place for place in places if place.exists()), Path(profile.file))
            _refuse_unknown(profile.options, path, settings.engine, paths)
    except CahootsError as error:
        return [Finding("the settings", error.message, error.remedy)]
    what = f"{paths.config}, {settings.env_file}"
    return [Finding(what, warnings=settings.warnings)]


def _check_file(path: Path, paths: Paths, line: CommandLine) -> Finding:
    try:
        warnings = _read(path, paths, line)
    except CahootsError as error:
        return Finding(str(path), error.message, error.remedy)
    return Finding(str(path), warnings=warnings)


def _read(path: Path, paths: Paths, line: CommandLine) -> tuple[str, ...]:
    """Read one file by its kind; return what is odd. Raises CahootsError."""
    if path.suffix != ".toml":
        file = read_env_file(path)
        env = read_env(file.values, file.lines, str(path))
        return (*env.warnings, *file.warnings, *unreached(env, _listen(paths)))
    warnings: tuple[str, ...] = ()
    if path.absolute().parent.name == "models.d":
        options = read_options(parse_toml(path, ProfileFile, "the profile").options, path)
    else:
        config = parse_toml(path, ConfigFile, "the configuration")
        options = read_options(config.options, path)
        warnings = _read_keys(config, path)
    try:
        engine = find_engine(line.engine)
    except CahootsError:
        unknown = "no engine is there to say whether it knows the options"
        return (*warnings, *((unknown,) if options else ()))
    _refuse_unknown(options, path, engine, paths)
    return warnings


def _listen(paths: Paths) -> tuple[str, ...]:
    """Return where the gateway listens, as far as the configuration can be read."""
    with suppress(CahootsError):
        return read_config(paths.config).gateway.listen
    return ()


def _read_keys(config: ConfigFile, path: Path) -> tuple[str, ...]:
    """Return what is odd about a configuration's keys. Raises CahootsError."""
    file = key_file(config, path)
    keys = config.gateway.api_keys or (read_key_file(file) if file is not None else ())
    if keys or not any(is_exposed(address) for address in config.gateway.listen):
        return ()
    return ("gateway.listen is beyond loopback: refused without a key, here or in LOCAL_LLM_URL",)


def _refuse_unknown(options: Options, path: Path, engine: EngineInfo, paths: Paths) -> None:
    """Raise CahootsError (BAD_SETTINGS) for the first option that the engine does not know."""
    names = [name for name, _ in options]
    if STABLE.issuperset(names):
        return
    secret_names = [name for name in os.environ if is_secret_name(name)]
    env = inherited_env(os.environ, secret_names)
    known = asyncio.run(EngineOptions(paths.cache_dir, Children()).ask(engine, env))
    found = unknown_option(names, known) if known is not None else None
    if found is not None:
        where = f"{path}{at_line(read_text(path, what='the file'), ('options', found))}"
        why = f"vLLM {engine.version} knows no such option"
        remedy = f"correct or remove the key{nearest(found, known or ())}"
        raise CahootsError(Kind.BAD_SETTINGS, f"cannot use {where}: {found}: {why}", remedy)
