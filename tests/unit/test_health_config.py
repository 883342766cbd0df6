# SPDX-License-Identifier: Apache-2.0
"""What the verdict on endpoints does to services: plans, and the configuration service over a kernel in memory."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loxilb.errors import KernelError
from loxilb.kernel.fake import FakeDataPlane, FakeLinks, FakeVipHost
from loxilb.model import Counter, Mode, Selection, Service, ServiceKey
from loxilb.model.image import EndpointFlags, PutEndpoint, PutRing, PutRule
from loxilb.model.probe import Availability, EndpointKey
from loxilb.plan import Ledger, Limits, listeners_of, plan
from loxilb.ports import EndpointState
from loxilb.services.config import ConfigurationService
from loxilb.services.store import SqliteStore
from tests.support.services import key, service

UP, DOWN, DRAINING = Availability.UP, Availability.DOWN, Availability.DRAINING
CLIENT = ip_address("10.10.10.1")
SELECTIONS = (Selection.RR, Selection.HASH, Selection.PRIORITY)


def at(number: int, port: int = 8080, word: str = "tcp") -> EndpointKey:
    return EndpointKey(ip_address(f"{30 + number}.{30 + number}.{30 + number}.1"), word, port)


class Stage:
    """A configuration service over fakes, and what it reports."""

    def __init__(self, fake: FakeDataPlane | None = None) -> None:
        self.fake = fake or FakeDataPlane()
        self.links = FakeLinks()
        self.reported: list[dict[ServiceKey, Service | None]] = []
        self.service = ConfigurationService(
            data_plane=self.fake, vip_host=FakeVipHost(), links=self.links, store=SqliteStore.open(None)
        )
        self.service.watch(self)

    def services_changed(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        self.reported.append(dict(changes))

    async def active(self) -> list[bool]:
        (status,) = await self.service.services()
        return [one.state is not EndpointState.INACTIVE for one in status.endpoints]

    def taken(self, count: int = 24, port: int = 2020) -> set[int]:
        """Return the first number of the endpoints that so many new flows get; 0 for none."""
        listener = next(iter(listeners_of(service(of=key(port=port)))))
        slots = [self.fake.choose(listener, hashed=number * 7919) for number in range(count)]
        endpoints = self.fake.observe().endpoints
        return {endpoints[slot].address.packed[0] - 30 if slot else 0 for slot in slots}


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]], fake: FakeDataPlane | None = None) -> Stage:
    stage = Stage(fake)
    try:
        asyncio.run(scene(stage))
    finally:
        stage.service.close()
    return stage


@pytest.mark.parametrize("selection", SELECTIONS)
def test_one_that_is_down_takes_no_flow_until_it_is_up(selection):
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(selection=selection))
        await stage.service.set_availability({at(2): DOWN})
        assert (stage.taken(), await stage.active()) == ({1, 3}, [True, False, True])
        await stage.service.set_availability({at(2): UP})
        assert (stage.taken(), await stage.active()) == ({1, 2, 3}, [True, True, True])

    play(scene)


def test_one_that_drains_is_live_and_takes_no_flow():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.set_availability({at(2): DRAINING})
        assert (stage.taken(), await stage.active()) == ({1, 3}, [True, True, True])

    play(scene)


def test_slots_and_counters_stay():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        (listener,) = listeners_of(service())
        for port in range(3):
            stage.fake.connect(listener, CLIENT, port)
        before = stage.fake.observe().endpoints
        for state in (DOWN, DRAINING, DOWN, UP):
            await stage.service.set_availability({at(2): state})
            (status,) = await stage.service.services()
            assert [one.counter for one in status.endpoints] == [Counter(packets=1, bytes=40)] * 3
        assert stage.fake.observe().endpoints == before

    play(scene)


def test_without_any_endpoint_the_list_stays():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.set_availability({at(number): DOWN for number in (1, 2, 3)})
        assert await stage.active() == [False] * 3
        assert stage.taken() == {0}

    play(scene)


def test_only_the_services_that_use_it_change():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        await stage.service.put(service(("32.32.32.1,8080",), of=key(port=1)))
        await stage.service.put(service(("32.32.32.1,9",), of=key(port=2)))
        stage.fake.applied.clear()
        await stage.service.set_availability({at(2): DOWN})

    stage = play(scene)

    (ops,) = stage.fake.applied
    kinds = [type(op) for op in ops]
    assert [kinds.count(kind) for kind in (PutEndpoint, PutRing, PutRule)] == [2, 1, 2]
    assert len(kinds) == 5


def test_what_is_known_counts_for_services_that_come_later():
    async def scene(stage: Stage) -> None:
        await stage.service.set_availability({at(2): DOWN})
        await stage.service.put(service())
        assert stage.taken() == {1, 3}
        await stage.service.put(service(selection=Selection.HASH))
        assert stage.taken() == {1, 3}
        await stage.service.delete(key())
        await stage.service.set_availability({at(2): UP})
        await stage.service.put(service())
        assert stage.taken() == {1, 2, 3}

    play(scene)


def test_new_routes_do_not_raise_the_dead():
    async def scene(stage: Stage) -> None:
        await stage.service.put(service(mode=Mode.ONEARM))
        await stage.service.set_availability({at(2): DOWN})
        stage.links.routes = {at(number).address: ip_address("9.9.9.9") for number in (1, 2, 3)}
        await stage.service.refresh_sources()
        assert (stage.taken(), await stage.active()) == ({1, 3}, [True, False, True])

    play(scene)


@pytest.mark.parametrize("operations", [0, 1, 2])
def test_a_refusal_of_the_kernel_changes_nothing(operations):
    async def scene(stage: Stage) -> None:
        await stage.service.put(service())
        before = stage.fake.observe()
        stage.fake.fail_in(operations)
        with pytest.raises(KernelError):
            await stage.service.set_availability({at(2): DOWN})
        assert stage.fake.observe() == before
        assert await stage.active() == [True] * 3
        await stage.service.put(service(selection=Selection.HASH))
        assert stage.taken() == {1, 2, 3}

        await stage.service.set_availability({at(2): DOWN})
        assert stage.taken() == {1, 3}

    play(scene)


def test_every_change_is_reported_and_no_refused_one():
    one = service()

    async def scene(stage: Stage) -> None:
        await stage.service.put(one)
        stage.fake.fail_in(0)
        with pytest.raises(KernelError):
            await stage.service.put(service(("9.9.9.9,1",)))
        await stage.service.delete_all()

    stage = play(scene)

    first, last = stage.reported
    assert [each.endpoints for each in first.values() if each] == [one.endpoints]
    assert last == {key(): None}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_new_daemon_leaves_endpoints_that_were_down_until_it_has_probed_them(selection):
    async def first(stage: Stage) -> None:
        await stage.service.put(service(selection=selection))
        await stage.service.set_availability({at(2): DOWN})

    async def second(stage: Stage) -> None:
        assert await stage.service.start() == 1
        assert await stage.active() == [True, False, True]
        assert stage.taken() == {1, 3}
        assert stage.service.found_down == {at(2)}
        await stage.service.set_availability({at(2): UP})
        assert await stage.active() == [True] * 3
        assert stage.taken() == {1, 2, 3}

    stage = play(second, play(first).fake)

    assert [len(each.endpoints) for each in stage.reported[0].values() if each] == [3]


states = st.dictionaries(
    st.builds(at, st.integers(1, 3)), st.sampled_from([UP, DOWN, DRAINING]), min_size=1, max_size=3
)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(SELECTIONS), st.sampled_from([Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT]), states),
        max_size=8,
    )
)
def test_whatever_happens_to_endpoints_every_moment_is_right(steps):
    """The fake refuses what would be wrong for a moment; at the end the slice has those that are up, and no others."""
    fake, ledger = FakeDataPlane(), Ledger(Limits())
    known: dict[EndpointKey, Availability] = {}
    sources = {at(number).address: ip_address("9.9.9.9") for number in (1, 2)}
    for selection, mode, changes in steps:
        known |= changes
        wanted = replace(service(), selection=selection, mode=mode)
        planned = plan({wanted.key: wanted}, ledger, sources, known)
        fake.apply(planned.ops)
        planned.commit(ledger)
        again = plan({wanted.key: wanted}, ledger, sources, known)
        again.abandon(ledger)
        image = fake.observe()
        (ring,) = image.rings.values()
        took = {image.endpoints[slot].address for slot in ring}
        assert again.ops == ()
        assert took == {at(n).address for n in (1, 2, 3) if known.get(at(n), UP) is UP}
        for entry in image.endpoints.values():
            state = known.get(EndpointKey(entry.address, "tcp", entry.port), UP)
            assert (EndpointFlags.LIVE in entry.flags) == (state is not DOWN)
            assert entry.takes_flows == (state is UP)


def test_who_uses_an_endpoint_is_known_whenever_it_is_asked():
    """After many changes as after one; an endpoint without a service is used by nobody."""

    async def scene(stage: Stage) -> None:
        first, second = key(port=1), key(port=2)
        for port in (2, 1, 3):
            await stage.service.put(service(of=key(port=port)))
        await stage.service.delete(key(port=3))
        assert (await stage.service.users(at(1)), await stage.service.used()) == (
            [first, second],
            {at(1), at(2), at(3)},
        )
        await stage.service.put(service(("31.31.31.1,8080", "32.32.32.1,9"), of=second))
        await stage.service.delete(first)
        assert (await stage.service.users(at(1)), await stage.service.used()) == ([second], {at(1), at(2, 9)})
        assert await stage.service.users(at(2)) == []

    play(scene)
