"""The OpenAPI 3.1 document, made from the table of routes and the pydantic models."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from orchestrator.web.problems import PROTOCOL_PATH
from orchestrator.web.routes import Access, Route
from tandem.protocol.api import PROBLEM_MEDIA_TYPE, InferenceError, Problem
from tandem.protocol.errors import ERRORS_BY_CODE

_REF = "#/components/schemas/{model}"
_NOT_NAMES = re.compile(r"[^A-Za-z0-9._-]")
_SIGNATURE_PARAMETERS = ("expires", "signature")


def document(routes: Sequence[Route]) -> bytes:
    """The document as JSON."""
    schemas, definitions = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    named: Counter[str] = Counter()
    for index, route in enumerate(routes):
        operation = _operation(route, index, schemas)
        named[operation["operationId"]] += 1
        if named[operation["operationId"]] > 1:  # one handler of several paths
            operation["operationId"] += f"_{named[operation['operationId']]}"
        paths.setdefault(openapi_path(route.path), {})[route.method.lower()] = operation
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Tandem", "version": "1", "description": _error_table()},
            "paths": paths,
            "components": {"schemas": definitions, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        }
    ).encode()


def openapi_path(path: str) -> str:
    """The path without the router's patterns."""
    return re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", path)


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """A reference for each type that a route takes or gives, and what is referred to."""
    wanted: dict[Any, tuple[Any, JsonSchemaMode, Any]] = {}
    for index, route in enumerate(routes):
        if isinstance(route.body, TypeAdapter):
            wanted["body", index] = (("body", index), "validation", route.body.core_schema)
        for model in route.answers.values():
            if isinstance(model, type):
                wanted[model] = (model, "serialization", model.__pydantic_core_schema__)
    for error in (Problem, InferenceError):
        wanted[error] = (error, "serialization", error.__pydantic_core_schema__)
    generator = GenerateJsonSchema(by_alias=True, ref_template=_REF)
    references, definitions = generator.generate_definitions(list(wanted.values()))
    return {key: reference for (key, _mode), reference in references.items()}, definitions


def _operation(route: Route, index: int, schemas: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _NOT_NAMES.sub("_", f"{route.handler.__module__.rpartition('.')[2]}.{route.handler.__name__}"),
        "summary": route.summary,
        "parameters": _parameters(route),
        "security": [{"key": []}] if route.access is Access.KEY else [],
        "responses": _responses(route, schemas),
    }
    if isinstance(route.body, str):
        operation["requestBody"] = {"required": True, "content": {route.body: {}}}
    elif route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas["body", index]}},
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    text = {"type": "string"}
    names = re.findall(r"\{(\w+)\}", openapi_path(route.path))
    parameters = [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
    if route.access is Access.SIGNATURE:
        asked = [each for each in _SIGNATURE_PARAMETERS if each not in names]
        parameters += [{"name": each, "in": "query", "required": True, "schema": text} for each in asked]
    parameters += _query_parameters(route.query) if route.query else []
    for name, use in route.headers.items():
        parameters.append({"name": name, "in": "header", "required": False, "schema": text, "description": use})
    return parameters


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    properties = model.model_json_schema(ref_template=_REF)["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()]


def _responses(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    responses = {str(status): _answer(status, model, schemas) for status, model in route.answers.items()}
    gate = {Access.KEY: (401,), Access.SIGNATURE: (403,), Access.PUBLIC: ()}[route.access]
    problem = {PROBLEM_MEDIA_TYPE: {"schema": schemas[Problem]}}
    if route.path.startswith(PROTOCOL_PATH):
        problem = {"application/json": {"schema": schemas[InferenceError]}}
    for status in sorted({*route.errors, *gate, 500}):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": problem}
    return responses


def _answer(status: int, model: type[BaseModel] | str, schemas: dict[Any, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if isinstance(model, str):
        return answer | ({"content": {model: {}}} if model else {})
    return answer | {"content": {"application/json": {"schema": schemas[model]}}}


def _error_table() -> str:
    codes = ", ".join(sorted(ERRORS_BY_CODE))
    form = "Every error is a problem as in RFC 9457, or under /v2 as its protocol has it."
    return f"{form} The `code` of one is stable, and out of: {codes}."
