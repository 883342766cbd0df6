# SPDX-License-Identifier: Apache-2.0
"""Keeps the configuration on disk, with its history.

Belongs here: the database, its schema, its errors, where it is. Does not belong here: what a write means and in which
order it is carried out (the configuration service), how an object is written (``loxilb.codec``).
"""

from loxilb.services.store.place import NO_STORE, place_of, remove
from loxilb.services.store.sqlite import Retention, SqliteStore

__all__ = ["NO_STORE", "Retention", "SqliteStore", "place_of", "remove"]
