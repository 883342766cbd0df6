# SPDX-License-Identifier: Apache-2.0
"""Listing flows by the million: the tables in memory as columns, searched, ordered and copied out by numpy.

A slot is looked at when it is searched, copied when the order is known, and looked at again right after. Where its word
differs it has changed hands: the flow has ended, and is left out.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loxilb.kernel import abi
from loxilb.kernel.bpf.flow_keys import behind, digits_of, in_order, key_of, keys_of, smallest, wanted
from loxilb.model.flow_list import FlowColumns, FlowKey, FlowQuery

_SCANNED = 1 << 16
"""Slots searched together: few enough to stay in the cache."""
_COPIED = 1 << 13
"""Flows copied out together."""
_MAIN = np.uint32(1 << 31)
"""Set in places in the large table."""
_HOT = {4: abi.Whole4.cold.offset, 6: abi.Flow6.cold.offset}
_WORDS = np.empty(0, np.uint32)
_THREADS = 2
"""Threads that search: numpy lets others run; more would leave too little to the packets."""
_Found = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint16]]


def _form(version: int) -> np.dtype[Any]:
    """Return how the hot half of a slot is read: names and their places as in ``bpf/abi.h``."""
    head, layout = abi.FlowHead, abi.Flow4 if version == 4 else abi.Flow6
    address = np.dtype((">u2", (2 if version == 4 else 8,)))
    fields = (
        ("source_port", ">u2", head.sport),
        ("destination_port", ">u2", head.dport),
        ("new_source_port", ">u2", head.new_sport),
        ("new_destination_port", ">u2", head.new_dport),
        ("protocol", "u1", head.proto),
        ("flags", "u1", head.flags),
        ("state", "u1", head.state),
        ("packets", "u8", head.packets),
        ("bytes", "u8", head.bytes),
        ("source", address, layout.saddr),
        ("destination", address, layout.daddr),
        ("new_source", address, layout.new_saddr),
        ("new_destination", address, layout.new_daddr),
    )
    return np.dtype(
        {
            "names": [name for name, _, _ in fields],
            "formats": [form for _, form, _ in fields],
            "offsets": [place.offset for _, _, place in fields],
            "itemsize": _HOT[version],
        }
    )


FORMS = {version: _form(version) for version in _HOT}
"""How the hot half of a slot is read, by IP version."""


def column(memory: Any, form: Any, *, count: int, stride: int, offset: int) -> NDArray[Any]:
    """Return what is ``offset`` bytes into each of ``count`` elements, as it is in memory at any time."""
    return np.ndarray((count,), form, memory, offset, (stride,)) if count else np.empty(0, form)


@dataclass(frozen=True, slots=True)
class Slots:
    """Slots of a table: their words, their hot halves and their rules."""

    words: NDArray[np.uint32]
    hot: NDArray[Any]
    rules: NDArray[np.uint32]

    @classmethod
    def over(cls, version: int, memory: Any, *, count: int, stride: int, rules: NDArray[Any] | None = None) -> "Slots":
        """Return those in ``memory``, live; without ``rules`` the cold half of a slot follows its hot one."""
        size = _HOT[version]
        if rules is None:
            rules = column(memory, "u4", count=count, stride=stride, offset=size + abi.Cold.rule.offset)
        words = column(memory, "u4", count=count, stride=stride, offset=abi.FlowHead.word.offset)
        return cls(words, column(memory, np.dtype((np.void, size)), count=count, stride=stride, offset=0), rules)

    @classmethod
    def joined(cls, version: int, some: Sequence["Slots"]) -> "Slots":
        """Return all of them, one after the other."""
        hot = np.empty(0, np.dtype((np.void, _HOT[version])))
        return cls(
            np.concatenate([_WORDS, *(one.words for one in some)]),
            np.concatenate([hot, *(one.hot for one in some)]),
            np.concatenate([_WORDS, *(one.rules for one in some)]),
        )

    def blocks(self) -> range:
        """Return where blocks of slots begin that are searched together."""
        return range(0, len(self.words), _SCANNED)

    def live(self, start: int) -> tuple[NDArray[Any], "Slots"]:
        """Return places and copies of the live slots of a block."""
        words = self.words[start : start + _SCANNED].copy()
        places = np.flatnonzero((words & abi.SLOT_MASK) == abi.SLOT_LIVE)
        same, copies = self.at(places + start, words[places])
        return places[same] + start, copies

    def at(self, places: NDArray[Any], words: NDArray[np.uint32]) -> tuple[NDArray[np.bool_], "Slots"]:
        """Copy the slots at ``places`` that still hold ``words``; also tells which those are."""
        # take() is the quicker way, but copies a whole array first whose elements do not follow each other.
        hot = self.hot.take(places) if self.hot.flags.c_contiguous else self.hot[places]
        rules = self.rules[places]
        same = self.words[places] == words
        if same.all():
            return same, Slots(words, hot, rules)
        return same, Slots(words[same], hot[same], rules[same])


@dataclass(frozen=True, slots=True)
class Found:
    """Flows in order: where they are and what the words of their slots were; ``last`` is the key of the last one.

    There are ``more`` behind them.
    """

    places: NDArray[np.uint32]
    words: NDArray[np.uint32]
    last: FlowKey | None
    more: bool


class Family:
    """The flows of one IP version."""

    def __init__(self, version: int, *, passing: Sequence[Slots], main: Slots) -> None:
        """Take the tables.

        Flows move on from those ``passing`` into the ``main`` one: so the former are copied, before the latter is
        searched. One that moves meanwhile is found twice, and not missed.
        """
        self._version = version
        self._copies = Slots.joined(version, [slots.live(start)[1] for slots in passing for start in slots.blocks()])
        self._main = main

    def find(self, query: FlowQuery, limit: int | None) -> Found:
        """Return the first ``limit`` flows asked for, in order."""
        with ThreadPoolExecutor(_THREADS, "flows") as threads:
            most = None if limit is None else limit + 1  # one more than that tells that there are more
            found = [self._wanted(query, most, np.uint32(0), np.arange(len(self._copies.words)), self._copies)]
            found += threads.map(
                lambda start: self._wanted(query, most, _MAIN, *self._main.live(start)), self._main.blocks()
            )
            places, words = (np.concatenate([one[part] for one in found]) for part in (0, 1))
            keys = np.concatenate([one[2] for one in found])
            del found
            more = limit is not None and limit < len(places)
            if limit is not None and more:
                chosen = smallest(keys, limit)
                chosen = chosen[in_order(keys[chosen], threads.map)]
            else:
                chosen = in_order(keys, threads.map)
        last = key_of(keys[chosen[-1]].tolist(), self._version) if len(chosen) else None
        return Found(places[chosen], words[chosen], last, more)

    def _wanted(
        self, query: FlowQuery, most: int | None, mark: np.uint32, places: NDArray[Any], slots: Slots
    ) -> _Found:
        """Return places, words and keys of what is asked for, in no order; at most so many, those first in order."""
        rows = slots.hot.view(FORMS[self._version])
        kept = np.flatnonzero(wanted(rows, slots.rules, query, self._version))
        keys = keys_of(rows if len(kept) == len(rows) else rows[kept])
        if query.after and query.after.version == self._version:
            later = np.flatnonzero(behind(keys, digits_of(query.after)))
            kept, keys = kept[later], keys[later]
        if most is not None and most < len(kept):
            first = smallest(keys, most)
            kept, keys = kept[first], keys[first]
        return places[kept].astype(np.uint32) | mark, slots.words[kept], keys

    def columns(self, found: Found, modes: NDArray[np.uint8]) -> list[Callable[[], FlowColumns]]:
        """Return what copies some of what was found each, when it is called; ``modes`` are those of the rules."""

        def copied(start: int) -> FlowColumns:
            slots = self._copied(found.places[start : start + _COPIED], found.words[start : start + _COPIED])
            return _columns(self._version, slots.hot.view(FORMS[self._version]), slots.rules, modes)

        return [partial(copied, start) for start in range(0, len(found.places), _COPIED)]

    def _copied(self, places: NDArray[np.uint32], words: NDArray[np.uint32]) -> Slots:
        """Copy slots of both kinds, in the order given."""
        main = places >= _MAIN
        if main.all():
            return self._main.at(places & ~_MAIN, words)[1]
        at = np.flatnonzero(main)
        same, slots = self._main.at(places[at] & ~_MAIN, words[at])
        others = np.flatnonzero(~main)
        both = Slots.joined(self._version, [slots, self._copies.at(places[others], words[others])[1]])
        order = np.argsort(np.concatenate([at[same], others]))
        return Slots(both.words[order], both.hot[order], both.rules[order])


def _columns(version: int, rows: NDArray[Any], rules: NDArray[np.uint32], modes: NDArray[np.uint8]) -> FlowColumns:
    return FlowColumns(
        version=version,
        reply=(rows["flags"] & abi.FLOW_REPLY) != 0,
        mode=modes[rules],
        rule=rules,
        **{name: rows[name] for name in FORMS[version].names or () if name != "flags"},
    )
