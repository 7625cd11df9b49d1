"""How bytes are said to people: one way, everywhere."""

from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
_SMALL: Final = 10 * MIB  # below, a decimal tells something


def size_text(count: float) -> str:
    """Say a size: GiB from one GiB on, MiB below."""
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.1f} MiB" if count < _SMALL else f"{count / MIB:.0f} MiB"
