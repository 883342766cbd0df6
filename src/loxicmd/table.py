# SPDX-License-Identifier: Apache-2.0
"""Tables as the original draws them: borders left and right, a rule below the header, no line above or below.

Cells are wrapped at blanks to at most 30 columns so that the lines of a cell are of similar length: of all
ways to break, the one with the smallest sum of squared free columns, the last line not counted.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import zip_longest

MAX_CELL_WIDTH = 30
_ALIKE = 1 << 16
"""Cells kept by their text."""
_TOO_LONG_PENALTY = 100_000
_NUMERIC = re.compile(r"-?(?:\d{1,3}(?:,\d{3})*|\d+)(?:\.\d+)?%?")


def draw(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table, each line ended by a newline; line breaks in a cell are blanks that set its width."""
    columns = range(len(header))
    widths = [max(len(line) for row in (header, *rows) for line in wrap(row[column])) for column in columns]
    titles = [[_title(line) for line in wrap(cell)] for cell in header]
    lines = _lines(titles, widths, _centre)
    lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|\n")
    align = lru_cache(_ALIKE)(_align)  # in long tables cells are often alike
    for row in rows:
        lines += _lines([wrap(cell) for cell in row], widths, align)
    return "".join(lines)


def wrap(cell: str) -> list[str]:
    """Break a cell into lines; a word wider than the limit widens it."""
    if " " not in cell and "\n" not in cell:
        return [cell]
    lines = cell.split("\n")
    words = " ".join(lines).split(" ")
    limit = max(min(max(map(len, lines)), MAX_CELL_WIDTH), *map(len, words), 0)
    return [" ".join(line) for line in _break(words, limit)]


def _break(words: list[str], limit: int) -> list[list[str]]:
    count = len(words)
    costs = [0] * (count + 1)
    ends = [count] * count
    for first in reversed(range(count)):
        if _width(words[first:]) <= limit:
            continue
        choices = [(_cost(words[first:end], limit) + costs[end], end) for end in range(first + 1, count)] or [
            (0, count)
        ]
        costs[first], ends[first] = min(choices)
    lines = []
    first = 0
    while first < count:
        lines.append(words[first : ends[first]])
        first = ends[first]
    return lines


def _cost(words: list[str], limit: int) -> int:
    free = limit - _width(words)
    return free * free + (_TOO_LONG_PENALTY if free < 0 else 0)


def _width(words: list[str]) -> int:
    return sum(map(len, words)) + len(words) - 1


def _title(text: str) -> str:
    return text.replace("_", " ").replace(".", " ").strip().upper()


def _lines(row: Sequence[Sequence[str]], widths: Sequence[int], place: Callable[[str, int], str]) -> list[str]:
    """Draw one row, as many lines as its tallest cell has."""
    return [f"| {' | '.join(map(place, texts, widths))} |\n" for texts in zip_longest(*row, fillvalue="")]


def _align(text: str, width: int) -> str:
    return text.rjust(width) if _NUMERIC.fullmatch(text.strip()) else text.ljust(width)


def _centre(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return (" " * left + text).ljust(width)
