"""Memory goes into huge pages, and only what is worth it: own, mostly there, and allowed."""

import ctypes
import errno
import mmap
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from cahoots_vllm.worker import launcher_pages
from cahoots_vllm.worker.launcher_pages import THREAD, arrange, collapse_all

HUGE, SMALL = 2 << 20, mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
RELEASE = tuple(int(part) for part in os.uname().release.split(".")[:2])
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
needs_kernel = pytest.mark.skipif(
    RELEASE < (6, 1) or not SETTING.exists() or "[madvise]" not in SETTING.read_text(),
    reason="no MADV_COLLAPSE, or this host gives huge pages to nobody, or to everybody at once",
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_pages, "_DELAY_S", 0.0)


@contextmanager
def memory(pages: int, left_out: int = 0) -> Iterator[tuple[mmap.mmap, int]]:
    """Yield so many huge pages' worth of small pages, written to but for each `left_out`th."""
    with mmap.mmap(-1, (pages + 1) * HUGE, flags=PRIVATE) as mapped:
        mapped.madvise(mmap.MADV_DONTDUMP)  # keeps it apart from its neighbours in smaps
        address = start_of(mapped)
        first = -address % HUGE
        for page in range(pages * HUGE // SMALL):
            if not left_out or page % left_out:
                mapped[first + page * SMALL] = 1 + page % 255
        yield mapped, address + first


def start_of(mapped: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


def huge_bytes(address: int) -> tuple[int, int]:
    """Return how much of the mapping at an address is there, and how much in huge pages."""
    is_it = False
    found = dict[str, int]()
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in line.split()[0]:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            is_it = begin <= address < end
        elif is_it and value.endswith("kB"):
            found[name] = int(value.split()[0]) << 10
    return found["Rss"], found["AnonHugePages"]


def collapse() -> None:
    """Do it as a worker does, in a thread of its own."""
    thread = threading.Thread(target=collapse_all, args=(os.sched_getaffinity(0),))
    thread.start()
    thread.join()


@needs_kernel
def test_own_memory_goes_into_huge_pages_with_its_content() -> None:
    with memory(8) as (mapped, address):
        before = bytes(mapped)
        assert huge_bytes(address)[1] == 0
        collapse()
        assert huge_bytes(address)[1] == 8 * HUGE
        assert bytes(mapped) == before


@needs_kernel
@pytest.mark.parametrize(("left_out", "is_worth_it"), [(8, True), (7, False), (1, False)])
def test_memory_that_is_not_nearly_all_there_stays_so(left_out: int, *, is_worth_it: bool) -> None:
    with memory(4, left_out) as (_, address):
        there = huge_bytes(address)[0]
        collapse()
        found = huge_bytes(address)
        assert found == ((4 * HUGE, 4 * HUGE) if is_worth_it else (there, 0))


@needs_kernel
def test_memory_shared_with_another_process_stays_shared() -> None:
    with memory(4) as (mapped, address):
        fork = multiprocessing.get_context("fork")
        is_up, end = fork.Event(), fork.Event()

        def hold() -> None:
            is_up.set()
            end.wait(20)

        process = fork.Process(target=hold)
        process.start()
        assert is_up.wait(10)
        for own in (0, 4 * 512):  # none, then all but the last one of each huge page
            for page in range(own):
                if page % 512 != 511:
                    mapped[address - start_of(mapped) + page * SMALL] = 7
            collapse()
            assert huge_bytes(address)[1] == 0
        end.set()
        process.join(10)
        collapse()
        assert huge_bytes(address)[1] == 4 * HUGE


def asked(
    monkeypatch: pytest.MonkeyPatch,
    refusal: int,
    beside: AbstractContextManager[None] = nullcontext(),  # noqa: B008 (it has no state)
) -> list[int]:
    """Return the addresses asked about where the kernel refuses each with that number."""
    addresses = list[int]()

    class Libc:
        def __init__(self, _name: None, **_options: bool) -> None:
            """Load nothing."""

        def madvise(self, start: ctypes.c_void_p, length: ctypes.c_size_t, advice: int) -> int:
            assert (length.value, advice) == (HUGE, 25)
            addresses.append(start.value or 0)
            ctypes.set_errno(refusal)
            return -1

    with memory(40) as (_, address), beside:
        monkeypatch.setattr(ctypes, "CDLL", Libc)
        collapse()
        check_whole_pieces_of_plain_own_memory(addresses)
        assert len(addresses) < 40 or {*range(address, address + 40 * HUGE, HUGE)} <= set(addresses)
        return addresses


@pytest.mark.parametrize("refusal", [errno.ENOMEM, errno.EBUSY])
def test_host_or_cgroup_without_memory_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    assert len(asked(monkeypatch, refusal)) == 9


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EAGAIN])
def test_piece_that_cannot_be_collapsed_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    assert len(asked(monkeypatch, refusal)) >= 40


def check_whole_pieces_of_plain_own_memory(addresses: list[int]) -> None:
    known = mappings()
    for address in addresses:
        assert address % HUGE == 0
        inside = [each for each in known if address in each[0] and address + HUGE - 1 in each[0]]
        [(_, flags, name)] = inside
        assert flags == "rw-p"
        assert name[:1] in ("", "[")  # [heap] and the like


