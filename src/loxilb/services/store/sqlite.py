# SPDX-License-Identifier: Apache-2.0
"""The store in SQLite: a file with a write-ahead log, or memory."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from loxilb.codec.stored import Documents, Kind, UnreadableError, changes_of, parts_of, services_in
from loxilb.errors import NotFound, StoreError
from loxilb.model import Service, ServiceKey
from loxilb.model.probe import HostState, MonitoredEndpoint
from loxilb.model.revision import Author, Changes, Configured, Revision
from loxilb.services.store.failures import damaged, store_error
from loxilb.services.store.reading import pages
from loxilb.services.store.schema import prepare
from loxilb.services.store.writing import Recording, begin, beside, give_up, put_back, write

_MEMORY = ":memory:"
_STATEMENTS = 8  # of a write of many objects they are large, and others are soon made again
_MANY = 1000  # changed objects; fewer are written sooner than a thread is started


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much history is kept: the newest revisions, and of these as many as change so many objects together."""

    revisions: int = 1000
    changes: int = 250_000


class SqliteStore:
    """``loxilb.ports.Store``; it alone uses the file until it is closed."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, retention: Retention) -> None:
        """Use a database that ``prepare`` made ready."""
        self._connection = connection
        self._path = path
        self._retention = retention
        self._ahead: Future[Configured] | None = None

    @classmethod
    def open(cls, path: Path | None, retention: Retention | None = None) -> Self:
        """Open or create the database at ``path``, None for one in memory; raises StoreError."""
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)
            connection = sqlite3.connect(
                path or _MEMORY,
                isolation_level=None,
                check_same_thread=False,
                timeout=0,
                cached_statements=_STATEMENTS,
            )
        except OSError as error:
            remedy = "make its directory writable, or name another file with --store"
            raise StoreError(f"cannot create {path}: {error.strerror}", remedy=remedy) from error
        except sqlite3.Error as error:
            raise store_error("open", path, error) from error
        try:
            prepare(connection, path)
        except sqlite3.Error as error:
            connection.close()
            raise store_error("open", path, error) from error
        except StoreError:
            connection.close()
            raise
        return cls(connection, path, retention or Retention())

    def close(self) -> None:
        """Give the file free; everything is durable already."""
        if self._ahead is not None:
            wait((self._ahead,))
        self._connection.close()

    def read_ahead(self) -> None:
        """Begin to read everything, in a thread of its own, for :meth:`load`; call nothing else before that."""
        self._ahead = beside(self._read)

    def load(self) -> Configured:
        """Read everything, or return what was read ahead."""
        ahead, self._ahead = self._ahead, None
        return self._read() if ahead is None else ahead.result()

    def _read(self) -> Configured:
        with self._reported("read"):
            services = self._services()
            documents = self._documents(*(kind for kind in Kind if kind is not Kind.SERVICE))
            last = self._connection.execute("SELECT number, pending FROM revisions ORDER BY number DESC").fetchone()
        changes = self._changes(documents, documents)
        return Configured(
            services=services,
            endpoints=cast("Mapping[str, MonitoredEndpoint]", changes.endpoints),  # nothing is taken away
            states=cast("Mapping[str, HostState]", changes.states),
            parameters=cast("Mapping[str, str]", changes.parameters),
            revision=last[0] if last else 0,
            pending=bool(last and last[1]),
        )

    def record(self, changes: Changes, author: Author, summary: str, time: float) -> Recording:
        """Begin to write ``changes`` as a new revision; those before it count as confirmed once it is finished."""

        def insert() -> int:
            self._connection.execute("UPDATE revisions SET pending = 0 WHERE pending")
            number = self._connection.execute(
                "INSERT INTO revisions (time, address, agent, summary, size, pending) VALUES (?, ?, ?, ?, ?, 1)",
                (time, author.address, author.agent, summary, len(changes)),
            ).lastrowid
            assert number is not None
            write(self._connection, number, parts_of(changes))
            self._prune()
            return number

        return Recording(self._connection, self._path, insert, aside=len(changes) >= _MANY)

    def confirm(self, number: int) -> None:
        """Note that a revision was carried out."""
        # Not synced: it need not survive a power cut, after which there is no data plane that disagrees.
        with self._reported("write"):
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("UPDATE revisions SET pending = 0 WHERE number = ?", (number,))

    def take_back(self, number: int) -> None:
        """Undo the newest revision and forget it."""
        with self._durably("write"):
            put_back(self._connection, number)
            self._connection.execute("DELETE FROM revisions WHERE number = ?", (number,))

    def revisions(self, limit: int) -> Sequence[Revision]:
        """Return the newest revisions, newest first."""
        with self._reported("read"):
            rows = self._connection.execute(
                "SELECT number, time, address, agent, summary, size FROM revisions ORDER BY number DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [
            Revision(number=number, time=time, author=Author(address=address, agent=agent), summary=summary, size=size)
            for number, time, address, agent, summary, size in rows
        ]

    def back_to(self, number: int) -> Changes:
        """Return what leads from now to the configuration of a revision; NotFound where it is not kept."""
        with self._reported("read"):
            kept = self._connection.execute("SELECT 1 FROM revisions WHERE number = ?", (number,)).fetchone()
            # The newest first, so that of several changes of one object the first after ``number`` is what stays.
            rows = self._connection.execute(
                "SELECT kind, name, before FROM changes WHERE revision > ? ORDER BY revision DESC", (number,)
            ).fetchall()
            now = self._documents(*Kind)
        if kept is None:
            raise NotFound("revision not found", field="revision", cause=f"{number} is not kept")
        then: dict[Kind, dict[str, str | None]] = {kind: {} for kind in Kind}
        for kind, name, before in rows:
            then[Kind(kind)][name] = before
        different = {
            kind: {name: text for name, text in texts.items() if text != now[kind].get(name)}
            for kind, texts in then.items()
        }
        return self._changes(different, now)

    def _services(self) -> Mapping[ServiceKey, Service]:
        try:
            return services_in(pages(self._connection, Kind.SERVICE))
        except UnreadableError:  # one by one, to name it
            documents = self._documents(Kind.SERVICE)
            return cast("Mapping[ServiceKey, Service]", self._changes(documents, documents).services)

    def _documents(self, *kinds: Kind) -> Documents:
        query = "SELECT name, document FROM objects WHERE kind = ?"
        return {kind: dict(self._connection.execute(query, (kind.value,))) for kind in kinds}

    def _changes(self, documents: Documents, known: Documents) -> Changes:
        try:
            return changes_of(documents, known)
        except UnreadableError as error:
            raise damaged(self._path, str(error)) from error

    def _prune(self) -> None:
        """Forget the oldest revisions that are too many, or change too many objects together; never the newest."""
        execute = self._connection.execute
        count, total = execute("SELECT count(*), sum(size) FROM revisions").fetchone()
        while count > 1 and (count > self._retention.revisions or total > self._retention.changes):
            number, size = execute("SELECT number, size FROM revisions ORDER BY number LIMIT 1").fetchone()
            execute("DELETE FROM revisions WHERE number = ?", (number,))
            count, total = count - 1, total - size

    @contextmanager
    def _durably(self, operation: str) -> Iterator[None]:
        """Run a transaction that is on the disk when it ends, or not there at all."""
        with self._reported(operation):
            try:
                begin(self._connection)
                yield
                self._connection.execute("COMMIT")
            finally:
                give_up(self._connection)

    @contextmanager
    def _reported(self, operation: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise store_error(operation, self._path, error) from error
