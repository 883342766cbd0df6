# SPDX-License-Identifier: Apache-2.0
"""``loxicmd explain``: the members of what the API takes and answers, read from the wire types themselves."""

from collections.abc import Iterator

import click
from msgspec import inspect

from loxiapi import wire
from loxiapi.status import ReconcilerStatus
from loxicmd.grammar import CommandError, command, offering, reject_surplus
from loxicmd.output import show_table

_KINDS: dict[tuple[str, ...], type[wire.Wire]] = {
    ("loadbalancer", "lb", "loadbalancers", "lbs"): wire.LoadBalancerEntry,
    ("endpoint", "ep", "endpoints"): wire.MonitoredEndpoint,
    ("endpointhoststate",): wire.EndpointHostState,
    ("conntrack", "ct", "conntracks", "cts"): wire.ConntrackEntry,
    ("port",): wire.PortEntry,
    ("params",): wire.Params,
    ("revisions",): wire.RevisionEntry,
    ("status",): ReconcilerStatus,
}
_HEADER = ("Member", "Type", "Needed", "Meaning")


@command("explain", "Explain the members of KIND: " + ", ".join(names[0] for names in _KINDS) + ".")
@click.argument("words", nargs=-1, metavar="KIND", shell_complete=offering(names[0] for names in _KINDS))
def explain(words: tuple[str, ...]) -> None:
    """Show one line a member, members of members below."""
    reject_surplus(words, 1)
    found = next((kind for names, kind in _KINDS.items() if words and words[0] in names), None)
    if found is None:
        raise CommandError(f"explain needs one of {', '.join(names[0] for names in _KINDS)}")
    described = inspect.type_info(found)
    assert isinstance(described, inspect.StructType)
    show_table(_HEADER, list(_rows(described, "")))


def _rows(described: inspect.StructType, prefix: str) -> Iterator[list[str]]:
    for field in described.fields:
        name, kind, about, values = f"{prefix}{field.encode_name}", field.type, "", ""
        if isinstance(kind, inspect.Metadata):
            schema = kind.extra_json_schema or {}
            about = str(schema.get("description", ""))
            values = ", ".join(str(one) for one in (kind.extra or {}).get("enum", ()))
            kind = kind.type
        if isinstance(kind, inspect.UnionType):
            kind = kind.types[0]
        inner, mark = (kind.item_type, "[]") if isinstance(kind, inspect.ListType) else (kind, "")
        yield [name, _word(inner) + mark, "yes" if field.required else "", about or values]
        if isinstance(inner, inspect.StructType):
            yield from _rows(inner, f"{name}{mark}.")


def _word(kind: inspect.Type) -> str:
    words = {inspect.IntType: "number", inspect.BoolType: "boolean", inspect.StrType: "text"}
    return words.get(type(kind), "object")