def mappings() -> list[tuple[range, str, str]]:
    """Return the addresses, the permissions and the name of each."""
    found = []
    for line in Path("/proc/self/maps").read_bytes().decode(errors="replace").split("\n")[:-1]:
        matched = re.match(r"(\w+)-(\w+) (\S+) \S+ \S+ (\d+) *(.*)", line)
        assert matched, line
        span = range(int(matched[1], 16), int(matched[2], 16))
        found.append((span, matched[3], matched[5] or ("" if matched[4] == "0" else "file")))
    return found


@contextmanager
def odd_mappings(path: Path) -> Iterator[None]:
    """Have memory that is there and must be left alone, some amid other, all off the pace."""
    odd = Path(os.fsdecode(bytes(path) + b"/\xe8 \x0c\r\xe2\x80\xa8"))
    odd.write_bytes(b"x" * 4 * HUGE)
    libc = ctypes.CDLL(None)
    with (
        odd.open("r+b") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as copy,
        mmap.mmap(-1, 4 * HUGE) as shared,
        mmap.mmap(-1, 12 * HUGE, flags=PRIVATE) as parted,
    ):
        for mapped in (copy, shared, parted):
            for offset in range(0, len(mapped), SMALL):
                mapped[offset] = 1
        amid = start_of(parted) + 4 * HUGE + SMALL
        assert libc.mprotect(ctypes.c_void_p(amid), ctypes.c_size_t(4 * HUGE), mmap.PROT_READ) == 0
        assert {"r--p", "rw-s", "rw-p"} <= {flags for _, flags, _ in mappings()}
        yield


def test_only_whole_pieces_of_plain_own_memory_are_asked_about(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beside = odd_mappings(tmp_path)
    assert len(asked(monkeypatch, errno.EINVAL, beside)) >= 40 + 2 * 3


def test_it_begins_late_and_rests_as_long_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    rests, clock = list[float](), count(step=3)
    fake = SimpleNamespace(sleep=rests.append, monotonic=lambda: next(clock))
    monkeypatch.setattr(launcher_pages, "time", fake)
    monkeypatch.setattr(launcher_pages, "_DELAY_S", 1.5)
    addresses = asked(monkeypatch, errno.EINVAL)
    assert rests == [1.5] + [3] * len(addresses)


def test_admin_who_wants_no_huge_pages_gets_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(launcher_pages, "_SETTING", setting)
    assert asked(monkeypatch, 0) == []


@pytest.mark.filterwarnings("error")  # of what a thread lets go
def test_kernel_without_huge_pages_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launcher_pages, "_SETTING", tmp_path / "missing")
    assert asked(monkeypatch, 0) == []


@pytest.mark.filterwarnings("error")  # of what a thread lets go
def test_sandbox_that_forbids_it_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(_pid: int, _cpus: set[int]) -> None:
        raise PermissionError(errno.EPERM, "not in this sandbox")

    monkeypatch.setattr(os, "sched_setaffinity", forbid)
    assert asked(monkeypatch, 0) == []


def test_thread_is_known_by_its_name_and_may_run_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = list[tuple[str, set[int]]]()

    def look() -> Iterator[int]:
        comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text()
        found.append((comm.strip(), os.sched_getaffinity(0)))
        return iter(())

    monkeypatch.setattr(launcher_pages, "_own_memory", look)
    everywhere = os.sched_getaffinity(0)

    def bound() -> None:
        os.sched_setaffinity(0, {min(everywhere)})  # as a worker's main thread is
        thread = threading.Thread(target=collapse_all, args=(everywhere,))
        thread.start()
        thread.join()

    outer = threading.Thread(target=bound)
    outer.start()
    outer.join()
    assert found == [(THREAD, everywhere)]


class Worker:
    """A worker of the engine, as far as its start's last step goes."""

    def compile_or_warm_up_model(self, *, is_quick: bool = False) -> str:
        return "quick" if is_quick else "warm"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    """Return the class in the engine's module."""
    fresh = type("CPUWorker", (Worker,), {})
    module, platform = SimpleNamespace(CPUWorker=fresh), SimpleNamespace(is_cpu=lambda: True)
    monkeypatch.setitem(sys.modules, "vllm.v1.worker.cpu_worker", module)
    platforms = SimpleNamespace(current_platform=platform)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    return fresh


def test_last_step_of_a_start_is_followed_by_it(
    monkeypatch: pytest.MonkeyPatch, worker: type[Worker]
) -> None:
    begun, cpus = threading.Event(), list[set[int]]()

    def note(where: set[int]) -> None:
        cpus.append(where)
        begun.set()

    monkeypatch.setattr(launcher_pages, "collapse_all", note)
    arrange()
    assert worker().compile_or_warm_up_model(is_quick=True) == "quick"
    assert begun.wait(10)
    assert cpus == [os.sched_getaffinity(0)]


def test_start_goes_on_where_no_thread_can_be_had(
    monkeypatch: pytest.MonkeyPatch, worker: type[Worker]
) -> None:
    def refuse(_: threading.Thread) -> None:
        why = "can't start new thread"
        raise RuntimeError(why)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    arrange()
    assert worker().compile_or_warm_up_model() == "warm"


def test_worker_with_its_weights_on_a_gpu_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, worker: type[Worker]
) -> None:
    monkeypatch.setattr(sys.modules["vllm.platforms"].current_platform, "is_cpu", lambda: False)
    arrange()
    assert "compile_or_warm_up_model" not in vars(worker)


@pytest.mark.usefixtures("worker")
def test_engine_whose_worker_is_another_one_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["vllm.v1.worker.cpu_worker"], "CPUWorker", object)
    with pytest.raises(ImportError, match="has no compile_or_warm_up_model"):
        arrange()
