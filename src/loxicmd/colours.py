# SPDX-License-Identifier: Apache-2.0
"""Colours for the states that an operator looks for: only on a terminal, and only where nobody minds (no-color.org)."""

import os
import re
import sys
from collections.abc import Sequence

_RED, _YELLOW, _GREEN = 31, 33, 32
_COLOURS = {
    **dict.fromkeys(("nok", "inactive", "failing"), _RED),
    **dict.fromkeys(("draining", "repairing"), _YELLOW),
    **dict.fromkeys(("ok", "active", "converged"), _GREEN),
}
_COLUMN = "state"


def wanted() -> bool:
    """Tell whether what is printed may have colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str) -> str:
    """Return a text with its first word in colour, where that is a state that has one."""
    word = re.match(r"[a-z]*", text)[0]  # type: ignore[index]  # it matches everything
    return f"\x1b[{_COLOURS[word]}m{word}\x1b[0m{text[len(word) :]}" if word in _COLOURS else text


def paint_states(table: str, header: Sequence[str]) -> str:
    """Return a drawn table with its column of states painted, if it has one."""
    columns = [number for number, title in enumerate(header) if title.lower() == _COLUMN]
    if not columns:
        return table
    lines = table.splitlines(keepends=True)
    rule = next(line for line in lines if line.startswith("|-"))
    begin = [place for place, sign in enumerate(rule) if sign == "|"][columns[0]] + 2
    return "".join(line[:begin] + paint(line[begin:]) for line in lines)
