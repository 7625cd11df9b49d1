"""The grammar of `cahoots-vllm.toml` and of the profiles: parsed once, at the edge.

Every mistake is a CahootsError (BAD_SETTINGS) with file, line, key, reason and the nearest name.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cahoots_vllm.core.addresses import read_addresses
from cahoots_vllm.core.amounts import GIB
from cahoots_vllm.core.api_keys import read_hash
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import RESERVED_OPTIONS, Options, OptionValue
from cahoots_vllm.core.memory import MemoryLimits
from cahoots_vllm.core.settings import OnDemand, SleepSettings, StandbyMode
from cahoots_vllm.core.wire import SwapStrategy
from cahoots_vllm.host.files import read_text

_SHARE_UNIT = 1000  # the core counts shares in thousandths
_ORIGIN = re.compile(r"^[a-zA-Z][\w+.-]*://[^/?#@\s]+$")
_OPTION_NAME = re.compile(r"^[a-z][a-z0-9.-]*$")
_TABLE = re.compile(r"^\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
# pydantic speaks of Python's types.
_IN_TOML = {
    "tuple_type": "it must be a list: [...]",
    "too_short": "the list must not be empty",
    "string_type": "it must be a text in quotes",
    "dict_type": "it must be a table",
    "model_type": "it must be a table",
}
_KEY = re.compile(r"^\s*\"?([\w.-]+)\"?\s*=")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Gateway(_Strict):
    listen: tuple[str, ...] = Field(("127.0.0.1", "::1"), min_length=1)
    hold_timeout_s: float = Field(600.0, ge=1, le=86400)
    hold_max: int = Field(1000, ge=0, le=100_000)
    hold_bytes: int = Field(64 * 1024 * 1024, ge=0)
    drain_timeout_s: float = Field(120.0, ge=0, le=3600)
    on_demand: OnDemand = OnDemand.OFF
    min_stay_s: float = Field(30.0, ge=0, le=86400)
    idle_stop_s: float = Field(0.0, ge=0, le=31_536_000)
    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    origins: tuple[str, ...] = ()

    @field_validator("listen")
    @classmethod
    def _addresses(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return read_addresses(hosts)

    @field_validator("api_keys")
    @classmethod
    def _hashes(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(read_hash(text) for text in texts)
        except ValueError as error:
            message = f"one is {error}: `cahootsctl config key` makes a key and its hash"
            raise ValueError(message) from error

    @field_validator("origins")
    @classmethod
    def _web_origins(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if text not in {"*", "null"} and not _ORIGIN.match(text):
                message = f"{text!r} is no origin, e.g. https://ai.example.org or http://box:3000"
                raise ValueError(message)
        return tuple(text.lower() for text in texts)


class _Worker(_Strict):
    start_silence_s: float = Field(300.0, ge=1, le=86400)
    stop_grace_s: float = Field(10.0, ge=0, le=600)
    health_interval_s: float = Field(5.0, ge=0.1, le=600)
    stall_timeout_s: float = Field(120.0, ge=0, le=86400)
    orphan_timeout_s: float = Field(300.0, ge=1, le=86400)


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


class _Swap(_Strict):
    strategy: SwapStrategy = SwapStrategy.AUTO
    sleep_memory_gib: Literal["auto"] | Annotated[float, Field(ge=0, le=65536)] = "auto"
    sleep_timeout_s: float = Field(60.0, ge=1, le=3600)

    def sleep(self) -> SleepSettings:
        size = self.sleep_memory_gib
        memory_bytes = None if isinstance(size, str) else round(size * GIB)
        return SleepSettings(memory_bytes, self.sleep_timeout_s)


class ConfigFile(_Strict):
    """`cahoots-vllm.toml`."""

    env_file: Path | None = None
    engine: _Engine = _Engine()
    gateway: _Gateway = _Gateway()
    worker: _Worker = _Worker()
    standby: StandbyMode = StandbyMode.AUTO
    swap: _Swap = _Swap()
    memory: _Memory = _Memory()
    options: dict[str, bool | int | float | str | tuple[str, ...]] = {}


class ProfileFile(_Strict):
    """A file of `models.d/`."""

    name: str = Field(min_length=1)
    source: str | None = None
    revision: str | None = None
    options: dict[str, bool | int | float | str | tuple[str, ...]] = {}


def refuse_nul(text: str, path: Path) -> None:
    """Raise CahootsError for a zero byte: no argument or environment of a process can hold one."""
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot use {path}, line {line}: a zero byte", "mend the line"
        )


_Parsed = TypeVar("_Parsed", ConfigFile, ProfileFile)


def parse_toml(path: Path, model: type[_Parsed], what: str) -> _Parsed:
    """Return a TOML file as the model. Raises CahootsError (BAD_SETTINGS)."""
    text = read_text(path, what=what)
    refuse_nul(text.replace("\\u0000", "\0"), path)
    try:
        return model.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot read {path}: {error}", "mend the line"
        ) from error
    except RecursionError as error:
        raise CahootsError(
            Kind.BAD_SETTINGS, f"cannot read {path}: nested too deeply", "make it flat"
        ) from error
    except ValidationError as error:
        raise _explain(path, text, model, error) from error


def _explain(
    path: Path,
    text: str,
    model: type[BaseModel],
    error: ValidationError,
) -> CahootsError:
    first = error.errors(include_url=False)[0]
    place, kind, message = first["loc"], first["type"], first["msg"]
    if kind == "extra_forbidden":
        message = "no such key"
    message = _IN_TOML.get(kind, message).removeprefix("Value error, ")
    key = ".".join(str(part) for part in place)
    near = difflib.get_close_matches(key.rpartition(".")[2], list(_known_keys(model)), n=1)
    hint = f"; did you mean {near[0]}?" if near and kind == "extra_forbidden" else ""
    return CahootsError(
        Kind.BAD_SETTINGS,
        f"cannot use {path}{at_line(text, place)}: {key}: {message}",
        f"correct or remove the key{hint}",
    )


def at_line(text: str, place: tuple[int | str, ...]) -> str:
    """Return ", line N" for a key of a TOML text, "" where it cannot be found."""
    names = [str(part) for part in place if isinstance(part, str)]
    if not names:
        return ""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = _TABLE.match(line)
        if header:
            table = header[1].strip()
            if table == ".".join(names):
                return f", line {number}"
        written = _KEY.match(line)
        if written and ".".join(filter(None, (table, written[1]))) == ".".join(names):
            return f", line {number}"
    return ""


def _known_keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation)


def read_options(table: Mapping[str, OptionValue], path: Path) -> Options:
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
