# SPDX-License-Identifier: Apache-2.0
"""Changes to tables of the kernel in memory, each with what undoes it."""

from collections.abc import Callable
from typing import TypeVar

Undo = Callable[[], None]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def restorer(table: dict[_Key, _Value], key: _Key, old: _Value | None) -> Undo:
    """Return what puts ``old`` back (None: nothing)."""

    def undo() -> None:
        if old is None:
            table.pop(key, None)
        else:
            table[key] = old

    return undo


def both(first: Undo, second: Undo) -> Undo:
    """Return what undoes both, in this order."""

    def undo() -> None:
        first()
        second()

    return undo


def write(table: dict[_Key, _Value], key: _Key, value: _Value) -> Undo:
    """Write an element; returns what undoes it."""
    undo = restorer(table, key, table.get(key))
    table[key] = value
    return undo


def remove(table: dict[_Key, _Value], key: _Key) -> Undo:
    """Remove an element that is there; returns what undoes it."""
    return restorer(table, key, table.pop(key))
