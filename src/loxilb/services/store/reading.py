# SPDX-License-Identifier: Apache-2.0
"""Reading very many objects: a statement for some of them.

The interpreter is free for other threads while a row is found, and asked for again after each. What is read of a page
is gone before the next: more of it than a processor keeps close at hand would take longer.
"""

import sqlite3
from collections.abc import Iterator

from loxilb.codec.stored import Kind

_ROWS = 64
_PAGE = """
SELECT count(*), group_concat(document), max(name)
FROM (SELECT name, document FROM objects WHERE kind = ? AND name > ? ORDER BY name LIMIT ?)
"""


def pages(connection: sqlite3.Connection, kind: Kind) -> Iterator[tuple[int, str]]:
    """Return the documents of a kind with commas between them, and their count, in pages; raises sqlite3.Error."""
    count, last = _ROWS, ""
    while count == _ROWS:
        count, documents, last = connection.execute(_PAGE, (kind.value, last, _ROWS)).fetchone()
        if count:
            yield count, documents
