"""Several daemons at once: what waits for seconds by itself need not wait one after the other."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .harness import Daemon, living, titles, wait_for
from .scripted_gpus import ScriptedGpus

_T = TypeVar("_T")


class Fleet:
    """Daemons by name, each with a GPU engine and GPUs of its own."""

    def __init__(self, root: Path, runtimes: dict[str, Path]) -> None:
        """Nothing is started yet."""
        self.gpus: dict[str, ScriptedGpus] = {}
        self.daemons: dict[str, Daemon] = {}
        for name, runtime in runtimes.items():
            (root / name).mkdir()
            self.gpus[name] = ScriptedGpus(root / name / "gpus.json")
            self.daemons[name] = Daemon(root / name, runtime)
            self.daemons[name].give_gpus(self.gpus[name])

    def each(self, do: Callable[[Daemon], _T]) -> dict[str, _T]:
        """Do it with all of them at once; return the answers."""
        with ThreadPoolExecutor(len(self.daemons)) as pool:
            return dict(zip(self.daemons, pool.map(do, self.daemons.values()), strict=True))

    def finish(self) -> None:
        """End all, then look at each: what is left below the test is nobody's in particular."""
        try:
            self.each(lambda daemon: daemon.stop() if daemon.process is not None else 0)
            left = wait_for(lambda: not living() or titles(living()), 5)
            assert left is True, left
        finally:
            for daemon in self.daemons.values():
                daemon.finish()


@contextmanager
def running_fleet(root: Path, names: Iterable[str]) -> Iterator[Fleet]:
    """Have a daemon for each name; none is left at the end of the block."""
    # unix(7): a socket's path has 107 bytes at most.
    top = Path(tempfile.mkdtemp(prefix="cahoots-"))
    runtimes = {name: top / str(number) for number, name in enumerate(names)}
    for runtime in runtimes.values():
        runtime.mkdir()
    fleet = Fleet(root, runtimes)
    try:
        yield fleet
    finally:
        try:
            fleet.finish()
        finally:
            shutil.rmtree(top)
