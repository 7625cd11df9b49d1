"""The command line's grammar."""

import argparse
import sys
from collections.abc import Callable

from cahoots_vllm.core.wire import SwapStrategy
from cahoots_vllm.ctl import doctor, models, verbs
from cahoots_vllm.ctl.check import CHECK_OPTIONS, model_check

_EPILOG = """exit status:
  0 done   1 failed   2 usage   3 not ready (status, wait)
  4 daemon unreachable   5 timed out   77 not permitted   78 bad settings
  130 interrupted   141 output closed"""

_MOST = 1_000_000

_Verb = Callable[[verbs.Context], int]
_Add = Callable[[str, _Verb, str], argparse.ArgumentParser]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; a parsed verb is in `run`, a function of a `verbs.Context`."""
    parser = argparse.ArgumentParser(
        prog="cahootsctl",
        description="Show and change what cahoots-vllm serves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(json=False, socket=None)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    _accept_everywhere(parser)
    add = _verb_adder(parser.add_subparsers(metavar="VERB", required=True).add_parser)
    add("status", verbs.status, "show what is served and how it is doing")
    _add_changes(add)
    _add_check(add)
    _add_models(add)
    wait = add("wait", verbs.wait, "wait until the worker is ready")
    wait.add_argument("--timeout", type=_seconds, metavar="S", help="give up after S seconds")
    wait.add_argument("--no-progress", action="store_true", help="be silent while waiting")
    logs = add("logs", verbs.logs, "show what worker and daemon said")
    logs.add_argument("-n", "--lines", type=_count, default=200, metavar="N", help="default: 200")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    add("events", verbs.events, "show what happens, until Ctrl-C")
    add("daemon-reexec", verbs.daemon_reexec, "replace the daemon by the one on disk")
    _add_config(add("config", verbs.config_show, "show every setting and where it comes from"))
    _add_memory(add("memory", verbs.memory_show, "show what was learned about memory"))
    diagnose = add("diagnose", verbs.diagnose, "say why a worker died, by its log alone")
    diagnose.add_argument("file", metavar="FILE", help="a log of vLLM, or - for standard input")
    diagnose.add_argument("--exit-code", type=int, metavar="N", help="how the process ended")
    diagnose.add_argument("--signal", type=int, metavar="N", help="the signal that ended it")
    _add_doctor(add)
    _add_bench(add("bench", _bench, "measure how fast the served model answers"))
    _add_operations(add("operations", verbs.operations_list, "list what was asked of the daemon"))
    return parser


def _add_changes(add: _Add) -> None:
    swap = add("swap-model", verbs.swap_model, "serve another model")
    which = swap.add_mutually_exclusive_group(required=True)
    names = "a repo id, a directory or a profile"
    which.add_argument("model", nargs="?", metavar="MODEL", help=names)
    which.add_argument("--reset", action="store_true", help="serve the model of .env again")
    swap.add_argument("--save", action="store_true", help="write it into .env, to stay")
    swap.add_argument(
        "--strategy",
        choices=[str(way) for way in SwapStrategy],
        help="start it beside the worker that serves (overlap), after it (sequential), or after it "
        "was put to sleep (sleep)",
    )
    changes = [
        swap,
        add("start", verbs.start, "start the worker"),
        add("stop", verbs.stop, "stop the worker; the daemon stays"),
        add("restart", verbs.restart, "stop and start the worker"),
        add("reload", verbs.reload, "read .env, configuration and profiles again"),
    ]
    for change in changes:
        change.add_argument(
            "--no-wait", action="store_true", help="print the operation's id and return"
        )


def _add_check(add: _Add) -> None:
    check = add("check", model_check, "say whether a model could be served; nothing is changed")
    check.add_argument("model", metavar="MODEL", help="a repo id, a directory or a profile")
    for name, kind in CHECK_OPTIONS.items():
        check.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "V")


def _add_models(add: _Add) -> None:
    add("models", models.models, "show which models are on disk")
    pull = add("pull", models.pull, "download a model; Ctrl-C leaves the download running")
    pull.add_argument("model", metavar="REPO[@REV]", help="ORG/NAME or a profile's name")
    pull.add_argument("--no-wait", action="store_true", help="print the operation's id and return")
    remove = add("rm", models.remove, "delete a model from disk")
    remove.add_argument("model", metavar="REPO[@REV]", help="all of it, or one revision")
    what = "old revisions, what downloads have left, and the caches of other engine versions"
    prune = add("prune", models.prune, f"delete {what}")
    prune.add_argument("--dry-run", action="store_true", help="show what would go")


def _add_config(parser: argparse.ArgumentParser) -> None:
    add = _verb_adder(parser.add_subparsers(metavar="ACTION").add_parser)
    add("show", verbs.config_show, "show them (default)")
    add("diff", verbs.config_diff, "show what a reload would change")
    add("key", verbs.config_key, "make a key for a client of the gateway, and its hash")
    check = add("check", verbs.config_check, "validate settings or files, without a daemon")
    check.add_argument("--system", action="store_true", help="those of the systemd service")
    check.add_argument("files", nargs="*", metavar="FILE", help="just these: .env, *.toml")


def _add_memory(parser: argparse.ArgumentParser) -> None:
    add = _verb_adder(parser.add_subparsers(metavar="ACTION").add_parser)
    add("show", verbs.memory_show, "show it (default)")
    reset = add("reset", verbs.memory_reset, "forget it; a running worker stays as it is")
    reset.add_argument("model", nargs="?", metavar="MODEL", help="for this model only")


def _add_doctor(add: _Add) -> None:
    parser = add("doctor", doctor.doctor, "examine this host: what is wrong, and what helps")
    parser.add_argument("--all", action="store_true", help="show what is well in full, too")
    parser.add_argument(
        "--system", action="store_true", help="without a daemon: the systemd service's files"
    )


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", help="refuse when another one is served")
    number, counts = "N", parser.add_argument_group("load")
    for name, what in (
        ("--requests", "how many (default: 4 for each stream)"),
        ("--input-tokens", "length of each prompt (default: 512)"),
        ("--output-tokens", "length of each answer (default: 128)"),
    ):
        counts.add_argument(name, type=_positive, metavar=number, help=what)
    counts.add_argument(
        "--concurrency", type=_positive, default=8, metavar=number, help="streams (default: 8)"
    )
    counts.add_argument("--seed", type=_count, metavar=number, help="make the same prompts again")
    counts.add_argument("--quick", action="store_true", help="a smaller load: 128 in, 32 out")
    parser.add_argument("--history", action="store_true", help="show earlier results only")


def _bench(ctx: verbs.Context) -> int:
    from cahoots_vllm.ctl.bench import bench  # noqa: PLC0415 (asyncio costs others 50 ms)

    return bench(ctx)


def _add_operations(parser: argparse.ArgumentParser) -> None:
    add = _verb_adder(parser.add_subparsers(metavar="ACTION").add_parser)
    add("list", verbs.operations_list, "list operations, newest first (default)")
    for name, run, what in (
        ("show", verbs.operations_show, "show one operation"),
        ("wait", verbs.operations_wait, "wait until it is over"),
        ("abort", verbs.operations_abort, "end it and wait until it has ended"),
    ):
        add(name, run, what).add_argument("id", type=_operation_id, metavar="ID")


def _verb_adder(add_parser: Callable[..., argparse.ArgumentParser]) -> _Add:
    def add(name: str, run: _Verb, what: str) -> argparse.ArgumentParser:
        parser = add_parser(name, help=what, description=what, allow_abbrev=False)
        parser.set_defaults(run=run)
        _accept_everywhere(parser)
        return parser

    return add


def _accept_everywhere(parser: argparse.ArgumentParser) -> None:
    """Accept the common options here; absent, they leave alone what stood before the verb."""
    suppress = argparse.SUPPRESS
    parser.add_argument("--json", action="store_true", default=suppress, help="answer in JSON")
    parser.add_argument("--socket", default=suppress, metavar="PATH", help="the daemon's socket")


class _Version(argparse.Action):
    """Print the installed version; looked up only when asked, since that is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_unused: object) -> None:
        """Print and exit."""
        from importlib import metadata  # noqa: PLC0415 (loads `email`)

        try:
            version = metadata.version("cahoots-vllm")
        except metadata.PackageNotFoundError:
            version = "(not installed, run from its source)"
        sys.stdout.write(f"cahootsctl {version}\n")
        parser.exit()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError(text)
    return count


def _positive(text: str) -> int:
    count = int(text)
    if not 1 <= count <= _MOST:
        raise ValueError(text)
    return count


def _operation_id(text: str) -> str:
    """Accept what can stand in a URL path as it is."""
    if not (text.isascii() and text.isalnum()):
        raise ValueError(text)
    return text
