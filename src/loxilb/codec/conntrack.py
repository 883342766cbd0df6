# SPDX-License-Identifier: Apache-2.0
"""Entries of lists of flows as JSON, thousands of flows at once.

A flow costs an eighth of a microsecond, a fortieth of what an object for each takes.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loxiapi.wire import encode
from loxilb.codec.flows import act_word, is_one_sided, protocol_word, state_word
from loxilb.codec.text_rows import FILL, Codes, Piece, Rows, Texts, alike, codes_of, joined, numbers, one_or_each, split
from loxilb.model import FlowState, Mode
from loxilb.model.flow_list import FlowColumns

_WORDS = range(1 << 16)
_NOTHING = 1 << 16
_HIDDEN, _DOUBLE_COLON, _PLAIN, _BEHIND_COLON = range(4)


def _act(code: int) -> bytes:
    """Return what is done with the packets of a mode, replies or not."""
    return f'"{act_word(Mode(code >> 1), reply=bool(code & 1))}-'.encode()


_ACTS = Texts(map(_act, range(2 * len(Mode))), right=True)
_COMMA = Texts([b"", b","])
_FRONT = Texts([*(b"%d.%d." % divmod(word, 256) for word in _WORDS), b""])
_REAR = Texts([*(b"%d.%d" % divmod(word, 256) for word in _WORDS), b""])
_OPENED = Texts((b'"%d.%d' % divmod(word, 256) for word in _WORDS), right=True)
_CLOSED = Texts(b'%d.%d"' % divmod(word, 256) for word in _WORDS)
_REWRITTEN_PORT = Texts(b':%d:w0"' % port for port in _WORDS)
_STATES = Texts(f'"{state_word(number, state)}"'.encode() for number, state in product(range(256), FlowState))
_QUOTE = alike(b'"')
_PROTOCOLS = Texts(f'"{protocol_word(number)}"'.encode() for number in range(256))
_PORT = Texts([b"", *(b":%d" % port for port in _WORDS[1:])], right=True)


class ConntrackEncoder:
    """Writes the entries of lists of flows; ``names`` are those of services, by rule."""

    def __init__(self, names: Mapping[int, str], *, compact: bool) -> None:
        """Keep the names; a flow of another rule has none. What is not ``compact`` has blanks between tokens."""
        self._services = _Services(names)
        self._compact = compact

    def entries(self, flows: FlowColumns) -> bytes | memoryview:
        """Return one JSON object a flow, a comma before each, members in the order of their names as everywhere."""
        if not len(flows):
            return b""
        rows = Rows(len(flows))
        _until_state(rows, flows)
        self._from_destination(rows, flows)
        text = rows.written()
        return bytes(text).translate(None, FILL) if self._compact else text

    def _from_destination(self, rows: Rows, flows: FlowColumns) -> None:
        rows.same(b',"destinationIP":')
        _put_address(rows, flows.destination)
        _put_port(rows, b',"destinationPort"', flows.destination_port)
        rows.same(b',"ident":"0:0"')
        _put_number(rows, b',"packets":', flows.packets)
        rows.same(b',"protocol":')
        rows.joined([_PROTOCOLS.of(codes_of(flows.protocol))])
        self._services.put(rows, flows.rule)
        rows.same(b',"sourceIP":')
        _put_address(rows, flows.source)
        _put_port(rows, b',"sourcePort"', flows.source_port)
        rows.same(b"}")


def _until_state(rows: Rows, flows: FlowColumns) -> None:
    rows.same(b",{")
    _put_number(rows, b'"bytes":', flows.bytes, b",")
    rows.same(b'"conntrackAct":')
    rows.looked_up(_ACTS, codes_of(flows.mode) << 1 | codes_of(flows.reply))
    rows.joined(_rewritten(flows))
    rows.same(b',"conntrackState":')
    rows.joined([_STATES.of(codes_of(flows.protocol) * len(FlowState) + codes_of(flows.state))])


def _put_number(rows: Rows, before: bytes, values: NDArray[np.uint64], after: bytes = b"") -> None:
    """Put in a number and what is before and after it; nothing where it is 0."""
    values = np.ascontiguousarray(values)
    shown = values != 0
    rows.same(before, shown)
    for column in numbers(values):
        rows.each(column)
    rows.same(after, shown)


def _put_port(rows: Rows, label: bytes, ports: NDArray[np.uint16]) -> None:
    """Put in a port behind its label; nothing where it is 0."""
    codes = codes_of(ports)
    rows.same(label, codes != 0)
    rows.looked_up(_PORT, codes)


def _put_address(rows: Rows, words: NDArray[np.uint16]) -> None:
    if words.shape[1] == 2:
        front, rear = (codes_of(column) for column in words.T)
        rows.looked_up(_OPENED, front)
        rows.same(b".")
        rows.looked_up(_CLOSED, rear)
    else:
        changes = _changes(words)  # flows are in the order of addresses: many have that of the one before
        firsts = words[changes]
        texts = joined([*_address(firsts), _QUOTE], len(firsts))
        rows.same(b'"')
        rows.each(np.ascontiguousarray(texts).take(np.cumsum(changes) - 1))


class _Services:
    """The names of services: a text a rule, made when it is needed."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._places = np.zeros(max(names, default=-1) + 2, np.intp)  # the last one stands for all that have no name
        self._texts = [b""]
        self._tables: list[Texts] = []

    def put(self, rows: Rows, rules: NDArray[np.uint32]) -> None:
        """Put in the text of each row's rule."""
        places = one_or_each(self._places_of(rules))
        for table in self._tables:
            rows.joined([table.of(places)])

    def _places_of(self, rules: NDArray[np.uint32]) -> Codes:
        rows = np.minimum(rules, len(self._places) - 1).astype(np.intp)
        places = self._places.take(rows)
        if not places.all():
            # Few are enough for a short list. Who needs more than those of the first rows mostly needs most of them.
            self._learn(np.flatnonzero(self._places == 0) if self._tables else np.unique(rows))
            places = self._places.take(rows)
        return places

    def _learn(self, rules: Codes) -> None:
        self._places[rules] = np.arange(len(rules)) + len(self._texts)
        self._texts += [_named(self._names.get(rule, "")) for rule in rules.tolist()]
        self._tables = split(self._texts)


