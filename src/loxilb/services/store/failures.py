# SPDX-License-Identifier: Apache-2.0
"""What the database says is wrong, as cause and remedy (https://www.sqlite.org/rescode.html)."""

import sqlite3
from pathlib import Path

from loxilb.errors import StoreError

_RESTORE = "restore a copy of the file, or move it away: what the data plane holds is then taken over, without names"
_REMEDIES = {
    "SQLITE_FULL": "free space on its file system",
    "SQLITE_READONLY": "make the file and its directory writable",
    "SQLITE_CANTOPEN": "create its directory, or make it readable and writable",
    "SQLITE_PERM": "make the file and its directory writable",
    "SQLITE_IOERR": "see the kernel log for errors of the disk",
    "SQLITE_BUSY": "another program uses it: stop that one, or name another file with --store",
    "SQLITE_LOCKED": "another program uses it: stop that one, or name another file with --store",
    "SQLITE_CORRUPT": _RESTORE,
    "SQLITE_NOTADB": _RESTORE,
}


def store_error(operation: str, path: Path | None, error: sqlite3.Error) -> StoreError:
    """Say what could not be done to which file, and what helps."""
    name = getattr(error, "sqlite_errorname", "")
    remedy = next((text for code, text in _REMEDIES.items() if name.startswith(code)), "")
    return StoreError(f"cannot {operation} {path or 'the configuration'}: {error}", remedy=remedy)


def damaged(path: Path | None, cause: str) -> StoreError:
    """Say that the file can be opened and not be used."""
    return StoreError(f"{path or 'the configuration'} is damaged: {cause}", remedy=_RESTORE)
