# SPDX-License-Identifier: Apache-2.0
"""Decoding request bodies: the wire declarations in, a wire value or a refusal out.

Follows the contract in what it takes (member names in any case, unknown members ignored, null for anything
optional, the last of doubled members) and in what it says: the first wrong type in document order, else the
first violation in the alphabetical order of the members.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect
from msgspec.structs import fields

from loxiapi.document import Members, Number, Value, clean_text, parse
from loxiapi.exact import exactly_from
from loxiapi.refusal import RefusedError, not_one_of, required, unparsable
from loxiapi.wire import Wire

_W = TypeVar("_W", bound=Wire)
_M = TypeVar("_M", bound=Wire)
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NOTHING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scalar:
    """A text, boolean or integer."""

    go: str
    low: int = 0
    high: int = 0
    enum: tuple[Any, ...] = ()
    also: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    """An object with its members by lower-case name."""

    go: str
    members: dict[str, "_Member"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _List:
    """An array of objects."""

    item: _Object

    @property
    def go(self) -> str:
        return f"[]*{self.item.go}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    name: str
    shape: "_Scalar | _Object | _List"
    required: bool


@dataclass(slots=True)
class _Reader:
    """Turns a document into plain values and keeps the first wrong type; ``path`` is where it is."""

    path: list[str] = field(default_factory=list)
    wrong: str = ""

    def mismatch(self, found: str, owner: str, expected: str) -> object:
        """Note that ``found`` stood where ``expected`` belongs; the member counts as absent."""
        if not self.wrong:
            place = f"struct field {owner.removeprefix('models.')}.{'.'.join(self.path)}" if self.path else "value"
            self.wrong = f"json: cannot unmarshal {found} into Go {place} of type {expected}"
        return _NOTHING

    def read(self, shape: "_Scalar | _Object | _List", value: Value, owner: str) -> object:
        """Return the plain value of ``shape``, or the mark for none."""
        if value is None:
            return _NOTHING
        if isinstance(shape, _Object):
            return self._object(shape, value, owner)
        if isinstance(shape, _List):
            return self._list(shape, value, owner)
        return self._scalar(shape, value, owner)

    def _object(self, shape: _Object, value: Value, owner: str) -> object:
        if not isinstance(value, Members):
            return self.mismatch(_kind(value), owner, shape.go)
        found: dict[str, object] = {}
        for key, inner in value:
            member = shape.members.get(key.lower())
            if member is None:
                continue
            self.path.append(member.name)
            plain = self.read(member.shape, inner, shape.go)
            self.path.pop()
            if plain is not _NOTHING:
                found[member.name] = plain
        return found

    def _list(self, shape: _List, value: Value, owner: str) -> object:
        if not isinstance(value, list) or isinstance(value, Members):
            return self.mismatch(_kind(value), owner, shape.go)
        items = [self.read(shape.item, inner, owner) for inner in value]
        return [None if item is _NOTHING else item for item in items]

    def _scalar(self, shape: _Scalar, value: Value, owner: str) -> object:
        if isinstance(value, Number) and shape.high:
            whole = _INTEGER.fullmatch(value)
            if whole and shape.low <= int(value) <= shape.high:
                return int(value)
            return self.mismatch(f"number {value}", owner, shape.go)
        if _kind(value) != shape.go:
            return self.mismatch(_kind(value), owner, shape.go)
        return clean_text(value) if isinstance(value, str) else value


def decode_body(content: bytes, kind: type[_W]) -> _W:
    """Decode a request body; raises RefusedError.

    ``content`` is the body as received, empty when the request had none.
    """
    return _decoded(_document(content), kind)


def decode_some(content: bytes, kind: type[_W], many: type[_M]) -> _W | _M:
    """Decode a body that is one ``kind``, or a list of them in the only member of ``many``; raises RefusedError.

    What is wrong with one of the list is refused with its place in it, counted from 0.
    """
    name = fields(many)[0].encode_name
    if re.match(rb'\s*\{\s*"' + name.encode() + rb'"', content):
        exact = exactly_from(content, many)
        if exact is not None:
            return exact
    document = _document(content)
    listed = _listed(document, name, _shape_of(kind))
    if listed is None:
        return _decoded(document, kind)
    return many(**{fields(many)[0].name: [_decoded_at(f"{name}.{at}", one, kind) for at, one in enumerate(listed)]})


def _listed(document: Value, name: str, shape: _Object) -> list[Value] | None:
    """Return the list in a document that has one and nothing that belongs to a single object."""
    if not isinstance(document, Members):
        return None
    given = {key.lower(): value for key, value in document}
    if name.lower() not in given or any(one.required and key in given for key, one in shape.members.items()):
        return None
    found = given[name.lower()]
    if found is not None and (not isinstance(found, list) or isinstance(found, Members)):
        raise unparsable(f"json: cannot unmarshal {_kind(found)} into Go struct field {name} of type []*{shape.go}")
    return found or []


def _decoded_at(place: str, document: Value, kind: type[_W]) -> _W:
    if document is None:
        raise required(place)
    try:
        return _decoded(document, kind)
    except RefusedError as refused:
        raise RefusedError(refused.code, f"{place}: {refused.message}") from None


def _document(content: bytes) -> Value:
    try:
        return parse(content)
    except EOFError:
        raise required("attr") from None


def _decoded(document: Value, kind: type[_W]) -> _W:
    shape = _shape_of(kind)
    reader = _Reader()
    plain = reader.read(shape, document, shape.go)
    if reader.wrong:
        raise unparsable(reader.wrong)
    found = plain if isinstance(plain, dict) else {}
    refusal = next(_violations(shape, found, ""), None)
    if refusal:
        raise refusal
    return msgspec.convert(found, kind)


def _kind(value: Value) -> str:
    """Name the JSON type of ``value`` as the error texts do."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Number):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Members) else "array"


