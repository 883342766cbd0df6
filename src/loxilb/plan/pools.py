# SPDX-License-Identifier: Apache-2.0
"""Free lists: which ids and which slots of the ring are free.

What was given back longest ago is handed out last, because packets and flows on their way may still name it.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

from loxilb.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the data plane holds; ``ring`` is in slots, ``service_endpoints`` bounds one service."""

    rules: int = 65_536
    endpoints: int = 262_144
    ring: int = 4_194_304
    listeners: int = 1_048_576
    sources: int = 1_048_576
    service_endpoints: int = 4_096


def exhausted(what: str, limit: int) -> InvalidRequest:
    """Build the error for a limit that is reached (code ``rule-hwm error``)."""
    return InvalidRequest(
        "rule-hwm error",
        cause=f"all {limit} {what} are in use",
        remedy="delete services or start the daemon with a higher limit",
    )


class IdPool:
    """Ids from 1 to ``limit``; 0 stands for none.

    Ids never used come first, then those given back, oldest first.
    """

    def __init__(self, what: str, limit: int, used: Collection[int] = ()) -> None:
        """Start with everything free but ``used``; ``what`` names the ids in errors."""
        self._what = what
        self._limit = limit
        self._fresh = max(used, default=0) + 1
        taken = set(used)
        gaps = () if len(taken) == self._fresh - 1 else sorted(set(range(1, self._fresh)) - taken)
        self._returned = deque(gaps)

    @property
    def free(self) -> int:
        """How many ids can still be taken."""
        return self._limit - self._fresh + 1 + len(self._returned)

    def take(self) -> int:
        """Take one id; raises InvalidRequest when none is left."""
        if self._fresh <= self._limit:
            self._fresh += 1
            return self._fresh - 1
        if not self._returned:
            raise exhausted(self._what, self._limit)
        return self._returned.popleft()

    def take_some(self, count: int) -> tuple[int, ...]:
        """Take ids, in ascending order.

        Raises InvalidRequest when too few are left, about the place of the first that is not, and takes none then.
        """
        first = self._fresh
        if first + count <= self._limit + 1:
            self._fresh = first + count
            return tuple(range(first, first + count))
        if count > self.free:
            error = exhausted(self._what, self._limit)
            error.index = self.free
            raise error
        return tuple(sorted(self.take() for _ in range(count)))

    def give(self, numbers: Iterable[int]) -> None:
        """Give ids back."""
        self._returned.extend(numbers)


class Slice(NamedTuple):
    """``length`` slots of the ring from ``base``."""

    base: int
    length: int


class SlicePool:
    """Free slices of the ring, next fit: the search goes on where the last one ended, and wraps."""

    def __init__(self, limit: int, used: Iterable[tuple[int, int]] = ()) -> None:
        """Start with everything free but ``used``."""
        self._limit = limit
        self._bases: list[int] = []
        self._lengths: dict[int, int] = {}
        self._cursor = 0
        end = 0
        for base, length in sorted(used, key=itemgetter(0)):
            if base > end:  # seldom: slices follow each other
                self._insert(end, base - end)
            end = max(end, base + length)
        self._insert(end, limit - end)
        self._cursor = end

    @property
    def free(self) -> int:
        """How many slots are free."""
        return sum(self._lengths.values())

    def take(self, length: int) -> Slice:
        """Take ``length`` slots in a row (0: the empty slice); raises InvalidRequest when there are none."""
        if length == 0:
            return Slice(0, 0)
        start = bisect_left(self._bases, self._cursor)
        if self._lengths.get(self._cursor, 0) >= length:  # as nearly always
            return self._cut(start, self._cursor, length)
        if start and self._room_from_cursor(start - 1) >= length:
            return self._cut(start - 1, self._cursor, length)
        for position in (*range(start, len(self._bases)), *range(start)):
            base = self._bases[position]
            if self._lengths[base] >= length:
                return self._cut(position, base, length)
        raise exhausted("ring slots in a row", self._limit)

    def take_some(self, lengths: Sequence[int]) -> tuple[list[int], list[Slice]]:
        """Take slots in a row for each of ``lengths``, as :meth:`take` would; returns where they begin, and them all.

        Raises InvalidRequest when there are none for one, about its place, and takes none then.
        """
        total = sum(lengths)
        if lengths and all(lengths) and self._lengths.get(self._cursor, 0) >= total:  # as nearly always
            whole = self.take(total)
            return list(accumulate(lengths[:-1], initial=whole.base)), [whole]
        taken: list[Slice] = []
        try:
            for length in lengths:
                taken.append(self.take(length))
        except InvalidRequest as error:
            error.index = len(taken)
            self.give(taken)
            raise
        return [one.base for one in taken], taken

    def give(self, slices: Iterable[Slice]) -> None:
        """Give slices back; neighbours grow together."""
        for one in slices:
            self._give_one(one)

    def _room_from_cursor(self, position: int) -> int:
        base = self._bases[position]
        return base + self._lengths[base] - self._cursor

    def _cut(self, position: int, at: int, length: int) -> Slice:
        base = self._bases[position]
        rest, end = at + length, base + self._lengths.pop(base)
        if at == base and rest < end:  # as nearly always: what is left stays where it is in the order
            self._bases[position] = rest
            self._lengths[rest] = end - rest
        else:
            del self._bases[position]
            self._insert(base, at - base)
            self._insert(rest, end - rest)
        self._cursor = rest
        return Slice(at, length)

    def _give_one(self, one: Slice) -> None:
        base, length = one.base, one.length
        position = bisect_left(self._bases, base)
        if position < len(self._bases) and self._bases[position] == base + length > base:
            length += self._lengths.pop(self._bases.pop(position))
        if position and length:
            before = self._bases[position - 1]
            if before + self._lengths[before] == base:
                self._lengths[before] += length
                return
        self._insert(base, length)

    def _insert(self, base: int, length: int) -> None:
        if length > 0:
            self._bases.insert(bisect_left(self._bases, base), base)
            self._lengths[base] = length
