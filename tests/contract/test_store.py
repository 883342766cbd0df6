# SPDX-License-Identifier: Apache-2.0
"""What every store does: one suite for the one on disk and the one in memory."""

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from msgspec.structs import fields, replace

from loxilb.errors import NotFound, StoreError
from loxilb.model import IPNetwork, L4Protocol, LossPolicy, Mode, Probe, Selection, Service, ServiceKey
from loxilb.model.probe import HealthCheck, HostState, MonitoredEndpoint, ProbeKind
from loxilb.model.revision import LOG_LEVEL, Author, Changes, Configured
from loxilb.services.store import Retention, SqliteStore
from tests.support.services import key, service

ME = Author(address="10.0.0.1", agent="loxicmd")
NETWORKS: tuple[IPNetwork, ...] = (ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16"))
FULL = service(
    ("31.31.31.1,8080,3", "32.32.32.1,8080"),
    mode=Mode.FULLNAT,
    selection=Selection.PERSIST,
    name="default_web:llb-inst0",
    private_address=ip_address("172.16.0.9"),
    monitor=True,
    bgp=True,
    managed=True,
    inactive_timeout=77,
    persist_timeout=99,
    probe=Probe(kind="http", port=81, request="health", response="OK", period=7, retries=4),
    allowed_sources=NETWORKS,
    security=2,
    proxy_protocol_v2=True,
    egress=True,
    half_open_limit=1000,
    loss=LossPolicy.DRAIN,
    drain_timeout=90,
)
SIX = service(("4ffe::1,80",), of=key("2001::1", 80, L4Protocol.UDP, port_max=82), inactive_timeout=20)
PATHS = service(
    of=key("20.20.20.3", 3, L4Protocol.SCTP, block=7, host="a.example"),
    inactive_timeout=240,
    secondary_addresses=(ip_address("20.20.20.4"),),
    slow_start=30,
)
TOLD = MonitoredEndpoint(
    address=ip_address("31.31.31.1"),
    check=HealthCheck(kind=ProbeKind.HTTPS, port=443, request="a", response="b", period=3, retries=5),
    name="web one",
)
RED = {"31.31.31.1_tcp_8080": HostState.RED}

Reopen = Callable[[], SqliteStore]


@pytest.fixture(params=["memory", "disk"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Return a way to open the store again; the one in memory stays the one it was."""
    yield from _reopened(request.param, tmp_path, Retention(revisions=5, changes=20))


@pytest.fixture(params=["memory", "disk"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Return the same for a store that keeps the history of large writes."""
    yield from _reopened(request.param, tmp_path, Retention())


def _reopened(kind: str, folder: Path, retention: Retention) -> Iterator[Reopen]:
    path = folder / "new" / "store.db" if kind == "disk" else None
    opened = [SqliteStore.open(path, retention)]

    def again() -> SqliteStore:
        if path is not None and opened:
            opened.pop().close()
        if not opened:
            opened.append(SqliteStore.open(path, retention))
        return opened[0]

    yield again
    opened[0].close()


def put(store: SqliteStore, *services: Service, time: float = 1.0) -> int:
    number = store.record(Changes(services={one.key: one for one in services}), ME, "put", time).finish()
    store.confirm(number)
    return number


def numbers(store: SqliteStore) -> list[int]:
    return [one.number for one in store.revisions(100)]


def test_it_starts_empty(reopen: Reopen) -> None:
    """Number 0 says that nothing was ever written."""
    assert reopen().load() == Configured()
    assert reopen().revisions(10) == []


def test_every_field_is_in_what_is_stored_here() -> None:
    """A field that is new belongs into the services above, and into the body that the store keeps."""
    plain = service()
    unset = {
        one.name
        for one in fields(Service)
        if all(getattr(each, one.name) == getattr(plain, one.name) for each in (FULL, PATHS))
    }

    assert unset == set()


def test_everything_comes_back_as_it_was(reopen: Reopen) -> None:
    """Every field of every kind of object."""
    changes = Changes(
        services={FULL.key: FULL, SIX.key: SIX, PATHS.key: PATHS},
        endpoints={TOLD.name: TOLD},
        states=dict(RED),
        parameters={LOG_LEVEL: "trace"},
    )
    number = reopen().record(changes, ME, "all", 1.0).finish()
    reopen().confirm(number)

    assert reopen().load() == Configured(
        services={FULL.key: FULL, SIX.key: SIX, PATHS.key: PATHS},
        endpoints={TOLD.name: TOLD},
        states=RED,
        parameters={LOG_LEVEL: "trace"},
        revision=number,
    )


@pytest.mark.parametrize(
    "name", ["web\0one", "\x1a0\x1a1\0\x1a", "\x01\n\x7f", "\u2028 \N{GRINNING FACE}", "", 'a"b\\c{}', "\\u0000"]
)
def test_any_text_is_a_name(reopen: Reopen, name: str) -> None:
    """Also one that the database itself would cut; it is not mixed up with another one, and can be taken away."""
    states = {name: HostState.RED, name.replace("\0", ""): HostState.RED, f"{name}2": HostState.YELLOW}
    parameters = {name: name, LOG_LEVEL: "info"}
    number = reopen().record(Changes(states=dict(states), parameters=dict(parameters)), ME, "", 1.0).finish()
    reopen().confirm(number)
    assert (reopen().load().states, reopen().load().parameters) == (states, parameters)

    reopen().record(Changes(states={name: None}, parameters={name: "other"}), ME, "", 1.0).finish()
    assert name not in reopen().load().states
    assert reopen().load().parameters[name] == "other"
    assert reopen().back_to(number) == Changes(states={name: HostState.RED}, parameters={name: name})


def many(count: int, name: str = "") -> dict[ServiceKey, Service]:
    """Return so many services."""
    made = [service(of=key("20.20.20.9", port), name=name, inactive_timeout=240) for port in range(1, count + 1)]
    return {one.key: one for one in made}


@pytest.mark.parametrize("count", [20, 5000])
def test_an_abandoned_write_never_was(large: Reopen, count: int) -> None:
    """However large; one that is finished is not abandoned any more."""
    put(large(), FULL)
    store = large()

    recording = store.record(Changes(services=many(count) | {FULL.key: None}), ME, "", 2.0)
    recording.abandon()
    assert store.load() == Configured(services={FULL.key: FULL}, revision=1)
    assert numbers(store) == [1]

    recording = store.record(Changes(services=many(count) | {FULL.key: None}), ME, "", 2.0)
    number = recording.finish()
    recording.abandon()
    assert store.load() == Configured(services=many(count), revision=number, pending=True)


def test_a_large_write_is_undone_whole(large: Reopen) -> None:
    """What it made, what it changed and what it took away."""
    present = many(2500)
    first = large().record(Changes(services=present), ME, "", 1.0).finish()
    large().confirm(first)
    changed, gone = many(5000, "other"), list(present)[:1000]
    refused = large().record(Changes(services=changed | dict.fromkeys(gone)), ME, "", 2.0).finish()
    assert large().load().services == {one: changed[one] for one in changed.keys() - set(gone)}

    large().take_back(refused)

    assert large().load() == Configured(services=present, revision=first)


def test_what_a_large_write_fails_with_is_raised_when_it_is_finished(large: Reopen) -> None:
    """Though it happens in another thread; nothing has changed."""
    put(large(), FULL)
    store = large()
    store._connection.execute("PRAGMA query_only = ON")
    recording = store.record(Changes(services=many(1500)), ME, "", 1.0)

    with pytest.raises(StoreError, match="readonly"):
        recording.finish()

    store._connection.execute("PRAGMA query_only = OFF")
    assert store.load() == Configured(services={FULL.key: FULL}, revision=1)
    put(store, SIX)


def test_none_takes_away(reopen: Reopen) -> None:
    """Of every kind; the history knows of it."""
    reopen().record(
        Changes(
            services={FULL.key: FULL}, endpoints={TOLD.name: TOLD}, states=dict(RED), parameters={LOG_LEVEL: "info"}
        ),
        ME,
        "put",
        1.0,
    ).finish()
    gone = Changes(
        services={FULL.key: None}, endpoints={TOLD.name: None}, states=dict.fromkeys(RED), parameters={LOG_LEVEL: None}
    )
    number = reopen().record(gone, ME, "gone", 2.0).finish()
    reopen().confirm(number)

    assert reopen().load() == Configured(revision=2)


def test_revisions_say_who_when_and_what(reopen: Reopen) -> None:
    """The newest first, at most as many as asked for."""
    for number in range(1, 4):
        reopen().record(Changes(parameters={"one": str(number)}), ME, f"write {number}", 1000.5 + number).finish()

    newest, older = reopen().revisions(2)

    assert (newest.number, newest.time, newest.author, newest.summary, newest.size) == (3, 1003.5, ME, "write 3", 1)
    assert older.number == 2


def test_a_write_is_pending_until_it_is_confirmed(reopen: Reopen) -> None:
    """By itself, or by the next write."""
    first = reopen().record(Changes(services={FULL.key: FULL}), ME, "", 1.0).finish()
    assert reopen().load().pending
    reopen().confirm(first)
    assert not reopen().load().pending
    reopen().record(Changes(services={SIX.key: SIX}), ME, "", 2.0).finish()
    second = reopen().record(Changes(services={SIX.key: None}), ME, "", 3.0).finish()
    reopen().take_back(second)
    assert not reopen().load().pending


def test_what_is_taken_back_was_never_there(reopen: Reopen) -> None:
    """Neither in the configuration nor in the history; its number is not given again."""
    put(reopen(), FULL)
    other = replace(FULL, name="other", persist_timeout=0)
    refused = reopen().record(Changes(services={FULL.key: other, SIX.key: SIX}, states=dict(RED)), ME, "", 2.0).finish()
    reopen().take_back(refused)

    assert reopen().load() == Configured(services={FULL.key: FULL}, revision=1)
    assert put(reopen(), SIX) == refused + 1
    assert numbers(reopen()) == [refused + 1, 1]


def test_the_way_back_is_what_differs(reopen: Reopen) -> None:
    """What changed twice goes back to the value of then; what came and went is not named."""
    start = put(reopen(), FULL)
    put(reopen(), replace(FULL, name="second"))
    put(reopen(), replace(FULL, name="third"), SIX)
    reopen().record(Changes(services={SIX.key: None}, parameters={LOG_LEVEL: "info"}), ME, "", 4.0).finish()

    assert reopen().back_to(start) == Changes(services={FULL.key: FULL}, parameters={LOG_LEVEL: None})
    assert reopen().back_to(3) == Changes(services={SIX.key: SIX}, parameters={LOG_LEVEL: None})
    assert not reopen().back_to(4)


def test_the_way_back_takes_services_away(reopen: Reopen) -> None:
    """Also one whose name alone does not tell its key."""
    start = put(reopen(), FULL)
    put(reopen(), SIX)

    assert reopen().back_to(start) == Changes(services={SIX.key: None})


@pytest.mark.parametrize("number", [0, 7, -1])
def test_there_is_no_way_to_what_is_not_kept(reopen: Reopen, number: int) -> None:
    """It names the number."""
    put(reopen(), FULL)

    with pytest.raises(NotFound, match=f"{number} is not kept"):
        reopen().back_to(number)


def test_the_oldest_revisions_are_forgotten(reopen: Reopen) -> None:
    """As many are kept as was said; the configuration itself is whole."""
    for number in range(8):
        put(reopen(), replace(SIX, name=str(number)))

    assert numbers(reopen()) == [8, 7, 6, 5, 4]
    assert reopen().load().services == {SIX.key: replace(SIX, name="7")}
    assert reopen().back_to(4) == Changes(services={SIX.key: replace(SIX, name="3")})


def test_large_revisions_push_out_the_old_ones(reopen: Reopen) -> None:
    """But the newest is kept, however large it is."""
    many = [service(of=key(port=number)) for number in range(1, 16)]
    put(reopen(), FULL)
    put(reopen(), *many)
    assert numbers(reopen()) == [2, 1]
    put(reopen(), *(replace(one, name="again") for one in many))
    assert numbers(reopen()) == [3]


def test_a_failure_in_the_middle_changes_nothing(reopen: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails."""
    put(reopen(), FULL)
    store = reopen()

    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "_prune", fail)
    with pytest.raises(ZeroDivisionError):
        put(store, SIX)

    assert store.load() == Configured(services={FULL.key: FULL}, revision=1)
