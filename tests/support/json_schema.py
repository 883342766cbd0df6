# SPDX-License-Identifier: Apache-2.0
"""A JSON Schema checker for the parts that the OpenAPI document uses; any other keyword is an error."""

from typing import Any

_KEYWORDS = {
    *("title", "description", "default", "format"),
    *("$ref", "anyOf", "type", "properties", "required", "items", "enum", "minimum", "maximum"),
}
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
    found = [f"{at}: keyword {keyword} is not checked" for keyword in schema.keys() - _KEYWORDS]
    if "$ref" in schema:
        found += mismatches(value, _resolve(schema["$ref"], document), document, at)
    choices = schema.get("anyOf", [])
    if choices and all(mismatches(value, choice, document, at) for choice in choices):
        found.append(f"{at}: none of {choices}")
    if "properties" in schema:
        found += _member_mismatches(value, schema["properties"], document, at)
    found += [f"{at}: {name} is missing" for name in schema.get("required", []) if name not in value]
    if "items" in schema:
        for index, item in enumerate(value):
            found += mismatches(item, schema["items"], document, f"{at}[{index}]")
    return found + _limit_mismatches(value, schema, at)


def _limit_mismatches(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    listed = "enum" not in schema or value in schema["enum"]
    above = "minimum" not in schema or value >= schema["minimum"]
    below = "maximum" not in schema or value <= schema["maximum"]
    return [] if listed and above and below else [f"{at}: {value!r} is outside {schema}"]


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
