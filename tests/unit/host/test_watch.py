"""A change of content is told once, when it lies still; nothing else is told."""

import asyncio
import contextlib
import errno
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from watchfiles import awatch
from watchfiles._rust_notify import WatchfilesRustInternalError

from cahoots_vllm.host import watch as module
from cahoots_vllm.host import watched_files
from cahoots_vllm.host.watch import FileWatch

_NOBODY = 65534
_SOON_S = 3.0  # a busy machine; the usual is a sixth of a second
_STILL_S = 0.06  # here and below FileWatch's own are twice and three times as long
_AWAY_S = 0.5
_QUIET_S = 0.3  # long after a change would have been told


@dataclass
class Told:
    """What a watch told, each with the content of its files at that moment."""

    watch: FileWatch
    queue: asyncio.Queue[dict[Path, str | None]] = field(default_factory=asyncio.Queue)

    async def next(self, within_s: float = _SOON_S) -> dict[Path, str | None]:
        return await asyncio.wait_for(self.queue.get(), within_s)

    async def nothing(self, for_s: float = _QUIET_S) -> None:
        await asyncio.sleep(for_s)
        assert self.queue.empty(), self.queue.get_nowait()

    async def once(self, path: Path, content: str | None, within_s: float = _SOON_S) -> None:
        assert await self.next(within_s) == {path: content}
        await self.nothing(0.2)


def quick(files: Callable[[], tuple[Path, ...]]) -> FileWatch:
    return FileWatch(files, settle_s=_STILL_S, vanished_s=_AWAY_S)


def slow(*files: Path) -> FileWatch:
    """Wait so long that a busy machine does not make two changes of one."""
    return FileWatch(lambda: files, settle_s=0.3)


