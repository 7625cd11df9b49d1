import os
import threading
from pathlib import Path

import pytest

from cahoots_vllm.core.amounts import MIB
from cahoots_vllm.host import read_ahead as module
from cahoots_vllm.host.read_ahead import read_ahead

SIZE = 9 * MIB + 5  # no whole number of pieces


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("1.safetensors", "2.safetensors")]
    for path in paths:
        path.write_bytes(bytes(SIZE))
    return paths


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be cached: not every filesystem can be told to forget."""
    monkeypatch.setattr(module, "_is_cached", lambda *_: False)


def _read(files: list[Path], budget: int, stop: threading.Event | None = None) -> int:
    """Read in a thread of its own: it keeps its priority."""
    found: list[int] = []
    ends = stop or threading.Event()
    thread = threading.Thread(target=lambda: found.append(read_ahead(files, budget, ends)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("budget", [0, 1, SIZE, SIZE + MIB, 2 * SIZE - 1])
def test_no_more_is_read_than_the_budget(files: list[Path], budget: int) -> None:
    assert _read(files, budget) == budget


@pytest.mark.usefixtures("cold")
def test_all_is_read_where_there_is_room(files: list[Path]) -> None:
    assert _read(files, 1 << 40) == 2 * SIZE


@pytest.mark.usefixtures("cold")
def test_it_ends_within_a_piece_when_it_is_stopped(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    read = os.preadv

    def read_and_stop(file: int, buffers: list[memoryview], at: int) -> int:
        stop.set()
        return read(file, buffers, at)

    monkeypatch.setattr(os, "preadv", read_and_stop)
    assert _read(files, 1 << 40, stop) == 4 * MIB


def test_what_is_in_the_page_cache_is_not_read_again(files: list[Path]) -> None:
    with files[0].open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError:
            pytest.skip("this filesystem does not say what is cached")
    assert _read(files, 1 << 40) == 0  # just written


def test_it_gives_way_to_everybody_else_and_the_daemon_does_not(files: list[Path]) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    seen: list[int] = []

    def work() -> None:
        read_ahead(files, 0, threading.Event())
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (seen, os.getpriority(os.PRIO_PROCESS, 0)) == ([19], before)