def _violations(shape: _Object, found: dict[str, Any], prefix: str) -> Iterator[RefusedError]:
    for member in sorted(shape.members.values(), key=lambda m: m.name):
        name = prefix + member.name
        value = found.get(member.name)
        if value is None:
            if member.required:
                yield required(name)
            continue
        if isinstance(member.shape, _Scalar):
            if value and member.shape.enum and value not in (*member.shape.enum, *member.shape.also):
                yield not_one_of(name, member.shape.enum)
        elif isinstance(member.shape, _List):
            yield from _item_violations(member.shape.item, value, name)
        else:
            # An object declared in place is named twice: once by its own checks, once by its parent's.
            yield from _violations(member.shape, value, f"{name}.{member.name}.")


def _item_violations(item: _Object, values: list[dict[str, Any] | None], name: str) -> Iterator[RefusedError]:
    for index, value in enumerate(values):
        if value is None:
            yield required(f"{name}.{index}")
        else:
            yield from _violations(item, value, f"{name}.{index}.")


@cache
def _shape_of(kind: type[Wire]) -> _Object:
    """Read the declarations of ``kind``."""
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return _object_of(described)


def _object_of(described: inspect.StructType) -> _Object:
    assert issubclass(described.cls, Wire)
    members = {
        part.encode_name.lower(): _Member(name=part.encode_name, shape=_member_shape(part.type), required=part.required)
        for part in described.fields
    }
    return _Object(go=f"models.{described.cls.go_name}", members=members)


def _member_shape(described: inspect.Type) -> _Scalar | _Object | _List:
    extra: dict[str, Any] = {}
    if isinstance(described, inspect.Metadata):
        extra, described = described.extra or {}, described.type
    if isinstance(described, inspect.UnionType):  # something or null
        described = described.types[0]
    if isinstance(described, inspect.StructType):
        return _object_of(described)
    if isinstance(described, inspect.ListType):
        item = _member_shape(described.item_type)
        assert isinstance(item, _Object)
        return _List(item=item)
    return _scalar_of(described, extra)


def _scalar_of(described: inspect.Type, extra: dict[str, Any]) -> _Scalar:
    choice = {"enum": extra.get("enum", ()), "also": extra.get("also", ())}
    if isinstance(described, inspect.IntType):
        assert described.ge is not None
        assert described.le is not None
        return _Scalar(go=extra["go"], low=described.ge, high=described.le, **choice)
    return _Scalar(go="bool" if isinstance(described, inspect.BoolType) else "string", **choice)
