# SPDX-License-Identifier: Apache-2.0
"""Calling the API and printing what it answers."""

import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import click
from msgspec import DecodeError, Struct
from msgspec import json as wire_json

from loxiapi.client import Answer, Server, UnreachableError, send
from loxiapi.wire import Result
from loxicmd.colours import paint_states
from loxicmd.colours import wanted as colours_wanted
from loxicmd.grammar import CommandError, output_of, server_of
from loxicmd.table import draw

_T = TypeVar("_T")
_INDENT = 4
_OK = 200


def call(
    server: Server, method: str, path: str, *, query: dict[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """Send a request; raises CommandError without an answer."""
    try:
        return send(server, method, path, query=query, body=body)
    except UnreachableError as error:
        raise CommandError(str(error)) from error


def fetch(ctx: click.Context, path: str, kind: type[_T], query: dict[str, str] | None = None) -> _T:
    """Get and decode; raises CommandError."""
    answer = call(server_of(ctx), "GET", path, query=query)
    if answer.status != _OK:
        raise CommandError(reason_of(answer))
    try:
        return wire_json.decode(answer.body, type=kind)
    except DecodeError as error:
        raise CommandError(f"Failed to unmarshal HTTP response: ({error})") from error


def reason_of(answer: Answer) -> str:
    """Return why the server refused, with its explanation where it gave one."""
    try:
        body = wire_json.decode(answer.body)
        text = body.get("result") or body.get("message") or ""
    except (DecodeError, AttributeError):
        text = ""
    reason = text.removeprefix("Error: ") or f"HTTP status {answer.status}"
    return f"{reason} ({answer.cause})" if answer.cause else reason


def structured(ctx: click.Context) -> bool:
    """Tell whether the output is for programs."""
    return output_of(ctx) in ("json", "yaml")


def wide(ctx: click.Context) -> bool:
    """Tell whether all columns are wanted."""
    return output_of(ctx) == "wide"


def show_structure(ctx: click.Context, value: Any) -> None:
    """Print plain values as JSON or YAML."""
    if output_of(ctx) == "yaml":
        import yaml  # noqa: PLC0415 costs more than the rest of a call, and few ask for it

        print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")
    else:
        print(wire_json.format(wire_json.encode(value), indent=_INDENT).decode())


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, even_empty: bool = False) -> None:
    """Print a table; without rows nothing, except where the header is always there."""
    if rows or even_empty:
        table = draw(header, rows)
        print(paint_states(table, header) if colours_wanted() else table, end="")


def show_result(ctx: click.Context, answer: Answer, *, debug: bool = True) -> None:
    """Print the outcome of a write, after its status where ``debug``; raises CommandError for a refusal."""
    if debug and not structured(ctx):
        print(f"Debug: response.StatusCode: {answer.status}")
    if answer.status != _OK:
        sys.stdout.flush()
        raise CommandError(reason_of(answer))
    result = wire_json.decode(answer.body, type=Result)
    if structured(ctx):
        show_structure(ctx, plain(result))
    else:
        print(result.result)


def plain(value: Any) -> Any:
    """Turn wire values into plain ones, members in declared order, zero values included."""
    if isinstance(value, Struct):
        names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        return {wire_name: plain(getattr(value, name)) for wire_name, name in names}
    return [plain(item) for item in value] if isinstance(value, list) else value
