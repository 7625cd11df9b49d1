"""The daemon's lock: one holder, given back by its end, seen by who looks."""

import fcntl
import os
import threading
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


def test_look_of_a_moment_is_no_other_holder(tmp_path: Path) -> None:
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.2, os.close, (looking,))
    timer.start()
    os.close(hold(tmp_path))
    timer.join()


def test_child_does_not_keep_it(tmp_path: Path) -> None:
    descriptor = hold(tmp_path)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
