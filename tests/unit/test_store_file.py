# SPDX-License-Identifier: Apache-2.0
"""The store's file: what is refused and left as it is, and what a full disk does."""

import sqlite3
from pathlib import Path

import pytest

from loxilb.errors import StoreError
from loxilb.model import Service
from loxilb.model.revision import Author, Changes, Configured
from loxilb.services.store import SqliteStore, place_of, remove
from tests.support.services import key, service

SERVICES = [service(of=key(port=number), name=f"service {number}") for number in range(1, 200)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the place of a store with services in it, closed."""
    place = tmp_path / "store.db"
    store = SqliteStore.open(place)
    put(store, *SERVICES)
    store.close()
    return place


def put(store: SqliteStore, *services: Service) -> None:
    changes = Changes(services={one.key: one for one in services})
    store.confirm(store.record(changes, Author(), "", 1.0).finish())


def run(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as other:
        other.execute(statement)
    other.close()


def test_a_write_is_in_the_log_once_it_is_finished(path: Path) -> None:
    """A copy of the files as they are on disk now has it."""
    store = SqliteStore.open(path)
    store.record(Changes(services={SERVICES[0].key: None}), Author(), "", 2.0).finish()
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    copy.with_name("copy.db-wal").write_bytes(path.with_name("store.db-wal").read_bytes())
    store.close()

    found = SqliteStore.open(copy)

    assert len(found.load().services) == len(SERVICES) - 1
    found.close()


def test_writes_are_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that must survive a power cut is, the note that it was carried out is not."""
    store = SqliteStore.open(path)
    modes = []
    prune = store._prune

    def note() -> None:
        modes.append(store._connection.execute("PRAGMA synchronous").fetchone()[0])
        prune()

    monkeypatch.setattr(store, "_prune", note)
    put(store, SERVICES[0])
    put(store, SERVICES[1])

    assert store._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert modes == [2, 2]  # FULL, also after the note
    store.close()


def test_what_was_read_ahead_is_returned_once(path: Path) -> None:
    """What is loaded later has what was written meanwhile."""
    store = SqliteStore.open(path)
    store.read_ahead()
    first = store.load()
    put(store, SERVICES[0].with_endpoints(SERVICES[0].endpoints[:1]))
    second = store.load()
    store.close()

    assert len(first.services) == len(SERVICES)
    assert len(second.services[SERVICES[0].key].endpoints) == 1


def test_damage_that_is_found_ahead_is_told_when_it_is_loaded(path: Path) -> None:
    """So that it is refused as without reading ahead."""
    run(path, "UPDATE objects SET document = 'x' WHERE name LIKE '% 7-7 %'")
    store = SqliteStore.open(path)
    store.read_ahead()

    with pytest.raises(StoreError, match="is damaged"):
        store.load()
    store.close()


def test_a_start_that_fails_meanwhile_closes_it(path: Path) -> None:
    """The file is not taken from under the thread that reads it, and is free then."""
    store = SqliteStore.open(path)
    store.read_ahead()
    ahead = store._ahead
    store.close()

    assert ahead is not None
    assert len(ahead.result(0).services) == len(SERVICES)
    SqliteStore.open(path).close()


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    """Names and addresses of a network are nobody else's business."""
    assert path.stat().st_mode & 0o077 == 0


def test_a_damaged_file_is_refused_and_stays(path: Path) -> None:
    """Pages overwritten in the middle."""
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 6] = b"\xff" * 4096 * 3
    path.write_bytes(content)

    with pytest.raises(
        StoreError, match=r"store\.db.*(malformed|damaged).*restore a copy of the file, or move it away"
    ):
        SqliteStore.open(path)
    assert path.read_bytes() == content


def test_what_is_no_database_is_refused_and_stays(path: Path) -> None:
    """Such as a text file named by mistake."""
    path.write_text("lbAttr: []\n" * 100)

    with pytest.raises(StoreError, match="not a database"):
        SqliteStore.open(path)
    assert path.read_text() == "lbAttr: []\n" * 100


def test_a_newer_schema_is_refused_and_stays(path: Path) -> None:
    """Cause and remedy are named; nothing is lost."""
    run(path, "PRAGMA user_version = 7")

    with pytest.raises(StoreError, match=r"newer loxilb \(schema 7, this one knows 1\).*start that one, or"):
        SqliteStore.open(path)

    run(path, "PRAGMA user_version = 1")
    store = SqliteStore.open(path)
    assert len(store.load().services) == len(SERVICES)
    store.close()


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """It keeps its tables."""
    path = tmp_path / "other.db"
    run(path, "CREATE TABLE mine (one)")

    with pytest.raises(StoreError, match="another program"):
        SqliteStore.open(path)
    run(path, "INSERT INTO mine VALUES (1)")


