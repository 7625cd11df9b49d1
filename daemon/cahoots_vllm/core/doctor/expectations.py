"""What the Cahoots guide expects of a host (docs/LOCAL_INFERENCE.md), by the model to serve.

It speaks of its 32B models: other models, the demo's among them, have no such row.
"""

import re
from dataclasses import dataclass
from typing import Final

from cahoots_vllm.core.amounts import GIB

_SIZE: Final = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)[Bb](?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class Expectation:
    """Bytes. What is sold as "24 GB" or "32 GB" shows up as less: a tenth is allowed for."""

    vram: int
    ram: int
    free_disk: int
    download: int


# "24 GB+ VRAM", "32 GB+ system RAM", "100 GB+ free disk", "~20 GB download".
_GUIDE: Final = Expectation(22 * GIB, 29 * GIB, 93 * GIB, 20 * GIB)
_GUIDE_BILLIONS: Final = (30.0, 35.0)


def expectation_of(*names: str) -> Expectation | None:
    """Return the guide's row for a model, by the size in its names; None where it has none."""
    for name in names:
        for size in _SIZE.findall(name.rpartition("/")[2]):
            if _GUIDE_BILLIONS[0] <= float(size) <= _GUIDE_BILLIONS[1]:
                return _GUIDE
    return None
