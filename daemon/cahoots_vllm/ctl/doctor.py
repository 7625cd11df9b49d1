"""`cahootsctl doctor`: asks the daemon, or looks itself where no daemon answers."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import SYSTEM_SOCKET, ExitCode
from cahoots_vllm.ctl.text import Json, Line, Tone, escape
from cahoots_vllm.ctl.verbs import Context

_DEADLINE_S = 20.0
_SYSTEM_CONFIG = "/etc/cahoots-vllm"
_LABEL = 14
_INDENT = 4
_NAMED = 3
_TONES = {"ok": Tone.PLAIN, "warn": Tone.WARNING, "fail": Tone.BAD}
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def doctor(ctx: Context) -> int:
    """Examine the host; failed when something keeps the model from being served."""
    ctx.console.waiting("looking at this host, which takes a few seconds")
    try:
        document = ctx.client.call("GET", "/v1/doctor", timeout_s=_DEADLINE_S)
    except CahootsError as error:
        if error.kind is not Kind.UNREACHABLE:
            raise
        document = _look_alone(error.message, is_system=_is_service(ctx))
    ctx.console.result(document, doctor_lines(document, ctx.console.width, ctx.args.all))
    return ExitCode.DONE if document.get("healthy") else ExitCode.FAILED


def _is_service(ctx: Context) -> bool:
    """Whether the daemon that does not answer is the system's service, by what was asked for."""
    if ctx.args.system or ctx.args.socket == SYSTEM_SOCKET:
        return True
    # Where the package is installed, that one is meant, unless a socket was named.
    named = ctx.args.socket or os.environ.get("CAHOOTS_VLLM_SOCKET")
    return named is None and os.path.isdir(_SYSTEM_CONFIG)  # noqa: PTH112 (pathlib would cost 10 ms at each start)


def _look_alone(reason: str, *, is_system: bool) -> Json:
    """Run the daemon's own checks in a process of this user's: they need the daemon's libraries."""
    mode = ["--system"] if is_system else []
    command = [sys.executable, "-m", "cahoots_vllm.main", *mode, "--doctor", reason]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, check=False, timeout=_DEADLINE_S, text=True
        )
        document = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise _silent(reason=f"no answer in {_DEADLINE_S:.0f} s") from error
    except ValueError as error:
        raise _silent(reason="its words make no sense") from error
    if not isinstance(document, dict):
        raise _silent(reason="its words make no sense")
    return document


def _silent(*, reason: str) -> CahootsError:
    return CahootsError(
        Kind.INTERNAL, f"cannot examine this host: {reason}", "see what was said above"
    )


def doctor_lines(document: Json, width: int, shows_all: bool) -> list[Line]:  # noqa: FBT001 (the option's own value)
    """Show problems by group with their remedies, then what is well, then one line in all."""
    found: list[Json] = document.get("findings") or []
    problems = [finding for finding in found if finding.get("level") != "ok"]
    fine = [finding for finding in found if finding.get("level") == "ok"]
    lines: list[Line] = []
    if document.get("examined_by") == "cahootsctl":
        user = document.get("user")
        lines.append(Line(f"no daemon answers: this is what user {user} sees", Tone.WARNING))
        lines.append(Line(""))
    lines += _by_group(problems, width)
    if problems and fine:
        lines.append(Line(""))
    lines += _fine(fine, width, shows_all=shows_all)
    return [*lines, Line(""), _summary(document, problems, fine)]


def _by_group(problems: list[Json], width: int) -> Iterator[Line]:
    group = None
    for finding in sorted(problems, key=lambda f: f.get("level") != "fail"):
        level = str(finding.get("level"))
        if group is not None:
            yield Line("")
        group = finding.get("group")
        head = f"{_MARKS.get(level, level)}  {group}: {finding.get('check')}"
        yield Line(head, _TONES.get(level, Tone.WARNING))
        for text in _wrapped(str(finding.get("sentence")), width - _INDENT):
            yield Line(f"{'':{_INDENT}}{text}")
        if remedy := finding.get("remedy"):
            for number, text in enumerate(_wrapped(str(remedy), width - _INDENT - 3)):
                yield Line(f"{'':{_INDENT}}{'-> ' if number == 0 else '   '}{text}")


def _fine(fine: list[Json], width: int, *, shows_all: bool) -> Iterator[Line]:
    group = None
    for finding in fine:
        label = "" if finding.get("group") == group else str(finding.get("group"))
        group = finding.get("group")
        check = f"{finding.get('check')}: {finding.get('sentence')}"
        room = max(width - _LABEL - 8, 20)
        texts = _wrapped(check, room)
        for number, text in enumerate(texts if shows_all else texts[:2]):
            mark = "ok" if number == 0 else "  "
            yield Line(f"{mark}  {label if number == 0 else '':<16}{text}", Tone.PLAIN)


def _summary(document: Json, problems: list[Json], fine: list[Json]) -> Line:
    fails = sum(finding.get("level") == "fail" for finding in problems)
    took = f"{len(problems) + len(fine)} checks in {document.get('seconds')} s"
    if not problems:
        return Line(f"healthy: {took}, nothing found", Tone.GOOD)
    tone = Tone.BAD if fails else Tone.WARNING
    parts = [_count(problems, "fail", "failed"), _count(problems, "warn", "warned")]
    return Line(f"{', '.join(part for part in parts if part)}, of {took}", tone)


def _count(problems: list[Json], level: str, word: str) -> str:
    """Say how many, and which: at the top, they may have left the screen."""
    found = [f for f in problems if (f.get("level") == "fail") is (level == "fail")]
    names = ", ".join(str(f.get("check")) for f in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{len(found)} {word} ({names}{more})" if found else ""


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        escape(text), max(width, 20), break_on_hyphens=False, break_long_words=False
    )
