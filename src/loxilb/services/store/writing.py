# SPDX-License-Identifier: Apache-2.0
"""The writing half of the store: a statement for many objects, and a write that goes on beside its caller.

The interpreter is free for other threads while a statement runs, and asked for again after each: a hundred thousand
objects a statement each would wait for it as many times.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import chain
from pathlib import Path
from typing import TypeVar

from loxilb.codec.stored import Kind
from loxilb.services.store.failures import store_error

_T = TypeVar("_T")

_PUT_BACK = """
INSERT OR REPLACE INTO objects SELECT kind, name, before FROM changes WHERE revision = ? AND before IS NOT NULL
"""
_DROP_AGAIN = """
DELETE FROM objects WHERE (kind, name) IN (SELECT kind, name FROM changes WHERE revision = ? AND before IS NULL)
"""


def write(connection: sqlite3.Connection, number: int, parts: Iterable[tuple[Kind, Mapping[str, str | None]]]) -> None:
    """Write documents by their names, None for one that goes, and what they were before; raises sqlite3.Error."""
    for kind, documents in parts:
        connection.execute(_note(len(documents)), (number, kind.value, *documents))
        gone = [name for name, document in documents.items() if document is None]
        if gone:
            connection.execute(_drop(len(gone)), (kind.value, *gone))
        if len(gone) < len(documents):
            left = chain.from_iterable([pair for pair in documents.items() if pair[1] is not None])
            connection.execute(_put(len(documents) - len(gone)), (kind.value, *left))


def _note(count: int) -> str:
    return f"""
INSERT INTO changes SELECT ?1, ?2, asked.name, document
FROM (WITH given (name) AS (VALUES {_rows("(?)", count)}) SELECT name FROM given) AS asked
LEFT JOIN objects ON objects.kind = ?2 AND objects.name = asked.name
"""


def _put(count: int) -> str:
    return f"INSERT OR REPLACE INTO objects (kind, name, document) VALUES {_rows('(?1, ?, ?)', count)}"


def _drop(count: int) -> str:
    return f"DELETE FROM objects WHERE kind = ?1 AND name IN (VALUES {_rows('(?)', count)})"


def _rows(row: str, count: int) -> str:
    return ", ".join([row] * count)


def put_back(connection: sqlite3.Connection, number: int) -> None:
    """Make objects what they were before a revision, the newest; raises sqlite3.Error."""
    connection.execute(_PUT_BACK, (number,))
    connection.execute(_DROP_AGAIN, (number,))


def begin(connection: sqlite3.Connection) -> None:
    """Begin a transaction that is on the disk once it is committed; raises sqlite3.Error."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")


def give_up(connection: sqlite3.Connection) -> None:
    """End a transaction, if there is one, as if it had never begun."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def beside(function: Callable[[], _T]) -> "Future[_T]":
    """Call ``function`` in a thread of its own."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="store")
    future = thread.submit(function)
    thread.shutdown(wait=False)
    return future


class Recording:
    """``loxilb.ports.Recording``: a transaction that ``insert`` writes into, returning the number of the revision."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path | None, insert: Callable[[], int], *, aside: bool
    ) -> None:
        """Begin now in a thread where that is worth it (``aside``), else once it is finished."""
        self._connection = connection
        self._path = path
        self._insert = insert
        self._ahead = beside(self._written) if aside else None

    def _written(self) -> int:
        begin(self._connection)
        return self._insert()

    def finish(self) -> int:
        """Make it durable and return the number of the revision; raises StoreError, and nothing is written then."""
        try:
            number = self._ahead.result() if self._ahead else self._written()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise store_error("write", self._path, error) from error
        finally:
            self.abandon()
        return number

    def abandon(self) -> None:
        """Forget it, where it is not finished."""
        if self._ahead:
            wait((self._ahead,))
        give_up(self._connection)
