"""Request bodies of the control API, parsed once."""

import json
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.wire import SwapStrategy

_Body = TypeVar("_Body", bound=BaseModel)


class SwapModelBody(BaseModel):
    """Either the model to serve, or `reset` to go back to `.env`'s."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    reset: bool = False
    # Write the model into `.env` instead of keeping an override.
    save: bool = False
    strategy: SwapStrategy | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "SwapModelBody":
        if (self.model is None) is not self.reset:
            message = 'give either "model" or "reset": true'
            raise ValueError(message)
        if self.save and self.reset:
            message = '"save" goes with "model"'
            raise ValueError(message)
        return self


async def read_swap_model(request: web.Request) -> SwapModelBody:
    """Return the body. Raises CahootsError (BAD_REQUEST)."""
    return await read_body(request, SwapModelBody)


async def read_body(request: web.Request, kind: type[_Body]) -> _Body:
    """Return a body of a kind. Raises CahootsError (BAD_REQUEST)."""
    try:
        # Bytes: JSON is Unicode whatever charset the request names (RFC 8259 section 8.1).
        return kind.model_validate(json.loads(await request.read()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise CahootsError(
            Kind.BAD_REQUEST,
            f"cannot use the body: {where}: {first['msg']}",
            "see /v1/openapi.json",
        ) from error
    except (ValueError, RecursionError) as error:
        raise CahootsError(
            Kind.BAD_REQUEST, f"cannot read the body: {error}", "send a JSON object"
        ) from error


def read_number(request: web.Request, name: str, default: float, highest: float) -> float:
    """Return a query parameter between 0 and `highest`. Raises CahootsError (BAD_REQUEST)."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= highest:
        raise CahootsError(
            Kind.BAD_REQUEST, f"cannot use {name}={text}", f"give a number from 0 to {highest:g}"
        )
    return value
