# SPDX-License-Identifier: Apache-2.0
"""Rules and endpoints of an image as columns of numbers, for very many: their entries are made when somebody asks.

A table is the mapping that it stands for. Whoever writes, reads or compares all of it takes its columns or its rows.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from typing import ClassVar, Generic, Self, TypeVar, cast

from loxilb.model.image import EndpointEntry, EndpointFlags, EndpointId, RuleEntry, RuleId
from loxilb.model.service import IPAddress, Mode, Selection

Row = tuple[int, ...]
Column = Sequence[int]

_Key = TypeVar("_Key", EndpointId, RuleId)
_Entry = TypeVar("_Entry", EndpointEntry, RuleEntry)

_FLAGS = [EndpointFlags(bits) for bits in range(16)]
_MODES = {int(mode): mode for mode in Mode}
_SELECTIONS = {int(selection): selection for selection in Selection}


class Table(Mapping[_Key, _Entry], Generic[_Key, _Entry]):
    """Entries by number; ``numbers`` and each of ``columns`` are as long."""

    WIDTH: ClassVar[int]
    numbers: Sequence[_Key]
    columns: Sequence[Column]

    def __init__(self, numbers: Sequence[_Key], columns: Sequence[Column]) -> None:
        """Take what is not changed any more."""
        self.numbers = numbers
        self.columns = columns

    @classmethod
    def of(cls, entries: Mapping[_Key, _Entry]) -> Self:
        """Return a mapping as a table."""
        if isinstance(entries, cls):
            return entries
        rows = list(map(cls._row, entries.values()))
        return cls(list(entries), list(zip(*rows, strict=True)) if rows else [()] * cls.WIDTH)

    @classmethod
    def joined(cls, tables: Iterable[Self]) -> Self:
        """Return a table of all, which have no number in common."""
        parts = [one for one in tables if one]
        if len(parts) < 2:
            return parts[0] if parts else cls.of({})
        columns: Iterable[tuple[Column, ...]] = zip(*[one.columns for one in parts], strict=True)
        numbers = list(chain.from_iterable([one.numbers for one in parts]))
        return cls(numbers, [list(chain.from_iterable(pieces)) for pieces in columns])

    def holds(self, other: Self) -> bool:
        """Tell whether all of another table is in this one."""
        if not other:
            return True
        pairs = zip(self.columns, other.columns, strict=True)
        start = self._places.get(other.numbers[0], 0)
        end = start + len(other)
        if list(self.numbers[start:end]) == list(other.numbers):  # in a row, as most often
            return all(list(ours[start:end]) == list(theirs) for ours, theirs in pairs)
        places = list(map(self._places.get, other.numbers))
        if None in places:
            return False
        found = cast("list[int]", places)
        return all(list(map(ours.__getitem__, found)) == list(theirs) for ours, theirs in pairs)

    @cached_property
    def _places(self) -> dict[_Key, int]:
        return dict(zip(self.numbers, range(len(self.numbers)), strict=True))

    def __getitem__(self, key: _Key) -> _Entry:
        """Return an entry."""
        place = self._places[key]
        return self._entry(tuple([column[place] for column in self.columns]))

    def __iter__(self) -> Iterator[_Key]:
        """Return the numbers."""
        return iter(self.numbers)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.numbers)

    def keys(self) -> KeysView[_Key]:
        """Return the numbers, as quick to search as those of a dict."""
        return self._places.keys()

    @classmethod
    @abstractmethod
    def _row(cls, entry: _Entry) -> Row:
        """Return the row of an entry."""

    @classmethod
    @abstractmethod
    def _entry(cls, row: Row) -> _Entry:
        """Return the entry of a row."""


class RuleTable(Table[RuleId, RuleEntry]):
    """Columns: mode, selection, timeout, base and length of the slice, persist, restricted (0 or 1), limit."""

    WIDTH = 8

    @property
    def slices(self) -> Iterator[tuple[RuleId, int, int]]:
        """Each with base and length of its slice."""
        return zip(self.numbers, self.columns[3], self.columns[4], strict=True)

    @property
    def bases(self) -> dict[RuleId, int]:
        """Where the slice of each begins."""
        return dict(zip(self.numbers, self.columns[3], strict=True))

    @classmethod
    def _row(cls, entry: RuleEntry) -> Row:
        return (
            *(entry.mode, entry.selection, entry.timeout, entry.ring_base, entry.ring_length),
            *(entry.persist, entry.restricted, entry.half_open_limit),
        )

    @classmethod
    def _entry(cls, row: Row) -> RuleEntry:
        mode, selection, timeout, base, length, persist, restricted, limit = row
        return RuleEntry(
            mode=_MODES[mode],
            selection=_SELECTIONS[selection],
            timeout=timeout,
            ring_base=base,
            ring_length=length,
            persist=persist,
            restricted=bool(restricted),
            half_open_limit=limit,
        )


class EndpointTable(Table[EndpointId, EndpointEntry]):
    """Columns: rule, IP version, address, port, source (0: none), flags, share; addresses are numbers."""

    WIDTH = 7

    @property
    def counts(self) -> Counter[RuleId]:
        """How many endpoints each rule has."""
        return Counter(cast("Sequence[RuleId]", self.columns[0]))

    @property
    def owners(self) -> Iterator[tuple[EndpointId, RuleId]]:
        """Each with the rule that it is of, in ascending order."""
        return iter(sorted(zip(self.numbers, cast("Sequence[RuleId]", self.columns[0]), strict=True)))

    @classmethod
    def _row(cls, entry: EndpointEntry) -> Row:
        address, source = entry.address, entry.source
        return (
            *(entry.rule, address.version, int(address), entry.port),
            *(int(source) if source is not None else 0, int(entry.flags), entry.share),
        )

    @classmethod
    def _entry(cls, row: Row) -> EndpointEntry:
        rule, version, address, port, source, flags, share = row
        return EndpointEntry(
            rule=cast("RuleId", rule),
            address=_address(version, address),
            port=port,
            source=_address(version, source) if source else None,
            flags=_FLAGS[flags],
            share=share,
        )


@lru_cache(maxsize=1 << 16)
def _address(version: int, number: int) -> IPAddress:
    """Return an address; many services have the same endpoints."""
    return IPv4Address(number) if version == 4 else IPv6Address(number)
