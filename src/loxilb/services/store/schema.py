# SPDX-License-Identifier: Apache-2.0
"""The tables of the store, and what makes a file ours.

One row an object; one row an object and revision with the document before. So a write costs what it changes,
however much is configured.
"""

import sqlite3
from pathlib import Path

from loxilb.errors import StoreError
from loxilb.services.store.failures import damaged

APPLICATION_ID = 0x6C6F7869  # "loxi", see PRAGMA application_id
VERSION = 1

_TABLES = """
CREATE TABLE objects (
    kind TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE revisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, address TEXT NOT NULL, agent TEXT NOT NULL,
    summary TEXT NOT NULL, size INTEGER NOT NULL, pending INTEGER NOT NULL
);
CREATE TABLE changes (
    revision INTEGER NOT NULL REFERENCES revisions ON DELETE CASCADE, kind TEXT NOT NULL, name TEXT NOT NULL,
    before TEXT, PRIMARY KEY (revision, kind, name)
) WITHOUT ROWID;
"""


def prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    """Set the connection up and create the tables in an empty database.

    Raises StoreError for a database that is damaged, another program's or of a newer schema, and sqlite3.Error. Nothing
    in such a file is changed.
    """
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    version = _number(connection, "user_version")
    owner = _number(connection, "application_id")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables or version or owner:
        _check(path, owner, version)
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise damaged(path, "its pages contradict each other")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    if not version:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {VERSION}; COMMIT;"
        )
    # A lock of our own from now on, so that a second daemon is refused at its start and not at its first write.
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")


def _check(path: Path | None, owner: int, version: int) -> None:
    if owner != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program", remedy="name another file with --store")
    if version != VERSION:
        raise StoreError(
            f"{path} was written by a newer loxilb (schema {version}, this one knows {VERSION})",
            remedy="start that one, or name another file with --store",
        )


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
