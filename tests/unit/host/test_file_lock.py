"""The daemon's lock: one holder, given back by its end, seen by who looks."""

import os
from pathlib import Path

import pytest

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host.file_lock import hold, is_held


def test_second_holder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "runtime"
    assert not is_held(path)
    path.mkdir()
    assert not is_held(path)
    descriptor = hold(path)
    assert is_held(path)
    with pytest.raises(CahootsError) as refused:
        hold(path)
    assert refused.value.kind is Kind.CONFLICT
    os.close(descriptor)
    assert not is_held(path)
    os.close(hold(path))


def test_child_does_not_keep_it(tmp_path: Path) -> None:
    descriptor = hold(tmp_path)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
