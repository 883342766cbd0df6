# SPDX-License-Identifier: Apache-2.0
"""The listener maps: which rule an address, a port and a mark lead to.

The packet path looks without a mark first. Where there are listeners with one beside, the element it finds says so, and
exists for that alone where there is no rule without a mark. That is kept here, not by the planner.
"""

import ctypes
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import NamedTuple, cast

from loxilb.kernel import abi
from loxilb.kernel.bpf import layouts, maps
from loxilb.model.image import Listener, RuleId, SecondaryListener

_Undo = Callable[[], None]

# A map is read whole only for many keys: that goes through all buckets, and a look-up takes the time of four elements.
_MANY, _PART = 64, 4
_WORD = struct.Struct("=I")
_RULE, _MARKED = abi.LISTENER_RULE, abi.LISTENER_MARKED
_KEY_SIZES = {4: ctypes.sizeof(abi.Listener4), 6: ctypes.sizeof(abi.Listener6)}


class Row(NamedTuple):
    """Listeners without a mark, all of one IP version, with their keys in a row and the words that lead to rules."""

    version: int
    listeners: Sequence[Listener]
    keys: bytes
    words: Sequence[int]


class Leads(NamedTuple):
    """Listeners that lead to rules: many in rows, ``singly`` where some have a mark.

    ``addresses`` says how many are at each, packed.
    """

    singly: Mapping[Listener, RuleId]
    rows: Sequence[Row]
    addresses: Mapping[bytes, int]


def leads_of(listeners: Mapping[Listener, RuleId]) -> Leads:
    """Return listeners as they are written."""
    marked = any(listener.mark for listener in listeners)
    versions = () if marked else sorted({one.version for one in listeners})
    rows = [_row(version, listeners) for version in versions]
    return Leads(listeners if marked else {}, rows, layouts.listeners_counted(listeners))


def _row(version: int, listeners: Mapping[Listener, RuleId]) -> Row:
    ours = [listener.version == version for listener in listeners]
    some = list(compress(listeners, ours))
    words = list(map(_word, some, compress(listeners.values(), ours)))
    return Row(version, some, layouts.listeners_to_keys(some, version), words)


