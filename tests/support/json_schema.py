# SPDX-License-Identifier: Apache-2.0
"""A JSON Schema checker for the parts that the OpenAPI document uses; any other keyword is an error."""

from typing import Any

_ANNOTATIONS = {"type", "title", "description", "default", "format"}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "null": type(None),
}


def mismatches(value: Any, schema: dict[str, Any], document: dict[str, Any], at: str = "$") -> list[str]:
    """Return where ``value`` breaks ``schema``; an undeclared member of an object is a breach."""
    if not _is_of_type(value, schema.get("type")):
        return [f"{at}: {value!r} is no {schema['type']}"]
    found: list[str] = []
    for keyword, argument in schema.items():
        match keyword:
            case "$ref":
                found += mismatches(value, _resolve(argument, document), document, at)
            case "anyOf":
                if all(mismatches(value, choice, document, at) for choice in argument):
                    found.append(f"{at}: none of {argument}")
            case "properties":
                found += _member_mismatches(value, argument, document, at)
            case "required":
                found += [f"{at}: {name} is missing" for name in argument if name not in value]
            case "items":
                for index, item in enumerate(value):
                    found += mismatches(item, argument, document, f"{at}[{index}]")
            case "enum":
                found += [] if value in argument else [f"{at}: {value!r} is not in {argument}"]
            case "minimum":
                found += [] if value >= argument else [f"{at}: {value} < {argument}"]
            case "maximum":
                found += [] if value <= argument else [f"{at}: {value} > {argument}"]
            case _ if keyword not in _ANNOTATIONS:
                found.append(f"{at}: keyword {keyword} is not checked")
    return found


def _is_of_type(value: Any, name: str | None) -> bool:
    if name is None:
        return True
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _member_mismatches(value: Any, declared: dict[str, Any], document: dict[str, Any], at: str) -> list[str]:
    found = []
    for name, inner in value.items():
        if name not in declared:
            found.append(f"{at}: {name} is not declared")
        else:
            found += mismatches(inner, declared[name], document, f"{at}.{name}")
    return found


def _resolve(reference: str, document: dict[str, Any]) -> dict[str, Any]:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    schema: dict[str, Any] = node
    return schema