def content(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


@asynccontextmanager
async def watching(*files: Path, watch: FileWatch | None = None) -> AsyncIterator[Told]:
    told = Told(watch or quick(lambda: files))
    await told.watch.begin()

    async def collect() -> None:
        async with aclosing(told.watch.changes()) as changes:
            async for paths in changes:
                told.queue.put_nowait({path: content(path) for path in paths})

    task = asyncio.create_task(collect())
    await asyncio.sleep(0.3)  # until the watch is set and its first tick has passed
    try:
        yield told
    finally:
        if task.done():
            task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def _quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Get the first look of a new watch over with: from then on only notifications are soon."""
    monkeypatch.setattr(module, "_TICK_S", 0.2)


@pytest.fixture
def env(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    return path


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Act as nobody where the tests run as root, in a directory of their own."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / ".env").write_text("A=1\n")
        if os.geteuid() == 0:
            for path in (directory, directory / ".env"):
                os.chown(path, _NOBODY, _NOBODY)
            monkeypatch.setenv("HOME", name)
            os.seteuid(_NOBODY)
        try:
            yield directory
        finally:
            os.seteuid(os.getuid())
            directory.chmod(0o755)


Save = Callable[[Path, str], None]


def rename_over(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def backup_and_rename(path: Path, text: str) -> None:
    """Save as vim does with 'backupcopy=no'."""
    backup = path.with_name(f"{path.name}~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sed(path: Path, text: str) -> None:
    _run("sed", "-i", f"1s/.*/{text.strip()}/", str(path))


def vim(path: Path, text: str) -> None:
    if shutil.which("vim") is None:
        pytest.skip("no vim here")
    _run("vim", "-Nu", "NONE", "-es", "-c", f"1s/.*/{text.strip()}/", "-c", "wq", str(path))


@pytest.mark.parametrize("save", [rename_over, backup_and_rename, in_place, sed, vim])
async def test_each_way_of_saving_is_told_once(env: Path, save: Save) -> None:
    async with watching(env) as told:
        for number in (2, 3):  # the second also proves that the new file is watched
            await asyncio.to_thread(save, env, f"A={number}\n")
            await told.once(env, f"A={number}\n")
        assert (told.watch.mode, told.watch.reason) == ("inotify", "")


async def test_figures_from_save_to_told(env: Path) -> None:
    took_ms = []
    async with watching(watch=FileWatch(lambda: (env,))) as told:
        for number in range(8):
            await asyncio.sleep(0.031 * (number % 3))
            rename_over(env, f"A=1{number}\n")
            start = time.monotonic()
            assert await told.next() == {env: f"A=1{number}\n"}
            took_ms.append(round((time.monotonic() - start) * 1000))
    sys.stdout.write(f"save to told: median {statistics.median(took_ms)} ms of {took_ms}\n")


async def test_content_before_begin_is_known_and_after_it_told(env: Path) -> None:
    watch = FileWatch(lambda: (env,))
    await watch.begin()
    in_place(env, "A=2\n")  # nobody watches yet
    async with aclosing(watch.changes()) as changes, asyncio.timeout(0.8):
        assert await anext(changes) == (env,)


async def test_change_while_the_watch_is_set_is_told_soon(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(*paths: str, **options: Any) -> AsyncGenerator[object, None]:  # noqa: ANN401 (awatch's own)
        await asyncio.to_thread(in_place, env, "A=2\n")
        async with aclosing(awatch(*paths, **options)) as batches:
            async for batch in batches:
                yield batch

    monkeypatch.setattr("cahoots_vllm.host.watch.awatch", late)
    async with watching(env) as told:
        await told.once(env, "A=2\n", within_s=2)


async def test_directory_that_goes_before_it_is_watched_is_looked_for_again(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [FileNotFoundError("No such file or directory"), FileNotFoundError("again")]

    def fail(*paths: str, **options: Any) -> object:  # noqa: ANN401 (awatch's own)
        if failures:
            raise failures.pop()
        return awatch(*paths, **options)

    monkeypatch.setattr("cahoots_vllm.host.watch.awatch", fail)
    async with watching(env) as told:
        await asyncio.sleep(0.2)
        assert (failures, told.watch.mode) == ([], "inotify")
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n", within_s=0.9)


async def test_half_written_file_is_waited_for(env: Path) -> None:
    async with watching(watch=slow(env)) as told:
        with env.open("w") as file:
            for part in range(8):
                file.write(f"A{part}={part}\n")
                file.flush()
                await asyncio.sleep(0.06)
        await told.once(env, "".join(f"A{part}={part}\n" for part in range(8)))


async def test_file_emptied_by_a_shell_is_waited_for(env: Path) -> None:
    async with watching(env) as told:
        process = await asyncio.to_thread(
            subprocess.Popen, ["/bin/sh", "-c", f"(sleep 0.35; echo A=2) >{env}"]
        )
        await told.once(env, "A=2\n")
        await asyncio.to_thread(process.wait)
        start = time.monotonic()
        in_place(env, "")
        await told.once(env, "")
        assert time.monotonic() - start > _AWAY_S


async def test_burst_of_saves_is_told_once_with_the_last(env: Path) -> None:
    async with watching(watch=slow(env)) as told:
        for number in range(10):
            rename_over(env, f"A=1{number}\n")
            await asyncio.sleep(0.04)
        await told.once(env, "A=19\n")


async def test_files_saved_together_are_told_together(env: Path, tmp_path: Path) -> None:
    config = tmp_path / "cahoots-vllm.toml"
    in_place(config, "")
    async with watching(watch=slow(env, config)) as told:
        in_place(env, "A=2\n")
        await asyncio.sleep(0.08)
        in_place(config, "[memory]\n")
        assert await told.next() == {env: "A=2\n", config: "[memory]\n"}
        await told.nothing()


async def test_file_that_vanishes_for_a_moment_has_not_changed(env: Path) -> None:
    away = env.with_name("away")
    async with watching(env) as told:
        Path.rename(env, away)
        await asyncio.sleep(0.3)
        away.rename(env)
        await told.nothing()
        Path.unlink(env)
        await asyncio.sleep(0.3)
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n")


async def test_file_that_stays_away_is_told_and_holds_up_no_other(
    env: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    async with watching(env, other) as told:
        start = time.monotonic()
        Path.unlink(env)
        in_place(other, "new")
        assert await told.next() == {other: "new"}
        assert time.monotonic() - start < _AWAY_S
        await told.once(env, None)
        assert time.monotonic() - start > _AWAY_S
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n")


async def test_what_leaves_the_content_alone_is_not_told(env: Path) -> None:
    async with watching(env) as told:
        Path.touch(env)
        await asyncio.sleep(0.12)
        Path.chmod(env, 0o640)
        await asyncio.sleep(0.12)
        rename_over(env, "A=1\n")
        await asyncio.sleep(0.12)
        in_place(env, "A=2\n")
        await asyncio.sleep(0.03)
        in_place(env, "A=1\n")  # taken back before it lay still
        await told.nothing()


async def test_replaced_by_another_owner_is_told_for_its_content_only(env: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("gives a file to another user")
    new = env.with_name("new")
    async with watching(env) as told:
        for text in ("A=1\n", "A=2\n"):
            new.write_text(text)
            os.chown(new, _NOBODY, _NOBODY)
            new.replace(env)
            await asyncio.sleep(0.12)
        await told.once(env, "A=2\n")


async def test_becoming_unreadable_and_readable_is_told(nobody: Path) -> None:
    env = nobody / ".env"
    async with watching(env) as told:
        env.chmod(0)
        await told.once(env, None)
        env.chmod(0o600)
        await told.once(env, "A=1\n")


async def test_directory_that_may_not_be_listed_is_polled(nobody: Path) -> None:
    directory = nobody / "closed"
    directory.mkdir()
    env = directory / ".env"
    in_place(env, "A=1\n")
    directory.chmod(0o311)
    async with watching(env) as told:
        assert told.watch.mode == "polling"
        assert told.watch.reason == f"no permission to watch {directory}"
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n")
    directory.chmod(0o755)


async def test_swapped_links_of_a_mounted_config_map_are_told(tmp_path: Path) -> None:
    # As the kubelet's atomic writer does it: .env -> ..data/.env, ..data -> ..2026
    mount = tmp_path / "mount"
    mount.mkdir()
    for number in (1, 2, 3):
        (mount / f"..{number}").mkdir()
        (mount / f"..{number}" / ".env").write_text(f"A={number}\n")
    (mount / "..data").symlink_to("..1")
    env = tmp_path / ".env"
    env.symlink_to(mount / ".env")
    (mount / ".env").symlink_to("..data/.env")
    async with watching(env) as told:
        for number in (2, 3):
            (mount / "..data_tmp").symlink_to(f"..{number}")
            (mount / "..data_tmp").replace(mount / "..data")
            await asyncio.to_thread(shutil.rmtree, mount / f"..{number - 1}")
            await told.once(env, f"A={number}\n")
        (mount / "..3" / ".env").write_text("A=4\n")  # behind three links
        await told.once(env, "A=4\n")
        assert told.watch.mode == "inotify"


async def test_file_behind_a_linked_directory_is_watched(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / ".env").write_text(name)
    link = tmp_path / "link"
    link.symlink_to("two/../one")
    env = link / "deep" / ".env"
    async with watching(env) as told:
        in_place(env, "edited")
        await told.once(env, "edited")
        (tmp_path / "new").symlink_to(tmp_path / "two")
        (tmp_path / "new").replace(link)
        await told.once(env, "two")
        in_place(env, "again")
        await told.once(env, "again")


async def test_directory_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    env = tmp_path / "not" / "yet" / ".env"
    async with watching(env) as told:
        env.parent.parent.mkdir()
        await asyncio.sleep(0.12)
        env.parent.mkdir()
        await asyncio.sleep(0.12)
        in_place(env, "A=1\n")
        await told.once(env, "A=1\n")
        await asyncio.to_thread(shutil.rmtree, tmp_path / "not")
        await told.once(env, None)
        env.parent.mkdir(parents=True)
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n")


@pytest.mark.parametrize("how", ["moved away", "removed", "removed, same inode"])
async def test_replaced_directory_is_watched_again(tmp_path: Path, how: str) -> None:
    directory, new = tmp_path / "conf", tmp_path / "conf.new"
    env = directory / ".env"
    directory.mkdir()
    env.write_text("A=1\n")

    def replace() -> None:
        if how != "removed, same inode":
            new.mkdir()
        if how == "moved away":
            directory.rename(tmp_path / "conf.old")
        else:
            shutil.rmtree(directory)
        new.mkdir(exist_ok=True)
        (new / ".env").write_text("A=2\n")
        new.rename(directory)

    async with watching(env) as told:
        await asyncio.to_thread(replace)
        await told.once(env, "A=2\n")
        for number in (3, 4):
            in_place(env, f"A={number}\n")
            await told.once(env, f"A={number}\n", within_s=0.9)


async def test_directory_stands_for_its_toml_files(tmp_path: Path) -> None:
    models = tmp_path / "models.d"
    models.mkdir()
    (models / "a.toml").write_text("1")
    one, two = models / "a.toml", models / "b.toml"
    async with watching(models) as told:
        (models / "README").write_text("no profile")
        (models / "a.toml~").write_text("1")
        await told.nothing(0.2)
        two.write_text("2")
        await told.once(two, "2")
        rename_over(one, "3")
        await told.once(one, "3")
        one.unlink()
        await told.once(one, None)
        await asyncio.to_thread(shutil.rmtree, models)
        await told.once(two, None)
        models.mkdir()
        await told.nothing(0.2)
        two.write_text("4")
        await told.once(two, "4")


async def test_file_that_a_toml_points_at_is_watched(tmp_path: Path) -> None:
    models, real = tmp_path / "models.d", tmp_path / "shared" / "real"
    for directory in (models, real.parent):
        directory.mkdir()
    in_place(real, "1")
    (models / "a.toml").symlink_to(real)
    async with watching(models) as told:
        in_place(real, "2")
        await told.once(models / "a.toml", "2")


async def test_file_that_is_newly_named_is_told_and_one_no_more_named_is_not(
    env: Path, tmp_path: Path
) -> None:
    named = [env]
    other = tmp_path / "elsewhere" / ".env"
    other.parent.mkdir()
    in_place(other, "A=5\n")
    async with watching(watch=quick(lambda: tuple(named))) as told:
        named[:] = [other]
        in_place(env, "A=2\n")  # looks again
        await told.once(other, "A=5\n")
        Path.unlink(env)
        await told.nothing(0.7)
        in_place(other, "A=6\n")
        await told.once(other, "A=6\n")


async def test_noise_beside_the_file_costs_no_looks(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def count(sources: tuple[Path, ...]) -> watched_files.Look:
        looks.append(1)
        return watched_files.look_at(sources)

    monkeypatch.setattr(module, "look_at", count)
    async with watching(env) as told:
        looks.clear()
        for number in range(20):
            (env.parent / "daemon.log").write_text(str(number))
            await asyncio.sleep(0.02)
        assert len(looks) <= 1
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n")


@pytest.mark.parametrize(
    "error",
    [  # as watchfiles 1.3 says EMFILE and ENOSPC, seen below user.max_inotify_*
        WatchfilesRustInternalError(
            "Error creating recommended watcher: Too many open files (os error 24)"
        ),
        OSError('OS file watch limit reached. about ["/x"] (Error { kind: MaxFilesWatch })'),
    ],
)
async def test_exhausted_inotify_means_polling_until_it_is_back(
    env: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("cahoots_vllm.host.watch.awatch", refuse)
    monkeypatch.setattr(module, "_RETRY_TICKS", 2)
    async with watching(env) as told:
        assert told.watch.mode == "polling"
        assert "fs.inotify.max_user_watches" in told.watch.reason
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n")
        monkeypatch.setattr("cahoots_vllm.host.watch.awatch", awatch)
        async with asyncio.timeout(5):
            while told.watch.mode == "polling":  # noqa: ASYNC110 (it has no event for that)
                await asyncio.sleep(0.1)
        in_place(env, "A=3\n")
        await told.once(env, "A=3\n", within_s=0.9)


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in for the kernel's list of mounts."""
    path = tmp_path / "mountinfo"
    monkeypatch.setattr(watched_files, "_MOUNTS", path)
    watched_files._file_system.cache_clear()  # noqa: SLF001 (other mounts from now on)
    yield path
    watched_files._file_system.cache_clear()  # noqa: SLF001


def mount(kind: str, directory: Path) -> str:
    device = directory.stat().st_dev
    return (
        "36 35 98:0 / /x rw - ext4 /dev/x rw\n"
        f"37 35 {os.major(device)}:{os.minor(device)} / /y rw shared:1 - {kind} server:/y rw\n"
    )


async def test_network_file_system_is_polled_as_well(env: Path, mounts: Path) -> None:
    in_place(mounts, mount("nfs4", env.parent))
    async with watching(env) as told:
        assert told.watch.mode == "polling"
        assert f"{env.parent} is on nfs4" in told.watch.reason
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n")


@pytest.mark.parametrize(
    ("kind", "is_remote"),
    [
        *((kind, True) for kind in ("nfs", "cifs", "smb3", "9p", "fuse", "fuse.sshfs", "virtiofs")),
        *(
            (kind, False)
            for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "nfsd")
        ),
    ],
)
def test_file_systems_that_others_write_to(
    env: Path, mounts: Path, kind: str, *, is_remote: bool
) -> None:
    mounts.write_text(mount(kind, env.parent))
    assert bool(watched_files.look_at((env,)).blind) == is_remote


