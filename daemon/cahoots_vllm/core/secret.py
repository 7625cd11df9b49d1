"""A value that must never be shown: not in argv, logs, status, state or errors."""

from dataclasses import dataclass, field

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


def is_secret_name(name: str) -> bool:
    """Tell whether an environment variable's name says that its value is a secret."""
    return any(word in name.upper() for word in _SECRET_WORDS)
