"""OpenAPI 3.1, built from the operations and their pydantic models, with the schema of every kind's payload.

It is not built by a Flask extension: those tried either validate a body that is not JSON as an empty one, or compute
a JSON Schema per request (docs/decisions/0005-openapi.md).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic.json_schema import models_json_schema

from api.operations import Operation
from jobplatform import __version__
from jobplatform.domain.kinds import KindRegistry

REF = "#/components/schemas/{model}"
PROBLEMS = {
    400: "The body is not JSON, or ended early; a header is not ASCII",
    401: "No API key, or one that is not valid",
    403: "This API key may not do that",
    404: "No such thing for this tenant",
    406: "This server can't stream: it has no event loop (gunicorn)",
    409: "Not in this state, or in progress",
    413: "The body is too large",
    415: "Not application/json",
    416: "No such range",
    422: "A field is not as expected; `errors` names each",
    429: "Too many requests with this key, or too many jobs wait; Retry-After says when to try again",
    507: "The artifact store is full",
    503: "The ledger can't be reached (repeat), or the outcome is unknown (repeat with the same Idempotency-Key)",
}
_CONVERTER = re.compile(r"<(?:(\w+):)?(\w+)>")


def build_openapi(kinds: KindRegistry) -> dict[str, Any]:
    """Return the document."""
    from api.v1 import OPERATIONS
    from api.v1.schemas.problems import Problem

    models: dict[Any, Literal["validation", "serialization"]] = {Problem: "serialization"}
    models |= {operation.body: "validation" for operation in OPERATIONS if operation.body is not None}
    models |= {operation.answer: "serialization" for operation in OPERATIONS if operation.answer is not None}
    models |= {model: "serialization" for operation in OPERATIONS for model in operation.also_answers.values()}
    refs, definitions = models_json_schema(
        list(models.items()),
        ref_template=REF,
    )
    schemas = dict(definitions.get("$defs", {}))
    for kind in kinds:
        schemas[f"payload.{kind.name}"] = kind.payload.model_json_schema(ref_template=REF) | {
            "description": kind.description
        }
        schemas.update(schemas[f"payload.{kind.name}"].pop("$defs", {}))
    by_model = {model: schema for (model, _), schema in refs.items()}
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        path, parameters = _path(operation)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, parameters, by_model)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Job platform",
            "version": __version__,
            "description": "Hand over slow or risky work, get a job id at once. The ledger decides, RabbitMQ carries.",
        },
        "servers": [{"url": "/"}],
        "security": [{"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer", "description": "your API key"}},
        },
    }


def _path(operation: Operation) -> tuple[str, list[dict[str, Any]]]:
    parameters = []
    for converter, name in _CONVERTER.findall(operation.path):
        schema = {"type": "string", "format": "uuid"} if converter == "uuid" else {"type": "string"}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    return "/v1" + _CONVERTER.sub(r"{\2}", operation.path), parameters


def _operation(operation: Operation, parameters: list[dict[str, Any]], schemas: dict[Any, Any]) -> dict[str, Any]:
    if operation.query is not None:
        query = operation.query.model_json_schema()
        definitions = query.get("$defs", {})
        for name, schema in query["properties"].items():
            parameters.append({"name": name, "in": "query", "required": False, "schema": _inline(schema, definitions)})
    for name, description in operation.headers:
        parameters.append({"name": name, "in": "header", "description": description, "schema": {"type": "string"}})
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content = {"application/json": {"schema": schemas[operation.answer]}}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string", "description": "Server-Sent Events"}}
    if operation.binary_answer:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    operation_object: dict[str, Any] = {
        "operationId": operation.endpoint.__name__,
        "summary": operation.summary,
        "description": operation.endpoint.__doc__ or "",
        "tags": [operation.tag],
        "parameters": parameters,
        "responses": {
            str(operation.status): {"description": operation.summary, "content": content},
            **{
                str(status): {"description": text, "content": _content_also(operation, status, content, schemas)}
                for status, text in operation.also
            },
            **{
                str(status): {
                    "description": PROBLEMS[status],
                    "content": {"application/problem+json": {"schema": {"$ref": REF.format(model="Problem")}}},
                }
                for status in sorted(operation.problem_statuses)
            },
        },
    }
    if operation.body is not None:
        operation_object["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": schemas[operation.body]}},
        }
        if operation.ndjson:
            lines = {"type": "string", "description": "a JSON value of the array per line"}
            operation_object["requestBody"]["content"]["application/x-ndjson"] = {"schema": lines}
    if operation.binary_body:
        operation_object["requestBody"] = {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
                },
            },
        }
    return operation_object


def _content_also(operation: Operation, status: int, usual: dict[str, Any], schemas: dict[Any, Any]) -> dict[str, Any]:
    if status in (204, 304):
        return {}
    if status in operation.also_answers:
        return {"application/json": {"schema": schemas[operation.also_answers[status]]}}
    return usual


def _inline(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Replace references to enums of query parameters by the enums."""
    if "$ref" in schema:
        inlined: dict[str, Any] = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        return inlined
    if "anyOf" in schema:
        return {**schema, "anyOf": [_inline(part, definitions) for part in schema["anyOf"]]}
    return schema
