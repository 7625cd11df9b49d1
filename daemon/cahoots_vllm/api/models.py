"""The models on disk: list, pull, remove, prune."""

from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter

from cahoots_vllm.api.access import PEER, Access, tell_change
from cahoots_vllm.api.bodies import read_body
from cahoots_vllm.api.routes import Route
from cahoots_vllm.control.models import ModelOnDisk, Models, Pruned
from cahoots_vllm.control.operation import Caller, operation_view
from cahoots_vllm.control.pulls import Pulls

_MODELS = TypeAdapter(list[ModelOnDisk])
_PRUNED = TypeAdapter(list[Pruned])


class PullBody(BaseModel):
    """The model to download: a repo or a profile's name, and a branch, tag or commit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelHandlers:
    """The handlers and what they work with."""

    models: Models
    pulls: Pulls

    async def list_models(self, _request: web.Request) -> web.Response:
        """What is in the cache, whole or in part."""
        body = b'{"models":' + _MODELS.dump_json(await self.models.listed()) + b"}"
        return web.Response(body=body, content_type="application/json")

    async def pull(self, request: web.Request) -> web.Response:
        """Download a model without serving it."""
        body = await read_body(request, PullBody)
        operation = self.pulls.ask(body.model, body.revision, _caller(request))
        headers = {"Location": f"/v1/operations/{operation.id}"}
        return web.json_response(operation_view(operation), status=202, headers=headers)

    async def remove(self, request: web.Request) -> web.Response:
        """Delete a model: the repo with `--` or %2F for its slash; `rev` for one revision."""
        repo = request.match_info["id"].replace("--", "/")
        revision = request.query.get("rev")
        freed = await self.models.remove(repo, revision)
        what = f"{repo}@{revision}" if revision else repo
        tell_change(request, f"{what} removed from disk: {freed} bytes")
        return web.json_response({"removed": what, "freed_bytes": freed})

    async def prune(self, request: web.Request) -> web.Response:
        """Delete what nothing refers to, or with `dry_run=1` say what that is."""
        is_dry_run = request.query.get("dry_run") in ("1", "true")
        found = await self.models.prune(is_dry_run=is_dry_run)
        if found and not is_dry_run:
            freed = sum(one.size_bytes for one in found)
            tell_change(request, f"{len(found)} unused things removed: {freed} bytes")
        body = b'{"pruned":' + _PRUNED.dump_json(found) + b"}"
        return web.Response(body=body, content_type="application/json")


def model_routes(handlers: ModelHandlers) -> tuple[Route, ...]:
    """Return the rows of the route table."""
    look, change = Access.LOOK, Access.CHANGE
    return (
        Route("GET", "/v1/models", look, handlers.list_models, "Models"),
        Route("POST", "/v1/models/pull", change, handlers.pull, "Operation", "PullBody"),
        Route("POST", "/v1/models/prune", change, handlers.prune, "Pruned"),
        Route("DELETE", "/v1/models/{id}", change, handlers.remove, "Removed"),
    )


def model_schemas() -> dict[str, object]:
    """Return what these routes take and answer, for the OpenAPI document."""
    size = {"type": "integer"}
    return {
        "Models": _list_of("models", ModelOnDisk),
        "Pruned": _list_of("pruned", Pruned),
        "Removed": {
            "type": "object",
            "properties": {"removed": {"type": "string"}, "freed_bytes": size},
        },
        "PullBody": TypeAdapter(PullBody).json_schema(),
    }


def _list_of(name: str, type_: type[object]) -> dict[str, object]:
    items = TypeAdapter(type_).json_schema()
    return {"type": "object", "properties": {name: {"type": "array", "items": items}}}


def _caller(request: web.Request) -> Caller:
    peer = request[PEER]
    return Caller(peer.uid, peer.pid)