def _named(name: str) -> bytes:
    """Return the member that names a service."""
    return b',"servName":' + encode(name) if name else b""


def _rewritten(flows: FlowColumns) -> Iterator[Piece]:
    """Return the addresses and the port that are written into packets, for example ``<source>,<endpoint>:<port>``."""
    both = ~_one_sided()[flows.mode]
    if both.any():
        yield from _address(flows.new_source, None if both.all() else both)
        yield _COMMA.of(codes_of(both))
    yield from _address(_either(flows.reply & ~both, flows.new_source, flows.new_destination))
    yield _REWRITTEN_PORT.of(codes_of(_either(flows.reply, flows.new_source_port, flows.new_destination_port)))


def _either(choice: NDArray[np.bool_], one: NDArray[np.uint16], other: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return what is in ``one`` where that is the ``choice``, and else in the ``other``."""
    if choice.all():
        return one
    if not choice.any():
        return other
    if one.ndim == 1:
        return np.where(choice, one, other)
    return np.stack([np.where(choice, *both) for both in zip(one.T, other.T, strict=True)]).T


@cache
def _one_sided() -> NDArray[np.bool_]:
    return np.array([is_one_sided(mode) for mode in sorted(Mode)])


def _address(words: NDArray[np.uint16], shown: NDArray[np.bool_] | None = None) -> Iterator[Piece]:
    """Return addresses as text, nothing where they are not ``shown`` (RFC 5952 section 4 for those of IPv6)."""
    if words.shape[1] == 2:
        for table, column in zip((_FRONT, _REAR), words.T, strict=True):
            codes = codes_of(column)
            yield table.of(codes if shown is None else np.where(shown, codes, _NOTHING))
        return
    forms = _forms6()[np.packbits(words == 0, axis=1)[:, 0]]
    for form, column in zip(forms.T, words.T, strict=True):
        codes = codes_of(form) << 16 | codes_of(column)
        yield _texts6().of(codes if shown is None else np.where(shown, codes, _HIDDEN << 16))


def _changes(words: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Tell which addresses are other than those before them."""
    changes = np.ones(len(words), bool)
    changes[1:] = (words[1:] != words[:-1]).any(axis=1)
    return changes


@cache
def _texts6() -> Texts:
    """Return the texts of all 16-bit words of an IPv6 address, by their form."""
    numbers = [b"%x" % word for word in _WORDS]
    colons: list[Any] = [b"::"] * len(numbers)
    return Texts([*[b""] * len(numbers), *colons, *numbers, *(b":" + number for number in numbers)])


@cache
def _forms6() -> NDArray[np.uint8]:
    """Return the form of each word of an address, by which of them are 0 (a bit a word, the first one highest)."""
    return np.array([_form6(zeros) for zeros in range(256)], np.uint8)


def _form6(zeros: int) -> list[int]:
    """The first one of the longest runs of two or more zeros becomes a double colon."""
    bits = f"{zeros:08b}"
    forms = [_PLAIN] + 7 * [_BEHIND_COLON]
    longest = max(map(len, bits.split("0")))
    if longest > 1:
        at = bits.index("1" * longest)
        forms[at : at + longest] = [_DOUBLE_COLON, *[_HIDDEN] * (longest - 1)]
        forms[at + longest : at + longest + 1] = [_PLAIN] * (at + longest < 8)
    return forms