async def test_change_without_notification_is_seen_by_the_heartbeat(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT_S", 0.5)
    grandparent = env.parent / "a"
    deep = grandparent / "b" / ".env"
    for top, text in ((grandparent, "one"), (env.parent / "c", "two")):
        (top / "b").mkdir(parents=True)
        (top / "b" / ".env").write_text(text)
    async with watching(deep) as told:
        await asyncio.sleep(0.5)
        grandparent.rename(env.parent / "old")  # no watched directory is told
        (env.parent / "c").rename(grandparent)
        await told.once(deep, "two")
        deep.write_text("three")
        await told.once(deep, "three", within_s=0.4)


async def test_host_out_of_descriptors_is_no_change(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(env) as told:
        with monkeypatch.context() as broken:

            def refuse(*_: object) -> int:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

            broken.setattr("os.open", refuse)
            Path.touch(env)
            await told.nothing(0.2)
            assert told.watch.reason == "cannot look at the files: Too many open files"
        in_place(env, "A=2\n")
        await told.once(env, "A=2\n")
        assert told.watch.mode == "inotify"


async def test_file_system_that_hangs_holds_one_thread_and_is_said(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    inside = []

    def hang(sources: tuple[Path, ...]) -> watched_files.Look:
        inside.append(1)
        let_go.wait(8)
        return watched_files.look_at(sources)

    monkeypatch.setattr(module, "_LOOK_DEADLINE_S", 0.3)
    async with watching(env) as told:
        monkeypatch.setattr(module, "look_at", hang)
        in_place(env, "A=2\n")
        await told.nothing(1.0)
        assert "could not be read" in told.watch.reason
        assert len(inside) == 1
        let_go.set()
        await told.once(env, "A=2\n")
        assert told.watch.mode == "inotify"


def _inotify_handles() -> int:
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += "inotify" in str(entry.readlink())
    return found


async def test_cancelling_and_closing_leave_nothing_open(env: Path) -> None:
    async with watching(env):
        assert _inotify_handles() == 1
    watch = FileWatch(lambda: (env,))
    await watch.begin()
    async with aclosing(watch.changes()) as changes:
        in_place(env, "A=2\n")
        assert await anext(changes) == (env,)  # before it is watched
        asyncio.get_running_loop().call_later(0.1, in_place, env, "A=3\n")
        assert await anext(changes) == (env,)
        assert _inotify_handles() == 1
    async with asyncio.timeout(2):
        while _inotify_handles():  # noqa: ASYNC110 (its thread ends by itself)
            await asyncio.sleep(0.02)


def test_look_at_odd_things(tmp_path: Path) -> None:
    fifo, loop, folder, gone = (tmp_path / name for name in ("fifo", "loop", "folder", "gone"))
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    (folder / "x.toml").mkdir(parents=True)
    look = watched_files.look_at((fifo, loop, folder, gone, fifo / "below", Path("/")))
    assert {path.name: mark.content for path, mark in look.marks.items()} == {
        "fifo": "no file",
        "loop": f"closed {errno.ELOOP}",
        "x.toml": "no file",
        "gone": "missing",
        "below": "missing",
    }


def test_content_beyond_the_bound_counts_by_its_length(tmp_path: Path) -> None:
    path = tmp_path / "big"
    contents = set()
    for length in (5_000_000, 5_000_001):
        path.write_bytes(b"x" * length)
        contents.add(watched_files.look_at((path,)).marks[path].content)
    assert len(contents) == 2
