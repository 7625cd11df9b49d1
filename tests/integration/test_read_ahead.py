"""The next model's weights are in the page cache before its engine asks for them."""

import os
from pathlib import Path

import pytest

from cahoots_vllm.core.amounts import MIB

from .harness import Daemon, wait_for

_HEADER = b'{"w":{"dtype":"U8","shape":[8388608],"data_offsets":[0,8388608]}}'


def _write_cold(path: Path) -> None:
    """Write weights that only the disk has."""
    with path.open("wb") as file:
        file.write(len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(8 * MIB))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], 4 * MIB, os.RWF_NOWAIT)
        except BlockingIOError:
            return
        except OSError:
            return  # this filesystem does not say what is cached, so all is read
    pytest.skip("this filesystem is nowhere but in memory")


def test_weights_of_the_next_model_are_read_before_its_engine_starts(daemon: Daemon) -> None:
    directory = daemon.root / "models" / "org-b"
    daemon.start_ready()
    _write_cold(directory / "model.safetensors")
    done = daemon.ctl("swap-model", "org/b")
    assert done.returncode == 0, done.stderr

    said = f"of {directory} ahead of its start"
    wait_for(lambda: any(said in entry["text"] for entry in daemon.log_entries(200)), what=said)
