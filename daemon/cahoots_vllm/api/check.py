"""`POST /v1/check`: whether a model could be served; nothing is changed by it."""

from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cahoots_vllm.api.access import Access
from cahoots_vllm.api.bodies import read_body
from cahoots_vllm.api.routes import Route
from cahoots_vllm.control.model_check import ModelCheck, ModelReport
from cahoots_vllm.control.refusal import check_name
from cahoots_vllm.control.supervisor import Supervisor
from cahoots_vllm.core.launch import Options

_REPORT = TypeAdapter(ModelReport)
_Size = Field(default=None, ge=1, le=1 << 31)


class CheckBody(BaseModel):
    """The model, and options of `vllm serve` in place of the settings' own."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-")
    )

    model: str = Field(min_length=1, max_length=4096)
    max_model_len: int | None = _Size
    max_num_seqs: int | None = _Size
    max_num_batched_tokens: int | None = _Size
    tensor_parallel_size: int | None = Field(default=None, ge=1, le=1024)
    pipeline_parallel_size: int | None = Field(default=None, ge=1, le=1024)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    kv_cache_dtype: str | None = Field(default=None, max_length=64)
    quantization: str | None = Field(default=None, max_length=64)
    dtype: str | None = Field(default=None, max_length=64)

    @property
    def options(self) -> Options:
        """What is set, as options."""
        found = self.model_dump(exclude={"model"}, exclude_none=True, by_alias=True)
        return tuple(found.items())


@dataclass(frozen=True, slots=True)
class CheckHandlers:
    """The handler and what it asks."""

    checker: ModelCheck
    supervisor: Supervisor

    async def check(self, request: web.Request) -> web.Response:
        """Say whether a model could be served: files, access, disk, quantization, memory."""
        body = await read_body(request, CheckBody)
        check_name(body.model)
        report = await self.checker.check(body.model, body.options, self.supervisor.settings)
        return web.Response(body=_REPORT.dump_json(report), content_type="application/json")


def check_routes(handlers: CheckHandlers) -> tuple[Route, ...]:
    """Return the rows of the table."""
    row = Route("POST", "/v1/check", Access.LOOK, handlers.check, "ModelReport", "CheckBody")
    return (row,)
