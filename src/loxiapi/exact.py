# SPDX-License-Identifier: Apache-2.0
"""Bodies that are written exactly as declared, decoded in one go.

The contract takes more than is declared: member names in any case, unknown members, null. ``loxiapi.decode`` follows it
member by member, which takes forty microseconds a rule. What programs write needs none of that. The types made here
take only what needs none of it and is right; whatever else there is they refuse, for the other decoder to judge.
"""

from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from loxiapi.wire import Wire

_W = TypeVar("_W", bound=Wire)


def exactly(value: object, kind: type[_W]) -> _W | None:
    """Return plain ``value`` as ``kind``; None where it is not written exactly as declared."""
    try:
        found: _W = msgspec.convert(value, _exact(kind))
    except (msgspec.ValidationError, ValueError):
        return None
    return found


def exactly_from(content: bytes, kind: type[_W]) -> _W | None:
    """Decode JSON as ``kind``; None where it is not written exactly as declared."""
    try:
        found: _W = _decoder(kind).decode(content)
    except (msgspec.MsgspecError, ValueError):
        return None
    return found


@cache
def _decoder(kind: type[_W]) -> "msgspec.json.Decoder[_W]":
    return msgspec.json.Decoder(_exact(kind))


@cache
def _exact(kind: type[_W]) -> type[_W]:
    """Make a type that takes less than ``kind``: no unknown member, no null, no value that is not listed."""
    members = [(one.name, _narrow(one.type), _declared(one)) for one in fields(kind)]
    made: Any = msgspec.defstruct(
        f"Exact{kind.__name__}", members, bases=(kind,), kw_only=True, frozen=True, forbid_unknown_fields=True
    )
    narrow: type[_W] = made
    return narrow


def _declared(one: msgspec.structs.FieldInfo) -> Any:
    if one.required:
        return msgspec.field(name=one.encode_name)
    if one.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(name=one.encode_name, default_factory=one.default_factory)
    return msgspec.field(name=one.encode_name, default=one.default)


def _narrow(declared: Any) -> Any:
    """Return what a member of a type may be."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        listed = [one.extra for one in arguments[1:] if isinstance(one, Meta) and one.extra and "enum" in one.extra]
        if not listed:
            return declared
        values = (*listed[-1]["enum"], *listed[-1]["also"])
        return Literal[tuple(dict.fromkeys((*values, type(values[0])())))]
    if origin in (Union, UnionType):
        return _narrow(next(one for one in arguments if one is not NoneType))
    if origin is list:
        return list[_narrow(arguments[0])]  # type: ignore[misc]  # types made at run time
    return _exact(declared) if isinstance(declared, type) and issubclass(declared, Struct) else declared
