"""A value that must never be shown: not in argv, logs, status, state or errors."""

from collections.abc import Iterable
from dataclasses import dataclass, field

_MIN_SECRET = 6
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


@dataclass(frozen=True, slots=True)
class Secret:
    """Holds a secret; `repr` and `str` mask it, `reveal` is the one way to read it."""

    _value: str = field(repr=False)

    def reveal(self) -> str:
        """Return the plain value, for the environment of a child."""
        return self._value

    def __str__(self) -> str:
        """Mask."""
        return "***"

    def __bool__(self) -> bool:
        """Tell whether there is anything to hide."""
        return bool(self._value)


def mask(text: str, secrets: Iterable[Secret]) -> str:
    """Return a text in which no secret stands; very short ones are none (a "1" or "true")."""
    values = sorted((s.reveal() for s in secrets if len(s.reveal()) >= _MIN_SECRET), key=len)
    for value in reversed(values):  # the longest first: one may be part of another
        text = text.replace(value, str(Secret("")))
    return text


def is_secret_name(name: str) -> bool:
    """Tell whether an environment variable's name says that its value is a secret."""
    return any(word in name.upper() for word in _SECRET_WORDS)
