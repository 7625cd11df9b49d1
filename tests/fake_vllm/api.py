"""The engine's HTTP: the routes beside generation, and the access log."""

import asyncio
import time

from aiohttp import web
from aiohttp.typedefs import Handler

from fake_vllm.completions import Completions, Json
from fake_vllm.engine import Engine
from fake_vllm.options import ServeOptions, max_model_len
from fake_vllm.script import Behaviour
from fake_vllm.sleep import SleepRoutes
from fake_vllm.transcript import Transcript


class Api:
    """What the API process answers by itself; it asks the engine nothing."""

    def __init__(
        self, engine: Engine, options: ServeOptions, behaviour: Behaviour, transcript: Transcript
    ) -> None:
        self.idle = asyncio.Event()  # set while no request is open
        self.idle.set()
        self._open_requests = 0
        self.completions = Completions(engine, options, behaviour)
        self._sleep = SleepRoutes(engine, options, behaviour)
        self._engine = engine
        self._options = options
        self._max_model_len = max_model_len(options, behaviour.max_model_len)
        self._transcript = transcript
        self._vocabulary: dict[str, int] = {}  # a word is a token, numbered as it is first seen
        self._version = str(transcript.values["package_version"])

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.middlewares.append(self._count)
        app.on_response_prepare.append(self._log_access)
        app.add_routes(self._sleep.routes())
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ping", self._health),
                web.post("/ping", self._health),
                web.get("/version", self._show_version),
                web.get("/load", self._load),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
                web.post("/v1/chat/completions", self.completions.chat),
                web.post("/v1/completions", self.completions.complete),
            ]
        )
        return app

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._open_requests += 1
        self.idle.clear()
        try:
            return await handler(request)
        finally:
            self._open_requests -= 1
            if not self._open_requests:
                self.idle.set()

    async def _log_access(self, request: web.Request, response: web.StreamResponse) -> None:
        if not self._options.access_log or request.path in self._options.quiet_paths:
            return
        # uvicorn has no client address on a Unix socket.
        line = f'INFO:      - "{request.method} {request.path} HTTP/1.1" {response.status}'
        self._transcript.access(f"{line} {response.reason}")

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=503 if self._engine.is_dead else 200)

    async def _show_version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": self._version})

    async def _load(self, _request: web.Request) -> web.Response:
        # Always 0 without --enable-server-load-tracking (seen on 0.32).
        load = self._engine.counters.running if self._options.load_tracking else 0
        return web.json_response({"server_load": load})

    async def _models(self, _request: web.Request) -> web.Response:
        models = [self._model(name) for name in self._options.served_names]
        return web.json_response({"object": "list", "data": models})

    def _model(self, name: str) -> Json:
        return {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self._options.model,
            "parent": None,
            "max_model_len": self._max_model_len,
        }

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = body.get("prompt") or " ".join(str(m["content"]) for m in body["messages"])
        words = text.split()
        count = len(words)
        return web.json_response(
            {
                "count": count,
                "max_model_len": self._max_model_len,
                "tokens": [self._vocabulary.setdefault(w, len(self._vocabulary)) for w in words],
                "token_strs": None,
            }
        )

    async def _detokenize(self, request: web.Request) -> web.Response:
        words = list(self._vocabulary)
        tokens = (await request.json())["tokens"]
        return web.json_response({"prompt": " ".join(words[token] for token in tokens)})

    async def _metrics(self, _request: web.Request) -> web.Response:
        counters = self._engine.shown
        label = f'engine="0",model_name="{self._options.served_names[0]}"'
        samples = [
            ("num_requests_running", "gauge", counters.running),
            ("num_requests_waiting", "gauge", counters.waiting),
            ("kv_cache_usage_perc", "gauge", min(1.0, counters.running / 100)),
            ("num_preemptions_total", "counter", counters.preemptions),
            ("prompt_tokens_total", "counter", counters.prompt_tokens),
            ("generation_tokens_total", "counter", counters.generation_tokens),
        ]
        lines = []
        for name, kind, value in samples:
            lines += [f"# HELP vllm:{name} {name}.", f"# TYPE vllm:{name} {kind}"]
            lines.append(f"vllm:{name}{{{label}}} {float(value)}")
        lines.append("# HELP vllm:request_success_total Requests.")
        lines.append("# TYPE vllm:request_success_total counter")
        lines += [
            f'vllm:request_success_total{{{label},finished_reason="{reason}"}} {float(value)}'
            for reason, value in counters.finished.items()
        ]
        return web.Response(text="\n".join(lines) + "\n")
