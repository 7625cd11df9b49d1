"""What the disk does not do becomes a sentence with what to do."""

import pytest

from cahoots_vllm.control.models import _on_disk
from cahoots_vllm.core.errors import CahootsError, Kind


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/cache/x"), "Permission denied: /cache/x"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (TimeoutError(), "no answer in 60 s, it goes on"),
        (TimeoutError(11, "no thread can be had just now"), "no thread can be had just now"),
    ],
)
async def test_disk_that_refuses_is_told_with_the_place(error: OSError, said: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(CahootsError, match=f"cannot prune: {said}") as raised:
        await _on_disk("prune", fail)
    assert raised.value.kind is Kind.INTERNAL
    assert raised.value.remedy
