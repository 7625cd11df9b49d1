"""Reads `cahoots-vllm.toml`, the profiles and `.env` once and makes one Settings of them."""

import difflib
import io
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from dotenv.variables import parse_variables
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import RESERVED_OPTIONS, Options, OptionValue
from cahoots_vllm.core.memory import MemoryLimits
from cahoots_vllm.core.settings import (
    GatewaySettings,
    Profile,
    Settings,
    WorkerSettings,
    read_env,
)
from cahoots_vllm.host.engine import find_engine
from cahoots_vllm.host.files import read_text
from cahoots_vllm.host.paths import Paths

_SHARE_UNIT = 1000  # the core counts shares in thousandths
_OPTION_NAME = re.compile(r"^[a-z][a-z0-9.-]*$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Gateway(_Strict):
    listen: tuple[str, ...] = Field(("127.0.0.1", "::1"), min_length=1)
    hold_timeout_s: float = Field(600.0, ge=1, le=86400)
    hold_max: int = Field(1000, ge=0, le=100_000)
    drain_timeout_s: float = Field(120.0, ge=0, le=3600)

    @field_validator("listen")
    @classmethod
    def _loopback_only(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not ip_address(host).is_loopback:
                message = f"{host} is beyond loopback: anyone who reaches it could use the model"
                raise ValueError(message)
        return hosts


class _Worker(_Strict):
    start_silence_s: float = Field(300.0, ge=1, le=86400)
    stop_grace_s: float = Field(10.0, ge=0, le=600)
    health_interval_s: float = Field(5.0, ge=0.1, le=600)


class _Memory(_Strict):
    adapt: bool = True
    floor: float = Field(0.50, ge=0.01, le=1.0)
    step: float = Field(0.05, ge=0.01, le=0.5)
    min_context: int = Field(8192, ge=1)

    def limits(self) -> MemoryLimits:
        return MemoryLimits(
            adapt=self.adapt,
            floor=round(self.floor * _SHARE_UNIT),
            step=round(self.step * _SHARE_UNIT),
            min_context=self.min_context,
        )


class _Engine(_Strict):
    path: Path | None = None


class _ConfigFile(_Strict):
    env_file: Path | None = None
    engine: _Engine = _Engine()
    gateway: _Gateway = _Gateway()
    worker: _Worker = _Worker()
    memory: _Memory = _Memory()
    options: dict[str, bool | int | float | str | tuple[str, ...]] = {}


class _ProfileFile(_Strict):
    name: str = Field(min_length=1)
    source: str | None = None
    revision: str | None = None
    options: dict[str, bool | int | float | str | tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the daemon was told on its command line; wins over the files for this run."""

    env_file: Path | None = None
    engine: Path | None = None
    model: str | None = None
    port: int | None = None


def load_settings(paths: Paths, line: CommandLine) -> Settings:
    """Return the settings. Raises CahootsError naming file, line or key, reason and remedy."""
    config = _read_config(paths.config)
    profiles = _read_profiles(paths.profile_dirs)
    env_file = (line.env_file or config.env_file or paths.env_file).absolute()
    env = read_env(_read_dotenv(env_file), str(env_file))
    warnings = list(env.warnings)
    if env.provider is None:
        warnings.append(f"LLM_PROVIDER is not set in {env_file}: set it to local to serve a model")
    gateway = GatewaySettings(
        **config.gateway.model_dump(),
        port=line.port or env.gateway_port,
        base_path=env.base_path,
    )
    return Settings(
        provider=env.provider,
        configured_model=line.model or env.model,
        engine=find_engine(line.engine or config.engine.path),
        cache_dir=str(paths.cache_dir),
        env_file=str(env_file),
        gateway=gateway,
        worker=WorkerSettings(**config.worker.model_dump()),
        memory=config.memory.limits(),
        profiles=profiles,
        options=_options(config.options, paths.config),
        worker_env=env.worker_env,
        secret_env=env.secret_env,
        warnings=tuple(warnings),
    )


def _read_dotenv(path: Path) -> dict[str, str]:
    """Return the pairs of a `.env`, in python-dotenv's grammar; a key without value is empty."""
    text = read_text(path, what=".env")
    _refuse_nul(text, path)
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            # The line itself may hold a secret: only its number is said.
            raise CahootsError(
                Kind.BAD_SETTINGS,
                f"cannot read {path}, line {binding.original.line}: not KEY=VALUE",
                "mend the line, or put a # before it",
            )
    plain = dotenv_values(stream=io.StringIO(text), interpolate=False)
    values: dict[str, str | None] = {}
    for key, value in plain.items():
        # ${NAME} means the file's own keys only: the daemon's environment may hold secrets.
        values[key] = "".join(atom.resolve(values) for atom in parse_variables(value or ""))
    return {key: value or "" for key, value in values.items()}


def _refuse_nul(text: str, path: Path) -> None:
    """Raise CahootsError for a zero byte: no argument or environment of a process can hold one."""
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot use {path}, line {line}: a zero byte", "mend the line"
        )


def _read_config(path: Path) -> _ConfigFile:
    """Return the configuration; a missing file means the defaults."""
    try:
        path.stat()
    except FileNotFoundError:
        return _ConfigFile()
    except OSError:
        pass  # there but closed to us: reading it below says so
    return _parse_toml(path, _ConfigFile, "the configuration")


def _read_profiles(directories: tuple[Path, ...]) -> tuple[Profile, ...]:
    """Return the profiles by name; a later directory's wins over an earlier one's."""
    found: dict[str, Profile] = {}
    for directory in directories:
        for path in sorted(directory.glob("*.toml")) if directory.is_dir() else ():
            parsed = _parse_toml(path, _ProfileFile, "the profile")
            found[parsed.name] = Profile(
                name=parsed.name,
                file=path.name,
                source=parsed.source,
                revision=parsed.revision,
                options=_options(parsed.options, path),
            )
    return tuple(found.values())


_Parsed = TypeVar("_Parsed", _ConfigFile, _ProfileFile)


def _parse_toml(path: Path, model: type[_Parsed], what: str) -> _Parsed:
    text = read_text(path, what=what)
    _refuse_nul(text.replace("\\u0000", "\0"), path)
    try:
        return model.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot read {path}: {error}", "mend the line"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        known = list(_known_keys(model))
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
        hint = f"; did you mean {near[0]}?" if near and first["type"] == "extra_forbidden" else ""
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot use {path}: {key}: {first['msg']}",
            f"correct or remove the key{hint}",
        ) from error


def _known_keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation)


def _options(table: Mapping[str, OptionValue], path: Path) -> Options:
    """Return `vllm serve` options. Raises CahootsError for a name that cannot be one."""
    found: dict[str, OptionValue] = {}
    for written, value in table.items():
        # vLLM takes both spellings; two of them must not become two options.
        name = written.replace("_", "-")
        if name in RESERVED_OPTIONS:
            raise CahootsError(
                Kind.BAD_SETTINGS,
                f"cannot use {path}: options.{name}: the daemon sets it itself",
                "remove the key",
            )
        if not _OPTION_NAME.match(name):
            raise CahootsError(
                Kind.BAD_SETTINGS,
                f"cannot use {path}: options.{written}: not an option name",
                "use vllm serve's long name without dashes, e.g. max-model-len",
            )
        found[name] = value
    return tuple(found.items())
