"""Downloads that people ask for: one at a time, beside whatever else the daemon does."""

import asyncio
from pathlib import Path

from cahoots_vllm.control.announcer import Announcer
from cahoots_vllm.control.examine import child_environment
from cahoots_vllm.control.near_names import with_near_names
from cahoots_vllm.control.operation import Before, Caller, Operation, Problem, Progress, Target
from cahoots_vllm.control.operations import PULL
from cahoots_vllm.control.refusal import check_name, check_revision
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.diagnosis import Diagnosis
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.secret import mask
from cahoots_vllm.core.settings import make_launch_spec
from cahoots_vllm.core.transfer import Transfer
from cahoots_vllm.host.hub import Fetched, FetchProgress, FetchReport, Hub

_FOR_EVER_S = 1e9


class Pulls:
    """Runs the pull that was asked for. It is lost with the daemon, what has come is not."""

    def __init__(self, supervisor: Supervisor, hub: Hub, announcer: Announcer) -> None:
        """Nothing is asked for yet."""
        self._supervisor = supervisor
        self._hub = hub
        self._announcer = announcer
        self._asked: asyncio.Queue[tuple[Operation, LaunchSpec]] = asyncio.Queue()

    def ask(self, model: str, revision: str | None, by: Caller) -> Operation:
        """Begin a pull. Raises CahootsError (BAD_REQUEST, CONFLICT, BUSY)."""
        check_name(model)
        if revision is not None:
            check_revision(revision)
        spec = make_launch_spec(self._supervisor.settings, model)
        if not spec.is_repo:
            is_here = spec.source.startswith("/")
            why = f"it is served from the directory {spec.source}" if is_here else "it is no repo"
            remedy = "give a repo of the hub: ORG/NAME"
            remedy = f"nothing has to be downloaded for it; else {remedy}" if is_here else remedy
            raise CahootsError(Kind.BAD_REQUEST, f"cannot pull {model}: {why}", remedy)
        self._supervisor.asks.refuse_while_stopping()
        operations = self._supervisor.operations
        operations.refuse_if_pulling()
        params = {"model": f"{model}@{revision}" if revision else model}
        operation = operations.begin(PULL, params, by, Target(None), Before(None))
        self._announcer.operation(operation)
        self._asked.put_nowait((operation, spec if revision is None else _at(spec, revision)))
        return operation

    async def run(self) -> None:
        """Do what is asked until cancelled."""
        operations = self._supervisor.operations
        while True:
            operation, spec = await self._asked.get()
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(self._fetch(operation, spec), name=f"pull {operation.id}")
                await operations.wait(operation.id, _FOR_EVER_S)
                work.cancel()  # where it was aborted

    async def _fetch(self, operation: Operation, spec: LaunchSpec) -> None:
        settings = self._supervisor.settings
        env = child_environment(spec, settings, with_token=True)
        transfer, loop = Transfer(), asyncio.get_running_loop()
        self._tell(Progress("pull", f"pulling {spec.source}: asking the hub"))
        try:
            async for report in self._hub.fetch(spec.source, spec.revision, env):
                if isinstance(report, FetchProgress):
                    transfer.add(loop.time(), report.done)
                    share = report.done / report.total if report.total else None
                    text = f"pulling {spec.source}: {transfer.text(report.total)}"
                    self._tell(Progress("pull", text, None, share))
                    continue
                if isinstance(report, Diagnosis):
                    known = tuple(profile.name for profile in settings.profiles)
                    place = Path(settings.cache_dir)
                    report = await with_near_names(report, spec.model, known, place)  # noqa: PLW2901 (the same, with more words)
                self._end(operation, report)
                return
        except CahootsError as error:
            self._end(operation, _as_problem(error))
        except OSError as error:
            self._end(operation, Problem(Kind.INTERNAL, f"cannot pull: {error}", "try again"))

    def _tell(self, progress: Progress) -> None:
        changed = self._supervisor.operations.advance_pull(progress)
        if changed is not None:
            self._announcer.operation(changed)

    def _end(self, operation: Operation, how: FetchReport | Problem) -> None:
        problem: Problem | None = None
        if isinstance(how, Diagnosis):
            secrets = (secret for _, secret in self._supervisor.settings.secret_env)
            words = mask(how.evidence, secrets)
            problem = Problem(Kind.MODEL_UNUSABLE, words, how.remedy, how.cause)
        elif isinstance(how, Problem):
            problem = how
        result = {"path": how.path} if isinstance(how, Fetched) else {}
        ended = self._supervisor.operations.saved(operation.id, result, problem)
        if ended is not None:
            self._announcer.operation(ended)


def _at(spec: LaunchSpec, revision: str) -> LaunchSpec:
    return LaunchSpec(spec.model, spec.source, spec.engine, revision, env=spec.env)


def _as_problem(error: CahootsError) -> Problem:
    return Problem(error.kind, error.message, error.remedy)
