"""The routes of Ollama's API, at the root and below the path of LOCAL_LLM_URL."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from cahoots_vllm import __version__
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.ollama.request import Route
from cahoots_vllm.core.ollama.views import ps_view, show_view, tags_view
from cahoots_vllm.gateway.answers import Dialect, error_body
from cahoots_vllm.gateway.deliver import Deliverer
from cahoots_vllm.gateway.ollama.asking import Asking, model_name, refused, unknown
from cahoots_vllm.gateway.ollama.catalog import Catalog
from cahoots_vllm.gateway.record import End, Record

Handler = Callable[[web.Request, Record], Awaitable[web.StreamResponse]]

# The one whose API this is: clients look for a version that is new enough.
_API_VERSION: Final = "0.12.11"
_PREFIX: Final = "/api/"
_MANAGING: Final = frozenset({"/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete"})
_BLOBS: Final = "/api/blobs/"


class OllamaApi:
    """Finds the handler of a request that is Ollama's; there are no other routes below /api."""

    def __init__(self, deliverer: Deliverer, catalog: Catalog) -> None:
        """`deliverer` brings requests to the worker; `catalog` knows the models."""
        self._catalog = catalog
        self._asking = Asking(deliverer, catalog)
        look = ("GET", "HEAD")
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/": dict.fromkeys(look, self._root),
            "/api/version": dict.fromkeys(look, self._version),
            "/api/tags": dict.fromkeys(look, self._tags),
            "/api/ps": dict.fromkeys(look, self._ps),
            "/api/show": {"POST": self._show},
            "/api/chat": {"POST": self._asks(Route.CHAT)},
            "/api/generate": {"POST": self._asks(Route.GENERATE)},
            "/api/embed": {"POST": self._asks(Route.EMBED)},
            "/api/embeddings": {"POST": self._asks(Route.EMBEDDINGS)},
        }

    def find(self, request: web.Request, base_path: str) -> tuple[str, Handler] | None:
        """Return the route's name and its handler, None for a request that is none of Ollama's."""
        path = request.raw_path.partition("?")[0]
        if base_path and path.startswith(f"{base_path}/"):
            path = path.removeprefix(base_path)
        methods = self._routes.get(path)
        if methods is not None:
            return path, methods.get(request.method) or _other_method(methods)
        if path in _MANAGING or path.startswith(_BLOBS):
            return _PREFIX + path.split("/")[2], _refuse_to_manage
        return (f"{_PREFIX}...", _no_route) if path.startswith(_PREFIX) else None

    def _asks(self, route: Route) -> Handler:
        async def handle(request: web.Request, record: Record) -> web.StreamResponse:
            return await self._asking.handle(request, route, record)

        return handle

    async def _root(self, _request: web.Request, _record: Record) -> web.Response:
        """Clients look here for an Ollama."""
        return web.Response(text="Ollama is running")

    async def _version(self, _request: web.Request, _record: Record) -> web.Response:
        return web.json_response({"version": _API_VERSION, "cahoots_vllm": __version__})

    async def _tags(self, _request: web.Request, _record: Record) -> web.Response:
        return web.json_response(tags_view(await self._catalog.models()))

    async def _ps(self, _request: web.Request, _record: Record) -> web.Response:
        models = await self._catalog.loaded()
        view = ps_view(models, self._catalog.expires_at(), is_on_cpu=self._catalog.is_on_cpu)
        return web.json_response(view)

    async def _show(self, request: web.Request, record: Record) -> web.Response:
        try:
            name = model_name(await self._asking.members(request))
            model = await self._catalog.find(name)
            if model is None:
                raise unknown(name)
        except CahootsError as error:
            return refused(error, record)
        return web.json_response(show_view(model))


async def _refuse_to_manage(_request: web.Request, record: Record) -> web.Response:
    what = "models are managed on the host, not by this API"
    remedy = "see cahootsctl models, cahootsctl pull and cahootsctl swap-model there"
    return _answer(CahootsError(Kind.NOT_PERMITTED, what, remedy), 501, record)


async def _no_route(request: web.Request, record: Record) -> web.Response:
    what = f"no such route: {request.method} {request.path[:200]}"
    response = _answer(CahootsError(Kind.NOT_FOUND, what, "see GET /api/tags"), 404, record)
    record.problem = "no route for clients"  # the log is not told the path: it may be a token
    return response


def _other_method(methods: Mapping[str, Handler]) -> Handler:
    async def handle(request: web.Request, record: Record) -> web.Response:
        allowed = ", ".join(methods)
        what = f"method {request.method[:20]} is not allowed here"
        response = _answer(CahootsError(Kind.BAD_REQUEST, what, f"use {allowed}"), 405, record)
        response.headers["Allow"] = allowed
        return response

    return handle


def _answer(error: CahootsError, status: int, record: Record) -> web.Response:
    record.end, record.problem = End.REFUSED, str(error)
    return web.json_response(error_body(error, Dialect.OLLAMA), status=status)
