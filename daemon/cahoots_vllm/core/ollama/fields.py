"""Members of a client's JSON object, each with the type it must have."""

from collections.abc import Mapping, Sequence
from typing import Final

from cahoots_vllm.core.errors import CahootsError, Kind

Json = Mapping[str, object]

_REMEDY: Final = "see Ollama's documentation of its API"


def wrong(*, what: str, remedy: str = _REMEDY) -> CahootsError:
    """Return the error for a request that cannot be understood."""
    return CahootsError(Kind.BAD_REQUEST, what, remedy)


def text(body: Json, name: str) -> str:
    """Return a string, empty where it is missing or null. Raises CahootsError (BAD_REQUEST)."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise wrong(what=f"{name} must be a string")
    return value


def flag(body: Json, name: str, *, default: bool) -> bool:
    """Return a boolean, the default where it is missing or null. Raises CahootsError."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong(what=f"{name} must be true or false")
    return value


def items(body: Json, name: str) -> Sequence[object]:
    """Return an array, empty where it is missing or null. Raises CahootsError (BAD_REQUEST)."""
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong(what=f"{name} must be an array")
    return value


def texts(body: Json, name: str) -> list[str]:
    """Return an array of strings. Raises CahootsError (BAD_REQUEST)."""
    found = []
    for value in items(body, name):
        if not isinstance(value, str):
            raise wrong(what=f"{name} must be an array of strings")
        found.append(value)
    return found


def objects(body: Json, name: str) -> list[Json]:
    """Return an array of objects. Raises CahootsError (BAD_REQUEST)."""
    found: list[Json] = []
    for value in items(body, name):
        if not isinstance(value, dict):
            raise wrong(what=f"{name} must be an array of objects")
        found.append(value)
    return found


def member(body: object, name: str) -> Json:
    """Return an object within what the engine sent, empty where it is none."""
    value = body.get(name) if isinstance(body, Mapping) else None
    return value if isinstance(value, dict) else {}
