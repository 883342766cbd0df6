# SPDX-License-Identifier: Apache-2.0
"""Texts of thousands of rows at once: rows of one width, written column by column.

What varies in a row is looked up in a table of short texts. A column is as wide as its longest text, and what is left
over is filled with ``FILL``, which JSON allows between its tokens (RFC 8259 section 2) and never has within them. So a
column is written by two plain copies, some 2 ns a row, wherever the texts end; and rows without ``FILL`` are compact.
Where all rows have the same text, it is part of what every row begins as, and costs nothing more.

Texts that follow each other within a token have no gap between them: :func:`joined` makes one column of them, at twice
the price each.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.intp]
Column = NDArray[np.void]
"""A text a row, filled up to items of one size."""
FILL = b"\t"
"""Not a blank: names have those. A tab within a string is written as two characters."""
_SIZES = 4, 8, 16, 32
LONGEST = _SIZES[-1]
"""Bytes of the longest text in a table."""
_ALWAYS = np.True_
_WRITTEN = 1 << 11
"""Rows written together: few enough to stay in the cache, column after column."""


class Piece(NamedTuple):
    """A text a row, or one for all of them, and the lengths of the texts."""

    items: Column
    lengths: NDArray[np.uint8] | int

    def alike(self) -> bytes | None:
        """Return the text that all rows have; None where each has its own."""
        return None if self.items.ndim else self.items.tobytes()


class Texts:
    """A table of texts of up to ``LONGEST`` bytes by their number."""

    def __init__(self, texts: Iterable[bytes], *, right: bool = False) -> None:
        """Keep texts; those put to the ``right`` are filled up in front."""
        rows = list(texts)
        longest = max(map(len, rows))
        size = next(size for size in _SIZES if size >= longest)
        place = bytes.rjust if right else bytes.ljust
        self._items = np.frombuffer(b"".join(place(text, size, FILL) for text in rows), np.dtype((np.void, size)))
        self._lengths = np.array([len(text) for text in rows], np.uint8)

    def column(self, codes: Codes) -> Column:
        """Return the text with the number of each row."""
        return self._items.take(codes)

    def of(self, codes: Codes) -> Piece:
        """Return the text with the number of each row, and its length."""
        if not codes.ndim:
            return alike(self.text(codes))
        return Piece(self._items.take(codes), self._lengths.take(codes))

    def text(self, code: Codes) -> bytes:
        """Return the text with one number."""
        return self._items[code].tobytes().strip(FILL)


def alike(text: bytes) -> Piece:
    """Return a text that all rows have."""
    return Piece(np.array(text, f"V{len(text)}"), len(text))


def narrowed(column: Column, width: int) -> Column:
    """Return the first ``width`` bytes of a column."""
    return np.ndarray(column.shape, f"V{width}", column.data, 0, column.strides)


def joined(pieces: Collection[Piece], count: int) -> Column:
    """Return pieces of so many rows, one behind the other: as wide as the longest row of them.

    An item is written whole, filling included, and the piece behind it in the row overwrites the filling.
    """
    size = sum(piece.items.dtype.itemsize for piece in pieces)
    room = np.full(count * size, FILL[0], np.uint8)
    starts = np.arange(0, count * size, size)
    at = starts.copy()
    for items, lengths in pieces:
        # Every place is one where an item may begin: items overlap, and none is aligned.
        np.ndarray((len(room) - items.dtype.itemsize + 1,), items.dtype, room, 0, (1,))[at] = items
        at += lengths
    at -= starts
    return narrowed(room.view(f"V{size}"), int(at.max()))


class Rows:
    """Rows that are put together column by column."""

    def __init__(self, count: int) -> None:
        """Begin so many rows."""
        self._count = count
        self._alike = bytearray()
        self._columns: list[tuple[int, Column]] = []

    def same(self, text: bytes, shown: NDArray[np.bool_] | np.bool_ = _ALWAYS) -> None:
        """Put a text into all rows, or where it is ``shown``."""
        if shown.all():
            self._alike += text
        elif text and shown.any():
            choice = np.frombuffer(FILL * len(text) + text, f"V{len(text)}")
            self.each(choice.take(shown.astype(np.intp)))

    def each(self, column: Column) -> None:
        """Put a text of its own into each row."""
        self._columns.append((len(self._alike), column))
        self._alike += FILL * column.dtype.itemsize

    def looked_up(self, texts: Texts, codes: Codes) -> None:
        """Put in the text with the number of each row."""
        if codes.ndim:
            self.each(texts.column(codes))
        else:
            self.same(texts.text(codes))

    def joined(self, pieces: Iterable[Piece]) -> None:
        """Put in pieces with no gap between them."""
        rest = deque(pieces)
        while rest and (text := rest[0].alike()) is not None:
            self.same(text)
            rest.popleft()
        if len(rest) > 1:
            self.each(joined(rest, self._count))
        elif rest and (longest := int(np.max(rest[0].lengths))):
            self.each(narrowed(rest[0].items, longest))

    def written(self) -> memoryview:
        """Return the text of the rows, one after the other."""
        width = len(self._alike)
        room = np.empty(self._count * width, np.uint8)
        rows, alike = room.view(f"V{width}"), np.void(bytes(self._alike))
        for at in range(0, self._count, _WRITTEN):
            some = rows[at : at + _WRITTEN]
            some[:] = alike
            for start, column in self._columns:
                np.ndarray(some.shape, column.dtype, some, start, (width,))[:] = column[at : at + _WRITTEN]
        return room.data


def split(texts: Sequence[bytes]) -> list[Texts]:
    """Return tables for texts of any length: as many as the longest one needs, to be put one behind the other."""
    parts = range(0, max(1, *map(len, texts)), LONGEST)
    return [Texts(text[start : start + LONGEST] for text in texts) for start in parts]


def codes_of(column: NDArray[Any]) -> Codes:
    """Return numbers of up to 16 bits as numbers of texts: a single one where they are alike."""
    codes = column.astype(np.uint16)  # in one step it is slow, where their byte order is another
    return one_or_each(codes).astype(np.intp)


def one_or_each(codes: NDArray[Any]) -> NDArray[Any]:
    """Return the number of a text alone where all rows have it."""
    return codes[0] if codes[0] == codes[-1] and (codes == codes[0]).all() else codes


_GROUP = 10_000
_DIVISOR = np.uint64(_GROUP)
_GROUPS = Texts(
    chain([b""], (b"%d" % group for group in range(1, _GROUP)), (b"%04d" % group for group in range(_GROUP))),
    right=True,
)


def numbers(values: NDArray[Any]) -> list[Column]:
    """Return numbers of up to 64 bits in decimal, 0 as nothing: a column for each 4 digits that the largest needs."""
    largest, groups, rest = int(values.max()), [], values
    while largest >= _GROUP:
        above = rest // _DIVISOR
        groups.append((rest - above * _DIVISOR).view(np.intp))
        largest, rest = largest // _GROUP, above
    columns = [_GROUPS.column(rest.astype(np.intp))]
    for group in reversed(groups):
        columns.append(_GROUPS.column(group + (rest > 0) * _GROUP))
        rest = rest + group
    return columns