class ListenerMaps:
    """The maps of both families; call :meth:`index` before the first change, and after one that was taken back."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        """Take the descriptors of all maps by name."""
        self._maps = {version: descriptors[f"listeners{version}"] for version in (4, 6)}
        self._marked: Counter[Listener] = Counter()
        self._elements: Counter[int] = Counter()  # by version

    def read(self) -> Mapping[Listener, RuleId]:
        """Return every listener that a packet finds, and its rule; raises KernelError.

        One with a mark is not found while the element without says nothing of it.
        """
        return _found_in(self._words())

    def _words(self) -> list[tuple[Listener, int]]:
        return [
            pair
            for version, keys, values in self._batches()
            for pair in layouts.listeners_from_elements(keys, values, version)
        ]

    def _batches(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Return all elements, some at once: their IP version, keys and words."""
        for version, descriptor in self._maps.items():
            for keys, values in maps.batches(descriptor, _KEY_SIZES[version], _WORD.size):
                yield version, keys, values

    def index(self) -> Mapping[bytes, int]:
        """Count anew what is programmed; returns how many listeners that a packet finds each address has, packed.

        Raises KernelError.
        """
        batches = list(self._batches())
        self._elements, self._marked = Counter(), Counter()
        for version, keys, _ in batches:
            self._elements[version] += len(keys) // _KEY_SIZES[version]
        if any(layouts.have_marks(keys, version) for version, keys, _ in batches):
            words = self._words()
            self._marked.update(one._replace(mark=0) for one, word in words if one.mark and word & _RULE)
            return layouts.listeners_counted(_found_in(words))
        found = Counter[bytes]()
        for version, keys, values in batches:
            found.update(layouts.led_counted(keys, values, version))
        return found

    def put_all(self, leads: Leads, undo: list[_Undo]) -> list[Listener]:
        """Lead listeners to rules; returns those that were there, and adds what undoes it. Raises KernelError."""
        found = [listener for listener, rule in leads.singly.items() if self.put(listener, rule, undo)]
        for row in leads.rows:
            found += self._put_row(row, undo)
        return found

    def _put_row(self, row: Row, undo: list[_Undo]) -> list[Listener]:
        """Write listeners without a mark in few calls."""
        version, some, keys, words = row
        descriptor, size = self._maps[version], _KEY_SIZES[version]
        before = self._before(version, keys)
        self._elements[version] += before.count(0)

        def restore() -> None:
            for key, word in zip(maps.pieces(keys, size), before, strict=True):
                self._set(descriptor, key, word)

        undo.append(restore)
        values = array("I", [word | old & _MARKED for word, old in zip(words, before, strict=True)]).tobytes()
        maps.update_all(descriptor, keys, values, len(some), "write listeners", room="--listeners")
        return [one for one, word in zip(some, before, strict=True) if word & _RULE]

    def _before(self, version: int, keys: bytes) -> list[int]:
        """Return the word of each key in a row, 0 where there is none."""
        if not self._elements[version]:
            return [0] * (len(keys) // _KEY_SIZES[version])
        wanted = list(maps.pieces(keys, _KEY_SIZES[version]))
        present = self._present(version, wanted)
        return [present.get(key, 0) for key in wanted]

    def _present(self, version: int, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return the words of those of ``keys`` that are there, maybe of others too."""
        if len(keys) >= max(_MANY, self._elements[version] / _PART):
            return dict(self._dump(version))
        found = {key: maps.lookup(self._maps[version], key, _WORD.size) for key in keys}
        return {key: _WORD.unpack(value)[0] for key, value in found.items() if value}

    def put(self, listener: Listener, rule: RuleId | None, undo: list[_Undo]) -> bool:
        """Lead a listener to a rule (None: to none); tells whether it was there, and adds what undoes it.

        Raises KernelError.
        """
        before = self._found(listener)
        word = _word(listener, rule) if rule else 0
        if not listener.mark:
            self._change(listener, before, word | (before & _MARKED), undo)
            return bool(before & _RULE)
        self._change(listener, before, word, undo)
        base = listener._replace(mark=0)
        # One that somebody else wrote was never counted.
        self._marked[base] = max(0, self._marked[base] + bool(rule) - bool(before))
        marked = _MARKED if self._marked[base] else 0
        found = self._found(base)
        self._change(base, found, (found & ~_MARKED) | marked, undo)
        return bool(before)

    def _dump(self, version: int) -> Iterator[tuple[bytes, int]]:
        for key, value in maps.dump(self._maps[version], _KEY_SIZES[version], _WORD.size):
            yield key, _WORD.unpack(value)[0]

    def _change(self, listener: Listener, before: int, word: int, undo: list[_Undo]) -> None:
        descriptor, key = self._maps[listener.version], layouts.listener_to_key(listener)
        self._elements[listener.version] += bool(word) - bool(before)
        undo.append(lambda: self._set(descriptor, key, before))
        self._set(descriptor, key, word)

    def _found(self, listener: Listener) -> int:
        found = maps.lookup(self._maps[listener.version], layouts.listener_to_key(listener), 4)
        return _WORD.unpack(found)[0] if found else 0

    def _set(self, descriptor: int, key: bytes, word: int) -> None:
        if word:
            maps.update(descriptor, key, _WORD.pack(word), "write a listener", room="--listeners")
        else:
            maps.delete(descriptor, key, "remove a listener")


def _found_in(words: Sequence[tuple[Listener, int]]) -> Mapping[Listener, RuleId]:
    found = {listener: rule for listener, word in words if (rule := word & _RULE)}
    marked = [one for one in found if one.mark]
    led = {listener for listener, word in words if word & _MARKED} if marked else set()
    for listener in marked:
        if listener._replace(mark=0) not in led:
            del found[listener]
    return cast("Mapping[Listener, RuleId]", found)


def _word(listener: Listener, rule: RuleId) -> int:
    return rule | abi.LISTENER_SECONDARY if type(listener) is SecondaryListener else rule
