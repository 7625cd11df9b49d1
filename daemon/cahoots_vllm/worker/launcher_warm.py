"""What a standby has ready before it is asked: modules, and what a start reads of its model.

Part of launcher.py, run by the engine's own Python: the standard library and vLLM only.
"""

import argparse
import contextlib
import copy
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_KNOWN = ("0.32.", "0.33.")
# The files of a model that a rehearsal reads, by suffix. A template is text, too.
_READ_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".py")
# What `vllm serve` imports before its arguments are looked at, and what the engine's processes do.
_IMPORTS = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.openai",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.cli.launch",
    "vllm.entrypoints.cli.benchmark.main",
    "vllm.entrypoints.cli.collect_env",
    "vllm.entrypoints.cli.download_kernels",
    "vllm.entrypoints.cli.preload",
    "vllm.entrypoints.cli.run_batch",
    "vllm.entrypoints.cli.snapshot",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.engine.utils",
    "vllm.v1.executor.multiproc_executor",
)
_IMPORTS_CPU = (
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
)


def warm_up(learned: Path | None) -> int:
    """Import what a start needs; return how many modules there are.

    Raises ImportError, which says why the plain command has to do it.
    """
    try:
        version = importlib.import_module("vllm").__version__
        is_known = version.startswith(_KNOWN)
        if is_known:
            _import_engine()
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        why = f"cannot import vLLM: {type(error).__name__}: {error}"
        raise ImportError(why) from error
    if not is_known:
        why = f"vLLM {version} is none that the standby knows"
        raise ImportError(why)
    _import_learned(learned)
    return len(sys.modules)


def _import_engine() -> None:
    for name in _IMPORTS:
        importlib.import_module(name)
    platform = importlib.import_module("vllm.platforms").current_platform
    if platform.is_cpu():
        _prepare_cpu(platform)


def _prepare_cpu(platform: Any) -> None:  # noqa: ANN401 (it is vLLM's)
    for name in _IMPORTS_CPU:
        importlib.import_module(name)
    # Each worker looks through every attribute of every module for kernels to replace. Once is
    # enough for all who are forked from here.
    platform.register_triton_kernel_overrides()
    platform.register_triton_kernel_overrides = lambda: None


def _import_learned(learned: Path | None) -> None:
    lines = _read_names(learned) if learned is not None else None
    for name in dict.fromkeys((lines or [])[:4096]):
        # A model's own code is no module of the engine's.
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name) or name.startswith("transformers_modules"):
            continue
        try:
            importlib.import_module(name)
        except (Exception, SystemExit):  # noqa: BLE001, S112 (optional, or not installed)
            continue


