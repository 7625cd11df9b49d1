"""`cahoots-vllmd`: reads the settings and runs the daemon in the foreground."""

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
from pathlib import Path

from cahoots_vllm import __version__
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.control.settings_check import Finding, check_settings
from cahoots_vllm.control.settings_files import CommandLine, load_settings
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.wire import ExitCode
from cahoots_vllm.host.paths import Paths, system_paths, user_paths
from cahoots_vllm.log import set_up_logging, tell_end

_NEVER_WORKS = (Kind.BAD_SETTINGS, Kind.ENGINE_UNUSABLE)
_HIGHEST_PORT = 65535


def main() -> None:
    """Run the daemon; exit 0 after a clean stop, 78 for settings that can never work, else 1."""
    arguments = _parser().parse_args()
    if arguments.check is not None:
        sys.exit(_check(arguments))
    if arguments.doctor is not None:
        sys.exit(_examine(arguments))
    logs = LogBuffer()
    set_up_logging(logs, is_verbose=arguments.verbose)
    try:
        _serve(arguments, logs)
    except CahootsError as error:
        tell_end(error)
        code = ExitCode.BAD_SETTINGS if error.kind in _NEVER_WORKS else ExitCode.FAILED
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # before the daemon took over the signals: nothing runs yet


def _check(arguments: argparse.Namespace) -> int:
    """Validate the settings, or just some files; exit 0 when nothing is wrong, else 1."""
    line = CommandLine(arguments.env_file, arguments.engine, arguments.model, arguments.port)
    try:
        findings = check_settings(_paths(arguments), line, arguments.check)
    except CahootsError as error:  # --config names no file
        findings = [Finding("the settings", error.message, error.remedy)]
    if arguments.json:
        sys.stdout.write(json.dumps([dict(finding.view) for finding in findings]) + "\n")
    for finding in findings if not arguments.json else ():
        sys.stdout.write(f"{finding.error or f'{finding.what}: ok'}\n")
        texts = [finding.remedy, *(f"warning: {text}" for text in finding.warnings)]
        sys.stdout.write("".join(f"  {text}\n" for text in texts if text))
    return ExitCode.FAILED if any(finding.error for finding in findings) else ExitCode.DONE


def _examine(arguments: argparse.Namespace) -> int:
    """Examine this host without a daemon, and answer in JSON; exit 1 where something fails."""
    from pydantic import TypeAdapter  # noqa: PLC0415 (no other start needs these)

    from cahoots_vllm.control.doctor import Examination  # noqa: PLC0415
    from cahoots_vllm.control.examination import examine_alone  # noqa: PLC0415

    line = CommandLine(arguments.env_file, arguments.engine, arguments.model, arguments.port)
    try:
        found = asyncio.run(examine_alone(_paths(arguments), line, arguments.doctor))
    except CahootsError as error:  # --config names no file
        sys.stderr.write(f"{error}\n")
        return ExitCode.BAD_SETTINGS
    sys.stdout.buffer.write(TypeAdapter(Examination).dump_json(found) + b"\n")
    return ExitCode.DONE if found.healthy else ExitCode.FAILED


def _serve(arguments: argparse.Namespace, logs: LogBuffer) -> None:
    # Imported late: a wrong option or setting is answered before the servers are loaded.
    from cahoots_vllm.app import App  # noqa: PLC0415
    from cahoots_vllm.ending import Ending  # noqa: PLC0415

    _raise_descriptor_limit()
    paths = _paths(arguments)
    line = CommandLine(arguments.env_file, arguments.engine, arguments.model, arguments.port)

    def load() -> Settings:
        return load_settings(paths, line)

    app = App(load, paths, logs, keeps_override=line.model is None)
    if asyncio.run(app.run()) is Ending.REPLACED:
        app.store.carry(os.environ)
        # The same process goes on with the files that are on disk now (systemd sees nothing).
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (no shell is meant)


def _raise_descriptor_limit() -> None:
    """Use all descriptors we may have: each held request is one, and systemd starts us with 1024.

    getrlimit(2); the engine raises its own the same way (vllm/utils/system_utils.py:256).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _paths(arguments: argparse.Namespace) -> Paths:
    if arguments.config is not None and not arguments.config.exists():
        # Only the default one may be missing: this one somebody meant to be used.
        raise CahootsError(
            Kind.BAD_SETTINGS,
            f"cannot read the configuration {arguments.config}: no such file",
            "create it, or leave out --config",
        )
    if arguments.system:
        return system_paths(arguments.config)
    return user_paths(arguments.config, os.environ)


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port <= _HIGHEST_PORT:
        message = "not a port"
        raise ValueError(message)
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cahoots-vllmd", description="Keeps a vLLM model served on this host."
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--system", action="store_true", help="paths of the systemd service")
    mode.add_argument("--user", action="store_true", help="paths of this user (default)")
    parser.add_argument(
        "--check", type=Path, nargs="*", metavar="FILE",
        help="validate the settings, or just these files, and exit",
    )  # fmt: skip
    parser.add_argument(
        "--doctor", metavar="WHY", help="examine this host, as no daemon answers, and exit"
    )
    parser.add_argument("--json", action="store_true", help="with --check: answer in JSON")
    parser.add_argument("--config", type=Path, metavar="FILE", help="another cahoots-vllm.toml")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="another .env")
    parser.add_argument("--engine", type=Path, metavar="DIR", help="the engine for this run")
    parser.add_argument("--model", help="the model for this run, instead of .env's")
    parser.add_argument("--port", type=_port, help="the gateway's port for this run")
    parser.add_argument("--verbose", action="store_true", help="log what is of use for developers")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


if __name__ == "__main__":
    main()
