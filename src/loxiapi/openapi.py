# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document, made from the operations and the wire types.

OpenAPI 3.1 rather than Swagger 2.0: its schemas are JSON Schema, so that "an array or null" can be said.
"""

from typing import Any

from msgspec.json import schema_components

from loxiapi.operations import JSON_TYPE, LINES_TYPE, OPERATIONS, Operation, Parameter, Place
from loxiapi.wire import Failure, Refusal, Wire

_REFUSED = {
    "400": "The body does not decode, or the arguments are wrong",
    "404": "Nothing of that kind is there",
    "405": "The path has no such method",
    "406": "The client does not accept JSON",
    "409": "It is there already",
    "413": "The body is larger than 64 MiB",
    "415": "The body is not JSON",
    "422": "The body or a parameter breaks the schema",
    "500": "The kernel refused, or a fault of the daemon",
    "501": "Not built",
    "503": "The configuration cannot be kept: disk full or read-only",
}


def document(*, version: str) -> dict[str, Any]:
    """Return the document; ``version`` is the daemon's."""
    kinds = [kind for operation in OPERATIONS for kind in (operation.body, operation.answer) if kind]
    _, components = schema_components([*dict.fromkeys(kinds), Failure, Refusal], ref_template=_ref("{name}"))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "loxilb REST API",
            "description": "Member names of bodies are matched in any case. Unknown members are ignored.",
            "version": version,
        },
        "paths": _paths(),
        "components": {"schemas": components},
    }


def _ref(name: str) -> str:
    return f"#/components/schemas/{name}"


def _paths() -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return paths


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.name, "summary": operation.about}
    if operation.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body:
        described["requestBody"] = {"required": True, "content": _content(_body(operation.body, operation.many))}
    described["responses"] = {"200": {"description": "Done", "content": _answer(operation)}} | _refused()
    return described


def _body(body: type[Wire], many: type[Wire] | None) -> dict[str, Any]:
    return {"anyOf": [_schema(body), _schema(many)]} if many else _schema(body)


def _answer(operation: Operation) -> dict[str, Any]:
    if operation.media == LINES_TYPE and operation.answer:
        return {LINES_TYPE: {"schema": _schema(operation.answer)}}
    if operation.media != JSON_TYPE:
        return {operation.media: {"schema": {"type": "string"}}}
    return _content(_schema(operation.answer) if operation.answer else {"type": "object"})


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place.value,
        "required": parameter.place is Place.PATH,
        "description": parameter.about,
        "schema": {"type": parameter.kind.value},
    }


def _refused() -> dict[str, Any]:
    either = {"anyOf": [_schema(Failure), _schema(Refusal)]}
    return {code: {"description": text, "content": _content(either)} for code, text in _REFUSED.items()}


def _schema(kind: type[Wire]) -> dict[str, Any]:
    return {"$ref": _ref(kind.__name__)}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {JSON_TYPE: {"schema": schema}}