def _read_names(path: Path) -> list[str] | None:
    """Return the lines, None of a file that cannot be read, or whose content is no text."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError):
        return None
    return lines if all(map(str.isprintable, lines)) else None


class Notebook:
    """Notes each module that is looked for from now on, also in the forked processes."""

    def __init__(self, path: Path) -> None:
        """Append to a file; a damaged one, which is but a hint, is emptied and filled anew."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        known = _read_names(path)
        if known is None:
            os.ftruncate(self._fd, 0)
        self._known = set(known or ())

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Find nothing, so that the next finder is asked (importlib.abc.MetaPathFinder)."""
        if name not in self._known and len(self._known) < 4096:  # noqa: PLR2004 (as read above)
            self._known.add(name)
            with contextlib.suppress(OSError):
                os.write(self._fd, f"{name}\n".encode())


class _Copies:
    """Stands for the module `copy` where vLLM copies tokenizers (vllm/tokenizers/hf.py).

    Each copy takes as long as reading the tokenizer. Those made in the rehearsal, which nobody
    uses, are what the start gets of the same tokenizer.
    """

    copy = staticmethod(copy.copy)

    def __init__(self) -> None:
        self._stock: list[tuple[object, object]] = []
        self.is_rehearsal = True

    def deepcopy(self, one: object) -> object:
        # What it wraps is the same object for as long as the engine's own cache holds it.
        inner = getattr(one, "_tokenizer", None)
        for entry in () if self.is_rehearsal else self._stock:
            if inner is not None and entry[0] is inner:
                self._stock.remove(entry)
                return entry[1]
        made = copy.deepcopy(one)
        if self.is_rehearsal:
            self._stock.append((inner, made))
        return made


class Rehearsal:
    """What a start does with its model before the first fork; caches of the engine stay filled."""

    def __init__(self, argv: list[str], be_quiet: Callable[[], None]) -> None:
        """Build the parser, which fills its caches, and look at the model if it is a directory.

        `be_quiet` is called before anything is said that the start will say again.
        """
        self.why_not: str | None = "no command line was given"
        self._files: list[object] = []
        self._model = Path(argv[2]) if len(argv) > 2 else Path()  # noqa: PLR2004 (vllm serve MODEL)
        before = dict(os.environ)
        try:
            parser = _parser()
            be_quiet()
            if self._model.is_absolute() and self._model.is_dir():
                self._files = self._look()
                with _saying_nothing_once():
                    self._play(parser.parse_args(argv[1:]))
                self.why_not = None
            elif argv:
                self.why_not = "the model is no local directory"
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the start itself will say it)
            self.why_not = f"{type(error).__name__}: {error}"[:500]
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    def is_stale(self) -> bool:
        """Whether the model's files are others than those that were looked at."""
        return bool(self._files) and self._files != self._look()

    def _look(self) -> list[object]:
        found = list[object]()
        for path in sorted(self._model.iterdir()):
            if path.suffix in _READ_SUFFIXES:
                row = path.stat()
                found.append((path.name, row.st_ino, row.st_size, row.st_mtime_ns))
        return found

    def _play(self, args: argparse.Namespace) -> None:
        args.model = args.model_tag
        usage = _attribute("vllm.usage.usage_lib", "UsageContext").OPENAI_API_SERVER
        engine_args = _attribute("vllm.engine.arg_utils", "AsyncEngineArgs").from_cli_args(args)
        config = engine_args.create_engine_config(usage_context=usage)
        copies = _Copies()
        setattr(importlib.import_module("vllm.tokenizers.hf"), "copy", copies)  # noqa: B010 (as Any)
        renderer = _attribute("vllm.renderers", "renderer_from_config")(config)
        copies.is_rehearsal = False
        template = _attribute("vllm.renderers.hf", "resolve_chat_template")
        template(renderer.tokenizer, None, None, model_config=config.model_config)
        renderer.shutdown()


def _parser() -> Any:  # noqa: ANN401 (it is vLLM's)
    """Return a parser of `vllm serve`'s arguments."""
    parser = _attribute("vllm.utils.argparse_utils", "FlexibleArgumentParser")()
    (serve,) = _attribute("vllm.entrypoints.cli.serve", "cmd_init")()
    serve.subparser_init(parser.add_subparsers(dest="subparser"))
    return parser


def _attribute(module: str, name: str) -> Any:  # noqa: ANN401 (it is vLLM's)
    return getattr(importlib.import_module(module), name)


_SAY_ONCE = tuple(f"_print_{level}_once" for level in ("debug", "info", "warning", "error"))


@contextlib.contextmanager
def _saying_nothing_once() -> Iterator[None]:
    """Leave what vLLM says once to the start."""
    logger = vars(sys.modules["vllm.logger"])
    before = {name: logger[name] for name in _SAY_ONCE}
    logger.update(dict.fromkeys(_SAY_ONCE, lambda *_: None))
    try:
        yield
    finally:
        logger.update(before)


def forget_said_once() -> None:
    """Let this process say once what its parent has said, as a spawned one does."""
    logger = vars(sys.modules["vllm.logger"])
    for name in _SAY_ONCE:
        logger[name].cache_clear()
