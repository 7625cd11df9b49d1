"""A change that is no operation is in the journal with who asked for it, as operations are."""

import logging
import os
import pwd
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from cahoots_vllm.api.access import PEER, Peer
from cahoots_vllm.api.handlers import Handlers
from cahoots_vllm.api.models import ModelHandlers
from cahoots_vllm.control.models import Pruned
from cahoots_vllm.control.operation import Caller, Operation

_PEER = Peer(pid=7, uid=os.geteuid(), gid=0, groups=frozenset())
_BY = f"asked for by {pwd.getpwuid(_PEER.uid).pw_name} (uid {_PEER.uid}), pid 7"

Handler = Callable[[web.Request], Awaitable[web.Response]]


async def done(*_args: object, **_options: object) -> int:
    return 5


async def pruned(*, is_dry_run: bool) -> list[Pruned]:
    assert not is_dry_run
    return [Pruned("what an engine compiled", "vLLM 0.31", 9)]


def aborted(id_: str) -> Operation:
    return Operation(id_, "pull", {}, Caller(1, 1), "2026-11-28T00:00:00Z")


def handlers() -> Handlers:
    asks = SimpleNamespace(abort=aborted, forget_memory=lambda _model: 5)
    supervisor: Any = SimpleNamespace(asks=asks)
    rest: Any = None
    return Handlers(supervisor, rest, rest, rest, rest, rest, done, rest)  # type: ignore[arg-type] # what it returns is not used


def model_handlers() -> ModelHandlers:
    models: Any = SimpleNamespace(remove=done, prune=pruned)
    pulls: Any = None
    return ModelHandlers(models, pulls)


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (model_handlers().remove, "org/a removed from disk: 5 bytes"),
        (model_handlers().prune, "1 unused things removed: 9 bytes"),
        (handlers().abort_operation, "the end of operation org--a"),
        (handlers().reset_memory, "what was learned is forgotten (about all): 5 lessons"),
        (handlers().daemon_reexec, "daemon-reexec"),
    ],
)
async def test_change_is_told_with_user_and_pid(
    handler: Handler, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    request = make_mocked_request("POST", "/", match_info={"id": "org--a"})
    request[PEER] = _PEER
    await handler(request)
    assert caplog.messages == [f"{said}, {_BY}"]
    assert vars(caplog.records[0])["fields"] == {
        "CAHOOTS_UID": str(_PEER.uid),
        "CAHOOTS_PID": "7",
    }
