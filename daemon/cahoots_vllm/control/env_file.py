"""Reads `.env`, Cahoots' own file, in python-dotenv's grammar, with the line of each key."""

import io
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from dotenv.variables import parse_variables

from cahoots_vllm.control.settings_schema import refuse_nul
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.files import read_text


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The pairs of a `.env`, the line of each key, and what is odd about it.

    `elsewhere` names the origin of pairs that come from somewhere else.
    """

    values: dict[str, str]
    lines: dict[str, int]
    warnings: tuple[str, ...] = ()
    elsewhere: dict[str, str] = field(default_factory=dict)


def read_env_file(path: Path) -> EnvFile:
    """Return the file's pairs; a key without value is empty, of several the last counts.

    Raises CahootsError (BAD_SETTINGS) naming the line, never its text: it may hold a secret.
    """
    text = read_text(path, what=".env")
    refuse_nul(text, path)
    lines: dict[str, int] = {}
    warnings = []
    for binding in parse_stream(io.StringIO(text)):
        # A binding's text may begin with blank lines and comments that stand before it.
        raw = binding.original.string
        line = binding.original.line + len(raw[: len(raw) - len(raw.lstrip())].splitlines())
        if binding.error:
            raise CahootsError(
                Kind.BAD_SETTINGS,
                f"cannot read {path}, line {binding.original.line}: not KEY=VALUE",
                "mend the line, or put a # before it",
            )
        if binding.key is None:
            continue
        if binding.key in lines:
            first = lines[binding.key]
            # What is no name ("KEY:value", or "KEY" and a token without the "=") may hold a secret.
            is_name = binding.key.isidentifier() and binding.key.isupper()
            name = binding.key if is_name else "the same key"
            warnings.append(f"{name} stands in {path} twice: line {line} counts, not {first}")
        lines[binding.key] = line
    return EnvFile(_resolved(text), lines, tuple(warnings))


def _resolved(text: str) -> dict[str, str]:
    plain = dotenv_values(stream=io.StringIO(text), interpolate=False)
    values: dict[str, str | None] = {}
    for key, value in plain.items():
        # ${NAME} means the file's own keys only: the daemon's environment may hold secrets.
        values[key] = "".join(atom.resolve(values) for atom in parse_variables(value or ""))
    return {key: value or "" for key, value in values.items()}
