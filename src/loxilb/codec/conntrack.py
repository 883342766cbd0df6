# SPDX-License-Identifier: Apache-2.0
"""Entries of lists of flows as JSON, thousands of flows at once.

A flow costs a quarter of a microsecond, a twentieth of what an object for each takes.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loxiapi.wire import encode
from loxilb.codec.flows import act_word, is_one_sided, protocol_word, state_word
from loxilb.codec.side_by_side import Codes, Numbers, Piece, Texts, alike, codes_of, joined, split, written
from loxilb.model import FlowState, Mode
from loxilb.model.flow_list import FlowColumns

_WORDS = range(1 << 16)
_NOTHING = 1 << 16
_HIDDEN, _DOUBLE_COLON, _PLAIN, _BEHIND_COLON = range(4)


def _act(code: int) -> bytes:
    """Return what is done with the packets of a mode, replies or not, behind something or not."""
    text = f'"conntrackAct":"{act_word(Mode(code >> 2), reply=bool(code & 2))}-'.encode()
    return b"," + text if code & 1 else text


_BYTES, _PACKETS = Numbers(b",{", b'"bytes":'), Numbers(b',"ident":"0:0"', b',"packets":')
_ACTS = Texts(map(_act, range(4 * len(Mode))))
_COMMA = Texts([b"", b","])
_FRONT = Texts([*(b"%d.%d." % divmod(word, 256) for word in _WORDS), b""])
_REAR = Texts([*(b"%d.%d" % divmod(word, 256) for word in _WORDS), b""])
_REWRITTEN_PORT = Texts(b':%d:w0","conntrackState":"' % port for port in _WORDS)
_STATES = Texts(state_word(number, state).encode() for number, state in product(range(256), FlowState))
_DESTINATION = alike(b'","destinationIP":"')
_DESTINATION_PORT = Texts(b'","destinationPort":%d' % port if port else b'"' for port in _WORDS)
_PROTOCOLS = Texts(f',"protocol":"{protocol_word(number)}"'.encode() for number in range(256))
_SOURCE = b',"sourceIP":"'
_SOURCE_PORT = Texts(b'","sourcePort":%d}' % port if port else b'"}' for port in _WORDS)


class ConntrackEncoder:
    """Writes the entries of lists of flows; ``names`` are those of services, by rule."""

    def __init__(self, names: Mapping[int, str]) -> None:
        """Keep the names; a flow of another rule has none."""
        self._services = _Services(names)

    def entries(self, flows: FlowColumns) -> memoryview:
        """Return one JSON object a flow, a comma before each, members in the order of their names as everywhere."""
        if not len(flows):
            return memoryview(b"")
        return written(list(_until_destination(flows)), list(self._from_destination(flows)), len(flows))

    def _from_destination(self, flows: FlowColumns) -> Iterator[Piece]:
        yield from _address(flows.destination)
        yield _DESTINATION_PORT.of(codes_of(flows.destination_port))
        yield from _PACKETS.of(flows.packets)
        yield _PROTOCOLS.of(codes_of(flows.protocol))
        yield from self._services.of(flows.rule)
        yield from _address(flows.source)
        yield _SOURCE_PORT.of(codes_of(flows.source_port))


def _until_destination(flows: FlowColumns) -> Iterator[Piece]:
    # An address is in an item of 40 bytes at the most. From its two bytes, "::", to the end of this are 45.
    yield from _BYTES.of(flows.bytes)
    yield _ACTS.of(codes_of(flows.mode) << 2 | codes_of(flows.reply) << 1 | (flows.bytes != 0))
    yield from _rewritten(flows)
    yield _STATES.of(codes_of(flows.protocol) * len(FlowState) + flows.state)
    yield _DESTINATION


class _Services:
    """The names of services, and what follows them: a text a rule, made when it is needed."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._places = np.zeros(max(names, default=-1) + 2, np.intp)  # the last one stands for all that have no name
        self._texts = [b""]
        self._tables: list[Texts] = []

    def of(self, rules: NDArray[np.uint32]) -> list[Piece]:
        """Return the text of each row's rule."""
        rows = np.minimum(rules, len(self._places) - 1).astype(np.intp)
        places = self._places.take(rows)
        if not places.all():
            # Few are enough for a short list. Who needs more than those of the first rows mostly needs most of them.
            self._learn(np.flatnonzero(self._places == 0) if self._tables else np.unique(rows))
            places = self._places.take(rows)
        return [table.of(places) for table in self._tables]

    def _learn(self, rules: Codes) -> None:
        self._places[rules] = np.arange(len(rules)) + len(self._texts)
        self._texts += [_named(self._names.get(rule, "")) for rule in rules.tolist()]
        self._tables = split(self._texts)


def _named(name: str) -> bytes:
    """Return the name of a service, and what follows it."""
    return (b',"servName":' + encode(name) if name else b"") + _SOURCE


def _rewritten(flows: FlowColumns) -> Iterator[Piece]:
    """Return the addresses and the port that are written into packets, for example ``<source>,<endpoint>:<port>``."""
    both = ~_one_sided()[flows.mode]
    if both.any():
        yield from _address(flows.new_source, both)
        yield _COMMA.of(both.astype(np.intp))
    yield from _address(np.where((flows.reply & ~both)[:, None], flows.new_source, flows.new_destination))
    yield _REWRITTEN_PORT.of(codes_of(np.where(flows.reply, flows.new_source_port, flows.new_destination_port)))


@cache
def _one_sided() -> NDArray[np.bool_]:
    return np.array([is_one_sided(mode) for mode in sorted(Mode)])


def _address(words: NDArray[np.uint16], shown: NDArray[np.bool_] | None = None) -> list[Piece]:
    """Return addresses as text, nothing where they are not ``shown``."""
    words = words.astype(np.uint16, order="C")
    if shown is None:
        changes = _changes(words)
        firsts = np.flatnonzero(changes)
        if 2 * len(firsts) < len(words):  # flows are in the order of addresses
            return [joined(list(_words_of(words[firsts], None)), np.cumsum(changes) - 1)]
    return list(_words_of(words, shown))


def _changes(words: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Tell which addresses are other than those before them."""
    changes = np.zeros(len(words), bool)
    changes[0] = True
    for column in words.view(np.uint32 if words.shape[1] == 2 else np.uint64).T:
        changes[1:] |= column[1:] != column[:-1]
    return changes


def _words_of(words: NDArray[np.uint16], shown: NDArray[np.bool_] | None) -> Iterator[Piece]:
    """Return addresses as text, word by word (RFC 5952 section 4 for those of IPv6)."""
    if words.shape[1] == 2:
        for table, column in zip((_FRONT, _REAR), words.T, strict=True):
            codes = column.astype(np.intp)
            yield table.of(codes if shown is None else np.where(shown, codes, _NOTHING))
        return
    forms = _forms6()[np.packbits(words == 0, axis=1)[:, 0]]
    for form, column in zip(forms.T, words.T, strict=True):
        codes = codes_of(form) << 16 | column
        yield _texts6().of(codes if shown is None else np.where(shown, codes, _HIDDEN << 16))


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
