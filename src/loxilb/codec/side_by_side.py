# SPDX-License-Identifier: Apache-2.0
"""Texts of thousands of rows at once, piece by piece: each piece is written for all rows before the next one.

What varies in a row is looked up in a table of short texts, which are filled up to items of one size. An item is
written whole, filling included, and the piece behind it in the row overwrites the filling. So a piece costs some 10 ns
a row however long it is, and no byte is moved twice.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.intp]
_SIZES = 8, 16, 32, 64
LONGEST = _SIZES[-1] - 1
"""Bytes of the longest text in a table."""


class Piece(NamedTuple):
    """A piece of every row: an item a row or one for all, and the lengths of the texts in them."""

    items: NDArray[np.bytes_]
    lengths: Codes | int


class Texts:
    """A table of texts by their number; the last byte of an item is the length of its text."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        """Keep texts of up to ``LONGEST`` bytes."""
        rows = list(texts)
        lengths = list(map(len, rows))
        self._size = next(size for size in _SIZES if size > max(lengths))
        self._items = np.array(rows, f"S{self._size}")
        self._items.view(np.uint8).reshape(-1, self._size)[:, -1] = lengths

    def of(self, codes: Codes) -> Piece:
        """Return the text with the number of each row."""
        items = self._items.take(codes)
        return Piece(items, items.view(np.uint8).reshape(-1, self._size)[:, -1].astype(np.intp))


def alike(text: bytes) -> Piece:
    """Return a text that all rows have; there is no filling."""
    return Piece(np.array(text, f"S{len(text)}"), len(text))


def written(front: Sequence[Piece], rear: Sequence[Piece], count: int) -> memoryview:
    """Return the text of so many rows, each of them ``front`` and then ``rear``.

    The last piece of ``front`` is a text that all rows have. It is written last of all, so no filling may reach behind
    it: neither that of a piece before it in its row, nor that of one behind it in the row above. The caller sees to it:
    an item may be no longer than the shortest texts from there to the end of ``front``.
    """
    head = _summed(front, count)
    ends = np.cumsum(head + _summed(rear, count))
    room = np.empty(int(ends[-1]) + _SIZES[-1], np.uint8)
    starts = np.concatenate([[0], ends[:-1]])
    _write(rear, starts + head, room)
    _write(front, starts, room)
    return room.data[: -_SIZES[-1]]


def _summed(pieces: Sequence[Piece], count: int) -> Codes:
    total = np.zeros(count, np.intp)
    for piece in pieces:
        total += piece.lengths
    return total


def _write(pieces: Sequence[Piece], at: Codes, room: NDArray[Any]) -> None:
    """Write some pieces of every row one after the other; ``at`` is where the first one belongs."""
    for items, lengths in pieces:
        size = items.dtype.itemsize
        # Every place is one where an item may begin: items overlap, and none is aligned.
        np.ndarray((len(room) - size + 1,), items.dtype, room, 0, (1,))[at] = items
        at += lengths


def joined(pieces: Sequence[Piece], rows: Codes) -> Piece:
    """Return pieces of some rows as one piece, of ``rows`` of them: for texts that many rows have.

    Items are as long as the longest text needs, and no longer: their filling has to end before the row does.
    """
    count = int(rows[-1]) + 1
    size = 1 << (sum(piece.items.dtype.itemsize for piece in pieces) - 1).bit_length()
    room, starts = np.empty(count * size, np.uint8), np.arange(count) * size
    ends = starts.copy()
    _write(pieces, ends, room)
    lengths = ends - starts
    longest = -(-int(lengths.max()) // _SIZES[0]) * _SIZES[0]
    items = np.ascontiguousarray(room.reshape(count, size)[:, :longest]).view(f"S{longest}")[:, 0]
    return Piece(items.take(rows), lengths.take(rows))


def split(texts: Sequence[bytes]) -> list[Texts]:
    """Return tables for texts of any length: as many as the longest one needs, to be put one behind the other."""
    parts = range(0, max(map(len, texts)), LONGEST)
    return [Texts(text[start : start + LONGEST] for text in texts) for start in parts]


def codes_of(column: NDArray[Any]) -> Codes:
    """Return numbers of up to 16 bits as numbers of texts."""
    return column.astype(np.uint16).astype(np.intp)  # in one step it is slow, where their byte order is another


class Numbers:
    """Numbers of up to 64 bits in decimal, behind a label; nothing where a number is 0, and ``before`` anyway."""

    _GROUP = 10_000

    def __init__(self, before: bytes, label: bytes) -> None:
        """Keep what comes before a number."""
        leading = [label + b"%d" % group for group in range(1, self._GROUP)]
        following = (b"%04d" % group for group in range(self._GROUP))
        self._first = Texts([before, *(before + text for text in leading)])
        self._others = Texts(chain([b""], leading, following))

    def of(self, values: NDArray[Any]) -> list[Piece]:
        """Return as many pieces, of 4 digits each, as the largest number needs."""
        groups: list[Codes] = []
        rest = values.astype(np.uint64)
        while not groups or rest.any():
            above = rest // np.uint64(self._GROUP)
            groups.append((rest - above * np.uint64(self._GROUP)).astype(np.intp))
            rest = above
        pieces, begun = [self._first.of(groups[-1])], groups[-1] > 0
        for group in reversed(groups[:-1]):
            pieces.append(self._others.of(group + begun * self._GROUP))
            begun |= group > 0
        return pieces
