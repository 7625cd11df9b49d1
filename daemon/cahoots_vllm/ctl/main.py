"""cahootsctl: the command line of the daemon.

Output: results go to stdout, notes, progress and errors to stderr. With `--json` stdout carries
exactly one JSON document (a line each for `logs` and `events`): the API's own object or, when
the daemon could not be asked or refused, the problem object (RFC 9457) on one line; the text of
the error is on stderr all the same. An operation that failed is shown as the operation, its
problem inside. Exit codes are `core.wire.ExitCode`, 130 after Ctrl-C, 141 when stdout was closed.
"""

import os
import sys
from collections.abc import Sequence
from signal import SIGPIPE

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.wire import ExitCode, socket_candidates
from cahoots_vllm.ctl.client import Client
from cahoots_vllm.ctl.console import Console
from cahoots_vllm.ctl.follow import INTERRUPTED
from cahoots_vllm.ctl.parser import build_parser
from cahoots_vllm.ctl.problems import exit_code, problem_document, problem_lines
from cahoots_vllm.ctl.verbs import Context


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    args = build_parser().parse_args(argv)
    console = Console(sys.stdout, sys.stderr, os.environ, as_json=args.json)
    uid = os.getuid()
    places = (args.socket,) if args.socket else socket_candidates(os.environ, uid)
    try:
        return _run(Context(Client(places, uid), console, args))
    except KeyboardInterrupt:
        console.note([])  # takes a progress line off the terminal
        return INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has enough
        _discard_output()
        return 128 + SIGPIPE
    except OSError as error:  # the client's own are CahootsErrors: this is our output
        _discard_output()
        sys.stderr.write(f"cahootsctl: cannot write: {error.strerror}\n")
        return ExitCode.FAILED


def _discard_output() -> None:
    """Let Python's last flush, at exit, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(ctx: Context) -> int:
    try:
        code: int = ctx.args.run(ctx)
    except CahootsError as error:
        ctx.console.failure(problem_document(error), problem_lines(error))
        return exit_code(error.kind)
    return code


if __name__ == "__main__":
    sys.exit(main())
