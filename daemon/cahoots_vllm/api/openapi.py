"""The OpenAPI 3.1 document, made from the route table and the types behind it."""

import re
from collections.abc import Iterable

from pydantic import TypeAdapter

from cahoots_vllm import __version__
from cahoots_vllm.api.bench import BenchView
from cahoots_vllm.api.bodies import SwapModelBody
from cahoots_vllm.api.check import CheckBody
from cahoots_vllm.api.models import model_schemas
from cahoots_vllm.api.routes import Route
from cahoots_vllm.control.bench_history import BenchRecord, BenchResult
from cahoots_vllm.control.doctor import Examination
from cahoots_vllm.control.memory_status import LessonStatus
from cahoots_vllm.control.model_check import ModelReport
from cahoots_vllm.control.operation import Operation
from cahoots_vllm.control.status import Status
from cahoots_vllm.core.config_view import KeyChange

_REFS = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"{(\w+)}")
_INTERNAL = ("target", "previous")  # an operation's fields that are not shown


def build_openapi(routes: Iterable[Route]) -> dict[str, object]:
    """Return the document."""
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _describe(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "cahoots-vllm control API", "version": __version__},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _describe(route: Route) -> dict[str, object]:
    is_accepted = route.answer in ("Operation", "Replacement") and route.method != "GET"
    described: dict[str, object] = {
        "summary": (route.handler.__doc__ or "").strip().splitlines()[0],
        "responses": {
            "202" if is_accepted else "200": _content(route.answer),
            "default": {
                "description": "a problem (RFC 9457)",
                "content": {"application/problem+json": {"schema": _ref("Problem")}},
            },
        },
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PARAMETER.findall(route.path)
        ],
    }
    if route.takes is not None:
        body = {"application/json": {"schema": _ref(route.takes)}}
        described["requestBody"] = {"required": True, "content": body}
    return described


def _content(answer: str) -> dict[str, object]:
    if "/" in answer:
        return {"description": answer, "content": {answer: {"schema": {"type": "string"}}}}
    return {"description": answer, "content": {"application/json": {"schema": _ref(answer)}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFS.format(model=name)}


def _schemas() -> dict[str, object]:
    schemas: dict[str, object] = {
        "Operations": {
            "type": "object",
            "properties": {"operations": {"type": "array", "items": _ref("Operation")}},
        },
        "Memory": {
            "type": "object",
            "properties": {"memory": {"type": "array", "items": _ref("LessonStatus")}},
        },
        "Config": {
            "type": "object",
            "properties": {"config": {"type": "array", "items": _ref("ConfigEntry")}},
        },
        "ConfigEntry": {
            "type": "object",
            "properties": {"key": {"type": "string"}, "value": {}, "origin": {"type": "string"}},
            "required": ["key", "value", "origin"],
        },
        "ConfigDiff": {
            "type": "object",
            "properties": {"changes": {"type": "array", "items": _ref("KeyChange")}},
        },
        "MemoryReset": {"type": "object", "properties": {"forgotten": {"type": "integer"}}},
        "Replacement": {
            "type": "object",
            "properties": {"pid": {"type": "integer"}, "version": {"type": "string"}},
        },
        **model_schemas(),
        "Health": {"type": "object", "properties": {"state": {"type": "string"}}},
        "Problem": {
            "type": "object",
            "properties": {
                name: {"type": "integer" if name == "status" else "string"}
                for name in ("type", "title", "status", "detail", "remedy", "operation", "cause")
            },
            "required": ["type", "title", "detail", "remedy"],
        },
    }
    for name, type_ in (
        ("Status", Status),
        ("Operation", Operation),
        ("LessonStatus", LessonStatus),
        ("KeyChange", KeyChange),
        ("SwapModelBody", SwapModelBody),
        ("Examination", Examination),
        ("CheckBody", CheckBody),
        ("ModelReport", ModelReport),
        ("BenchView", BenchView),
        ("BenchRecord", BenchRecord),
        ("BenchResult", BenchResult),
    ):
        schema = TypeAdapter(type_).json_schema(ref_template=_REFS)
        # An operation's own Problem and what it is made of are not what goes over the wire.
        parts = schema.pop("$defs", {})
        schemas.update((part, parts[part]) for part in parts if part not in schemas)
        schemas[name] = schema
    operation = schemas["Operation"]
    if isinstance(operation, dict):
        for field in _INTERNAL:
            operation["properties"].pop(field, None)
        operation["properties"]["problem"] = {"anyOf": [_ref("Problem"), {"type": "null"}]}
    return schemas
