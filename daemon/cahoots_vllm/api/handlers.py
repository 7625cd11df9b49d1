"""What each route answers. Access is checked before, errors become HTTP after."""

import dataclasses
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import TypeAdapter

from cahoots_vllm import __version__
from cahoots_vllm.api.access import PEER, tell_change
from cahoots_vllm.api.bodies import read_number, read_swap_model
from cahoots_vllm.control.event_hub import EventHub
from cahoots_vllm.control.learned import Learned
from cahoots_vllm.control.log_buffer import LogBuffer, LogEntry
from cahoots_vllm.control.memory_status import LessonStatus, lesson_status
from cahoots_vllm.control.metrics import CONTENT_TYPE, MetricsPage
from cahoots_vllm.control.operation import Caller, Operation, operation_view
from cahoots_vllm.control.reload import Reloader
from cahoots_vllm.control.snapshot import StatusReader
from cahoots_vllm.control.status import Status
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.config_view import config_entries
from cahoots_vllm.core.wire import Phase

_STATUS = TypeAdapter(Status)
_LESSONS = TypeAdapter(tuple[LessonStatus, ...])
_KEEP_ALIVE_S = 15.0
_LONGEST_WAIT_S = 3600.0
_LONGEST_ID = 18  # digits of an event's number


@dataclass(frozen=True, slots=True)
class Handlers:
    """The handlers and what they read from."""

    supervisor: Supervisor
    status_reader: StatusReader
    events: EventHub
    logs: LogBuffer
    learned: Learned
    reloader: Reloader
    replace_daemon: Callable[[], Awaitable[None]]
    metrics_page: MetricsPage

    async def status(self, _request: web.Request) -> web.Response:
        """One snapshot."""
        status = await self.status_reader.read()
        return web.Response(body=_STATUS.dump_json(status), content_type="application/json")

    async def swap_model(self, request: web.Request) -> web.Response:
        """Serve another model."""
        body = await read_swap_model(request)
        model, how, by = body.model, body.strategy, _caller(request)
        if body.save and model is not None:
            return _accepted(await self.reloader.save_model(model, by, how))
        return _accepted(self.supervisor.asks.swap_model(model, by, strategy=how))

    async def start(self, request: web.Request) -> web.Response:
        """Start the worker."""
        return _accepted(self.supervisor.asks.start(_caller(request)))

    async def stop(self, request: web.Request) -> web.Response:
        """Stop the worker; the daemon stays."""
        return _accepted(self.supervisor.asks.stop(_caller(request)))

    async def restart(self, request: web.Request) -> web.Response:
        """Replace the worker by a fresh one."""
        return _accepted(self.supervisor.asks.restart(_caller(request)))

    async def daemon_reexec(self, request: web.Request) -> web.Response:
        """Let the daemon become the one on disk; the worker goes on."""
        await self.replace_daemon()
        tell_change(request, "daemon-reexec")
        return web.json_response({"pid": os.getpid(), "version": __version__}, status=202)

    async def reload(self, request: web.Request) -> web.Response:
        """Read the settings again and do what the change needs."""
        return _accepted(await self.reloader.reload(_caller(request)))

    async def config(self, _request: web.Request) -> web.Response:
        """Every setting with its value and where it comes from; secrets masked."""
        entries = config_entries(self.supervisor.settings)
        views = [{"key": e.key, "value": e.value, "origin": e.origin} for e in entries]
        return web.json_response({"config": views})

    async def config_diff(self, _request: web.Request) -> web.Response:
        """What a reload would change, key by key."""
        changes = [dataclasses.asdict(change) for change in await self.reloader.diff()]
        return web.json_response({"changes": changes})

    async def operations(self, _request: web.Request) -> web.Response:
        """The operations that are kept, newest first."""
        found = [operation_view(o) for o in self.supervisor.operations.newest_first()]
        return web.json_response({"operations": found})

    async def operation(self, request: web.Request) -> web.Response:
        """One operation."""
        id_ = request.match_info["id"]
        return web.json_response(operation_view(self.supervisor.operations.get(id_)))

    async def wait_operation(self, request: web.Request) -> web.Response:
        """One operation, once it is over or the timeout has passed."""
        timeout_s = read_number(request, "timeout", 60.0, _LONGEST_WAIT_S)
        id_ = request.match_info["id"]
        operation = await self.supervisor.operations.wait(id_, timeout_s)
        return web.json_response(operation_view(operation))

    async def abort_operation(self, request: web.Request) -> web.Response:
        """End an operation and go back to what was before it."""
        operation = self.supervisor.asks.abort(request.match_info["id"])
        tell_change(request, f"the end of operation {operation.id}")
        return _accepted(operation)

    async def memory(self, _request: web.Request) -> web.Response:
        """What starts have taught about memory, the oldest first."""
        lessons = tuple(map(lesson_status, self.learned.records()))
        body = b'{"memory":' + _LESSONS.dump_json(lessons) + b"}"
        return web.Response(body=body, content_type="application/json")

    async def reset_memory(self, request: web.Request) -> web.Response:
        """Forget it, for one model or for all; a running worker is left as it is."""
        model = request.query.get("model")
        count = self.supervisor.asks.forget_memory(model)
        what = f"about {model!r}" if model is not None else "about all"
        tell_change(request, f"what was learned is forgotten ({what}): {count} lessons")
        return web.json_response({"forgotten": count})

    async def event_stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events (WHATWG HTML, 9.2); `Last-Event-ID` resumes."""
        last = request.headers.get("Last-Event-ID", "")
        is_number = last.isdecimal() and len(last) <= _LONGEST_ID
        after = int(last) if is_number else None
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        async for event in self.events.subscribe(after, idle_s=_KEEP_ALIVE_S):
            if event is None:
                await response.write(b": still here\n\n")
                continue
            text = f"id: {event.number}\nevent: {event.type}\ndata: {json.dumps(event.data)}\n\n"
            await response.write(text.encode())
        return response

    async def log_lines(self, request: web.Request) -> web.StreamResponse:
        """Lines of worker and daemon, one JSON object each."""
        count = int(read_number(request, "n", 200, 100_000))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        if request.query.get("follow") in ("1", "true"):
            async for entry in self.logs.follow(count):
                await response.write(_line(entry))
        else:
            for entry in self.logs.last(count):
                await response.write(_line(entry))
        return response

    async def health(self, request: web.Request) -> web.Response:
        """200 or 503, for `level` alive (default) or ready."""
        phase = self.supervisor.state.phase
        is_good = request.query.get("level") != "ready" or phase is Phase.READY
        return web.json_response({"state": str(phase)}, status=200 if is_good else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus text."""
        page = await self.metrics_page.render()
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})


def _caller(request: web.Request) -> Caller:
    peer = request[PEER]
    return Caller(peer.uid, peer.pid)


def _accepted(operation: Operation) -> web.Response:
    headers = {"Location": f"/v1/operations/{operation.id}"}
    return web.json_response(operation_view(operation), status=202, headers=headers)


def _line(entry: LogEntry) -> bytes:
    return json.dumps(dataclasses.asdict(entry)).encode() + b"\n"
