"""Reads `cahoots-vllm.toml`, profiles, `.env`, credentials once; makes one Settings of them."""

import os
from dataclasses import dataclass
from pathlib import Path

from cahoots_vllm.control.credentials import add_credentials
from cahoots_vllm.control.env_file import EnvFile, read_env_file
from cahoots_vllm.control.key_file import key_file, read_key_file, refuse_keyless
from cahoots_vllm.control.settings_schema import (
    ConfigFile,
    ProfileFile,
    parse_toml,
    read_options,
)
from cahoots_vllm.core.env_values import EnvValues, read_env, unreached
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import (
    GatewaySettings,
    Origins,
    Profile,
    Settings,
    WorkerSettings,
)
from cahoots_vllm.core.sleep import NOT_ON_CPU
from cahoots_vllm.core.wire import SwapStrategy
from cahoots_vllm.host.engine import find_engine
from cahoots_vllm.host.paths import Paths

# Empty in the service's sandbox: ProtectHome= in systemd/cahoots-vllm.service.
_HOMES = ("/home", "/root", "/run/user")
_HIDDEN = (
    "create it, or let the service see its directory: `systemctl edit cahoots-vllm`, with "
    "[Service] and BindReadOnlyPaths={}"
)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the daemon was told on its command line; wins over the files for this run."""

    env_file: Path | None = None
    engine: Path | None = None
    model: str | None = None
    port: int | None = None


def load_settings(paths: Paths, line: CommandLine) -> Settings:
    """Return the settings. Raises CahootsError naming file, line or key, reason and remedy."""
    config = read_config(paths.config)
    profiles = _read_profiles(paths.profile_dirs)
    env_path = (line.env_file or config.env_file or paths.env_file).absolute()
    file = add_credentials(_read_env(env_path, is_service=paths.is_system), os.environ)
    env = read_env(file.values, file.lines, str(env_path), file.elsewhere)
    warnings = (*env.warnings, *file.warnings, *unreached(env, config.gateway.listen))
    if env.provider is None:
        warnings += (f"LLM_PROVIDER is not set in {env_path}: set it to local to serve a model",)
    gateway = _gateway(config, paths.config, env, line.port)
    engine = find_engine(line.engine or config.engine.path)
    if config.swap.strategy is SwapStrategy.SLEEP and engine.is_cpu:
        warnings += (NOT_ON_CPU,)
    return Settings(
        provider=env.provider,
        configured_model=line.model or env.model,
        engine=engine,
        cache_dir=str(paths.cache_dir),
        env_file=str(env_path),
        url=env.url,
        gateway=gateway,
        worker=WorkerSettings(**config.worker.model_dump()),
        standby=config.standby,
        swap=config.swap.strategy,
        sleep=config.swap.sleep(),
        memory=config.memory.limits(),
        profiles=profiles,
        options=read_options(config.options, paths.config),
        worker_env=env.worker_env,
        secret_env=env.secret_env,
        warnings=warnings,
        origins=_origins(config, paths.config, file, env_path, line),
    )


def _gateway(
    config: ConfigFile, config_path: Path, env: EnvValues, port: int | None
) -> GatewaySettings:
    """Return the gateway's settings. Raises CahootsError, also where keys are missing."""
    file = key_file(config, config_path)
    keys = (*config.gateway.api_keys, *(read_key_file(file) if file is not None else ()))
    if env.url_key is not None:
        keys = (*keys, env.url_key)
    gateway = GatewaySettings(
        **config.gateway.model_dump(exclude={"api_keys", "api_keys_file"}),
        api_keys=tuple(dict.fromkeys(keys)),
        api_keys_file=str(file) if file is not None else None,
        port=port or env.gateway_port,
        base_path=env.base_path,
        host=env.url_host,
    )
    refuse_keyless(gateway, config_path)
    if gateway.api_keys and "VLLM_API_KEY" in dict(env.secret_env):
        raise CahootsError(
            Kind.BAD_SETTINGS,
            "cannot use both VLLM_API_KEY and keys of the gateway: a client sends only one",
            "take VLLM_API_KEY out of .env, and say cahootsctl restart: nobody but the gateway "
            "reaches the engine",
        )
    return gateway


def _read_env(path: Path, *, is_service: bool) -> EnvFile:
    try:
        return read_env_file(path)
    except CahootsError as error:
        if is_service and not path.exists() and any(path.is_relative_to(home) for home in _HOMES):
            raise CahootsError(error.kind, error.message, _HIDDEN.format(path.parent)) from error
        raise


def _origins(
    config: ConfigFile, config_path: Path, file: EnvFile, env_path: Path, line: CommandLine
) -> Origins:
    """Return where each value comes from that is no default, by the key people know it by."""
    found: dict[str, str] = {}
    for name in config.model_fields_set:
        section = getattr(config, name)
        if isinstance(section, dict):
            keys = [f"options.{option.replace('_', '-')}" for option in section]
        elif hasattr(section, "model_fields_set"):
            keys = [f"{name}.{key}" for key in section.model_fields_set]
        else:
            keys = [name]
        found.update((key, str(config_path)) for key in keys)
    found.update((key, f"{env_path}, line {number}") for key, number in file.lines.items())
    found.update(file.elsewhere)
    for key, value in (
        ("env_file", line.env_file),
        ("engine.path", line.engine),
        ("LOCAL_LLM_MODEL", line.model),
        ("gateway.port", line.port),
    ):
        if value is not None:
            found[key] = "the command line"
    return tuple(sorted(found.items()))


def read_config(path: Path) -> ConfigFile:
    """Return the configuration; a missing file means the defaults."""
    try:
        path.stat()
    except FileNotFoundError:
        return ConfigFile()
    except OSError:
        pass  # there but closed to us: reading it below says so
    return parse_toml(path, ConfigFile, "the configuration")


def _read_profiles(directories: tuple[Path, ...]) -> tuple[Profile, ...]:
    """Return the profiles by name; a later directory's wins over an earlier one's."""
    found: dict[str, Profile] = {}
    for directory in directories:
        # Not what begins with a dot: an editor's lock or swap file (Emacs: `.#a.toml`).
        for path in sorted(directory.glob("[!.]*.toml")) if directory.is_dir() else ():
            parsed = parse_toml(path, ProfileFile, "the profile")
            found[parsed.name] = Profile(
                name=parsed.name,
                file=path.name,
                source=parsed.source,
                revision=parsed.revision,
                options=read_options(parsed.options, path),
            )
    return tuple(found.values())
