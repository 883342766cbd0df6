# SPDX-License-Identifier: Apache-2.0
"""Listing flows by the million: the tables in memory as columns, searched, ordered and copied out by numpy.

A slot is looked at when it is searched, copied when the order is known, and looked at again right after. Where its word
differs it has changed hands: the flow has ended, and is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loxilb.kernel import abi
from loxilb.kernel.bpf.flow_keys import Groups, behind, digits_of, in_order, key_of, keys_of, wanted
from loxilb.model.flow_list import FlowColumns, FlowKey, FlowQuery

_SCANNED = 1 << 14
"""Slots looked at together: few enough to stay in the cache."""
_SEARCHED = 1 << 17
"""Slots whose flows are put into groups together: so many that a group has more than a few of them."""
_COPIED = 1 << 13
"""Flows copied out together, about."""
_SAMPLED = 1 << 8
"""One slot of so many tells which flows there are: every group has some 30 of them."""
_TAKEN = 1 << 10
"""Flows copied out between two looks at their words: so few that what the first look read is still in the cache."""
_HOT = {4: abi.Whole4.cold.offset, 6: abi.Flow6.cold.offset}
_WORDS = np.empty(0, np.uint32)
_NOTHING = np.empty(0, np.uint64)
_PLACE = np.uint64((1 << 26) - 1)
_CLAIMED = np.uint64(18)
_CLAIMS = np.uint32(0x3FFF00)
_RULE = np.uint64(40)
"""What was seen of a slot: 26 bits of its place, 14 bits of its word, and 24 bits of its rule, the highest ones."""
_Wanted = tuple[NDArray[np.uint16], NDArray[np.uint64]]


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

    def sample(self) -> "Slots":
        """Return copies of the live ones of every ``_SAMPLED``-th slot."""
        words = self.words[::_SAMPLED].copy()
        places = np.flatnonzero((words & abi.SLOT_MASK) == abi.SLOT_LIVE)
        return self.at(places * _SAMPLED, words[places])[1]

    def take(self, places: NDArray[Any]) -> "Slots":
        """Return those at ``places``."""
        return Slots(self.words.take(places), self.hot.take(places), self.rules.take(places))

    def live(self, start: int) -> tuple[NDArray[Any], "Slots"]:
        """Return places and copies of the live slots of a block."""
        words = self.words[start : start + _SCANNED].copy()
        places = np.flatnonzero((words & abi.SLOT_MASK) == abi.SLOT_LIVE)
        same, copies = self.at(places + start, words[places])
        return places[same] + start, copies

    def at(self, places: NDArray[Any], words: NDArray[np.uint32]) -> tuple[NDArray[np.bool_], "Slots"]:
        """Copy the slots at ``places`` that still hold ``words``; also tells which those are."""
        hot, rules = np.empty(len(places), self.hot.dtype), self.rules[places]
        self._copy(places, hot)
        same = self.words[places] == words
        if same.all():
            return same, Slots(words, hot, rules)
        return same, Slots(words[same], hot[same], rules[same])

    def _copy(self, places: NDArray[Any], hot: NDArray[Any]) -> None:
        """Copy the hot halves at ``places`` to ``hot``."""
        # take() is the quicker way, but copies a whole array first whose elements do not follow each other, and into
        # another array first, were it to raise.
        if self.hot.flags.c_contiguous:
            self.hot.take(places, out=hot, mode="clip")
        else:
            hot[:] = self.hot[places]

    def again(self, seen: NDArray[np.uint64]) -> "Slots":
        """Copy the slots that are still as they were ``seen``."""
        hot, words = np.empty(len(seen), self.hot.dtype), np.empty(len(seen), np.uint32)
        places = (seen & _PLACE).view(np.intp)
        for at in range(0, len(seen), _TAKEN):
            some = slice(at, at + _TAKEN)
            self._copy(places[some], hot[some])
            words[some] = self.words[places[some]]
        slots = Slots(words, hot, (seen >> _RULE).astype(np.uint32))
        same = words & (_CLAIMS | abi.SLOT_MASK) == (seen >> _CLAIMED).astype(np.uint32) & _CLAIMS | abi.SLOT_LIVE
        return slots if same.all() else slots.take(np.flatnonzero(same))


def _seen(places: NDArray[Any], slots: Slots) -> NDArray[np.uint64]:
    """Return what was seen at ``places``, a number each: the place, how often it was claimed, and the rule.

    The number of claims is cut short: two minutes have to pass before it can be the same again.
    """
    claims = (slots.words & _CLAIMS).astype(np.uint64) << _CLAIMED
    seen: NDArray[np.uint64] = places.astype(np.uint64) | claims | slots.rules.astype(np.uint64) << _RULE
    return seen


@dataclass(frozen=True, slots=True)
class Found:
    """Flows in order: ``parts`` of them are copied out when they are called. There were ``count``.

    Where so many at most were asked for, ``last`` is the key of the last one, and there may be ``more`` behind them.
    """

    parts: Sequence[Callable[[], Slots]]
    count: int
    last: FlowKey | None = None
    more: bool = False


@dataclass(frozen=True, slots=True)
class _Some:
    """What was seen of slots that hold what is asked for, group by group; and where each group ends, after a 0."""

    seen: NDArray[np.uint64]
    ends: Sequence[int]

    @classmethod
    def grouped(cls, wanted: Sequence[_Wanted], count: int) -> "_Some":
        """Put some into so many groups."""
        numbers, seen = map(np.concatenate, zip(*wanted, strict=True))
        ends = np.cumsum(np.bincount(numbers, minlength=count))
        return cls(seen.take(np.argsort(numbers, kind="stable")), [0, *ends.tolist()])

    def group(self, number: int) -> NDArray[np.uint64]:
        """Return what was seen of a group."""
        return self.seen[self.ends[number] : self.ends[number + 1]]


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
        groups = self._groups(query, limit)
        wanted = self._wanted(query, groups, np.arange(len(self._copies.words)), self._copies)
        passing = _Some.grouped([wanted], len(groups))
        found = [self._searched(query, groups, first) for first in range(0, len(self._main.words), _SEARCHED)]
        counts = np.diff(np.sum([one.ends for one in (passing, *found)], axis=0))
        parts = [partial(self._ordered, passing, found, number) for number in np.flatnonzero(counts).tolist()]
        return Found(parts, int(counts.sum())) if limit is None else self._first(parts, limit)

    def _groups(self, query: FlowQuery, limit: int | None) -> Groups:
        """Return groups of as many flows as are copied out together, as far as a sample tells.

        Those behind the first ``limit`` flows are one group.
        """
        sample = Slots.joined(self._version, [self._copies.sample(), self._main.sample()])
        keys = keys_of(sample.hot.view(FORMS[self._version])[self._kept(query, sample)])
        count = max(1, len(keys) * _SAMPLED // _COPIED)
        return Groups.of(keys, count, shown=count if limit is None else 2 + 2 * limit // _COPIED)

    def _kept(self, query: FlowQuery, slots: Slots) -> NDArray[np.intp]:
        """Return which slots hold what is asked for; ``limit`` is not looked at."""
        rows = slots.hot.view(FORMS[self._version])
        kept = np.flatnonzero(wanted(rows, slots.rules, query, self._version))
        if query.after and query.after.version == self._version:
            kept = kept[behind(keys_of(rows[kept]), digits_of(query.after))]
        return kept

    def _searched(self, query: FlowQuery, groups: Groups, first: int) -> _Some:
        """Return what is asked for of so many slots of the large table."""
        starts = range(first, min(first + _SEARCHED, len(self._main.words)), _SCANNED)
        some = [self._wanted(query, groups, *self._main.live(start)) for start in starts]
        return _Some.grouped(some, len(groups))

    def _wanted(self, query: FlowQuery, groups: Groups, places: NDArray[Any], slots: Slots) -> _Wanted:
        """Return what is asked for: numbers of groups, and what was seen."""
        kept = self._kept(query, slots)
        if len(kept) < len(places):
            places, slots = places[kept], slots.take(kept)
        return groups.numbers(slots.hot.view(FORMS[self._version])), _seen(places, slots)

    def _ordered(self, passing: _Some, found: Sequence[_Some], number: int) -> Slots:
        """Copy a group out, in order."""
        slots = self._main.again(np.concatenate([_NOTHING, *(one.group(number) for one in found)]))
        copies = passing.group(number) & _PLACE
        if len(copies):  # the last one of equal flows is shown, which is the one in the large table
            slots = Slots.joined(self._version, [self._copies.take(copies.view(np.intp)), slots])
        return slots.take(in_order(keys_of(slots.hot.view(FORMS[self._version]))))

    def _first(self, parts: Sequence[Callable[[], Slots]], limit: int) -> Found:
        """Return the first ``limit`` flows, which are copied now."""
        some, count = [], 0
        for part in parts:
            some.append(part())
            count += len(some[-1].words)
            if count > limit:
                break
        shown = min(count, limit)
        slots = Slots.joined(self._version, some).take(np.arange(shown))
        keys = keys_of(slots.hot.view(FORMS[self._version])[-1:])
        last = key_of(keys[0].tolist(), self._version) if shown else None
        return Found([lambda: slots], shown, last, more=shown < count)

    def columns(self, found: Found, modes: NDArray[np.uint8]) -> list[Callable[[], FlowColumns]]:
        """Return what copies some of what was found each, when it is called; ``modes`` are those of the rules."""

        def copied(part: Callable[[], Slots]) -> FlowColumns:
            slots = part()
            return _columns(self._version, slots.hot.view(FORMS[self._version]), slots.rules, modes)

        return [partial(copied, part) for part in found.parts]


def _columns(version: int, rows: NDArray[Any], rules: NDArray[np.uint32], modes: NDArray[np.uint8]) -> FlowColumns:
    return FlowColumns(
        version=version,
        reply=(rows["flags"] & abi.FLOW_REPLY) != 0,
        mode=modes.take(rules),
        rule=rules,
        **{name: rows[name] for name in FORMS[version].names or () if name != "flags"},
    )
