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


def masked_words(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return what must not stand in any line, the longest first: one may be part of another.

    A secret with line ends counts line by line. Very short ones are none: masking a "1" or "true"
    would blind whoever reads the phases.
    """
    lines = (line for secret in secrets for line in secret.splitlines())
    return tuple(sorted((w for w in lines if len(w) >= _MIN_SECRET), key=len, reverse=True))


def mask(text: str, secrets: Iterable[Secret]) -> str:
    """Return a text in which no secret stands."""
    for word in masked_words(secret.reveal() for secret in secrets):
        text = text.replace(word, str(Secret("")))
    return text


def is_secret_name(name: str) -> bool:
    """Tell whether an environment variable's name says that its value is a secret."""
    return any(word in name.upper() for word in _SECRET_WORDS)