@pytest.mark.parametrize("count", [63, 64, 65, 128])
def test_all_services_are_read_however_many(tmp_path: Path, count: int) -> None:
    """Some at a time: none is left out at the end of a page."""
    store = SqliteStore.open(tmp_path / "store.db")
    wanted = [service(of=key(port=number)) for number in range(1, count + 1)]
    put(store, *wanted)

    assert store.load().services.keys() == {one.key for one in wanted}
    store.close()


UNKNOWN_MODE = '{"serviceArguments":{"port":7,"externalIP":"20.20.20.1","protocol":"tcp","mode":99},"endpoints":[]}'


ONE = (
    '{"serviceArguments":{"externalIP":"20.20.20.1","port":7,"protocol":"tcp"},'
    '"endpoints":[{"endpointIP":"10.0.0.1","targetPort":1,"weight":1}]}'
)
TWO = f"{ONE},{ONE}"


@pytest.mark.parametrize(
    "document", ['{"endpoints":[]}', "{", '{"serviceArguments":{"port":1,"externalIP":"x"}}', UNKNOWN_MODE, TWO]
)
def test_a_document_that_is_none_is_named(path: Path, document: str) -> None:
    """It is not dropped silently."""
    run(path, f"UPDATE objects SET document = '{document}' WHERE name LIKE '%% 7-7 %%'")
    store = SqliteStore.open(path)

    with pytest.raises(StoreError, match=r"damaged: service 20\.20\.20\.1 tcp 7-7 0"):
        store.load()
    store.close()


def test_two_daemons_do_not_share_a_store(path: Path) -> None:
    """The second is refused at its start."""
    store = SqliteStore.open(path)
    with pytest.raises(StoreError, match="another program uses it"):
        SqliteStore.open(path)
    store.close()
    SqliteStore.open(path).close()


def test_a_full_disk_refuses_the_write_and_nothing_else(path: Path) -> None:
    """Once there is room again, writes go on."""
    store = SqliteStore.open(path)
    before = store.load()
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    more = [service(of=key(port=number)) for number in range(1000, 1400)]

    with pytest.raises(StoreError, match=r"cannot write .*store\.db: .*full \(free space on its file system\)"):
        put(store, *more)
    assert store.load() == before

    store._connection.execute("PRAGMA max_page_count = 100000")
    put(store, *more)
    assert len(store.load().services) == len(SERVICES) + 400
    store.close()


def test_a_read_only_store_refuses_the_write(path: Path) -> None:
    """With what would help."""
    store = SqliteStore.open(path)
    before = store.load()
    store._connection.execute("PRAGMA query_only = ON")

    with pytest.raises(StoreError, match="make the file and its directory writable"):
        put(store, SERVICES[0])
    assert store.load() == before
    store.close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """It is a file."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match=r"file/store\.db"):
        SqliteStore.open(tmp_path / "file" / "store.db")


def test_a_write_costs_what_it_changes() -> None:
    """Rows written, not rows configured."""
    store = SqliteStore.open(None)
    put(store, *SERVICES)
    before = store._connection.total_changes
    put(store, service(of=SERVICES[0].key, name="new"))

    # Revision, change, object replaced, confirmations.
    assert store._connection.total_changes - before <= 6
    assert store.load() != Configured()
    store.close()


@pytest.mark.parametrize(
    ("wanted", "lasting", "place"),
    [
        ("none", "host", None),
        ("/srv/lb.db", "host", "/srv/lb.db"),
        ("", "host", "/var/lib/loxilb/host.db"),
        ("", "netns-blue", "/var/lib/loxilb/netns-blue.db"),
        ("", None, "/run/loxilb/store/c7.db"),
    ],
)
def test_the_place_follows_the_namespace(wanted: str, lasting: str | None, place: str | None) -> None:
    """What does not survive a reboot needs no lasting store."""
    assert place_of(wanted, lasting=lasting, identity="c7") == (place and Path(place))


def test_removing_a_store_leaves_no_side_file(path: Path) -> None:
    """And says whether there was one."""
    path.with_name("store.db-wal").touch()

    assert remove(path)
    assert list(path.parent.iterdir()) == []
    assert not remove(path)
    assert not remove(None)
