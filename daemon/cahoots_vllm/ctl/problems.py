"""Problems as cahootsctl meets them: from the daemon (RFC 9457) or its own; exit codes.

The only place that turns kinds into exit codes.
"""

from cahoots_vllm.core.errors import CahootsError, Kind, problem_view
from cahoots_vllm.core.wire import GROUP, PROBLEM_TYPE_PREFIX, ExitCode
from cahoots_vllm.ctl.text import Json, Line, Tone

WHO_MAY = (
    f"root, the daemon's user and members of the group {GROUP} may: "
    f"`usermod -aG {GROUP} USER`, then log in again"
)

_EXIT_CODES = {
    Kind.UNREACHABLE: ExitCode.UNREACHABLE,
    Kind.NOT_PERMITTED: ExitCode.NOT_PERMITTED,
    Kind.TIMED_OUT: ExitCode.TIMED_OUT,
    Kind.BAD_SETTINGS: ExitCode.BAD_SETTINGS,
}


class ProblemError(CahootsError):
    """The daemon refused, with a problem document."""

    def __init__(self, status: int, problem: Json) -> None:
        """Take the problem as sent; `status` is the response's, for bodies that are none."""
        self.problem = problem
        kind = _kind(status, problem)
        said = problem.get("detail") or problem.get("title") or f"the daemon answered {status}"
        super().__init__(kind, str(said), _remedy(kind, problem))


def _kind(status: int, problem: Json) -> Kind:
    name = str(problem.get("type", "")).removeprefix(PROBLEM_TYPE_PREFIX)
    if name in set(Kind):
        return Kind(name)
    # Not one of ours: a newer daemon's kind, or a body without one.
    return {403: Kind.NOT_PERMITTED, 404: Kind.NOT_FOUND}.get(status, Kind.INTERNAL)


def _remedy(kind: Kind, problem: Json) -> str:
    running = problem.get("operation")
    if kind is Kind.BUSY and running:
        return (
            f"`cahootsctl operations wait {running}` waits for it, "
            f"`cahootsctl operations abort {running}` ends it"
        )
    return str(problem.get("remedy") or (WHO_MAY if kind is Kind.NOT_PERMITTED else ""))


def problem_document(error: CahootsError) -> Json:
    """Return the error as a problem document, as sent where the daemon sent it."""
    if isinstance(error, ProblemError) and error.problem:
        return error.problem
    return problem_view(error.kind, error.message, error.remedy)


def problem_lines(error: CahootsError) -> list[Line]:
    """Say what is wrong, then what to do."""
    lines = [Line(f"cahootsctl: {error.message}", Tone.BAD)]
    if isinstance(error, ProblemError) and error.kind is Kind.BUSY:
        lines.append(Line(f"running: operation {error.problem.get('operation', '?')}"))
    if error.remedy:
        lines.append(Line(error.remedy))
    return lines


def exit_code(kind: Kind) -> ExitCode:
    """Return the exit status for a kind of problem."""
    return _EXIT_CODES.get(kind, ExitCode.FAILED)
